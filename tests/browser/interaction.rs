//! What people do at the page. Each has a fleet of its own, and what has become of it is looked up on the nodes' disks.

use serde_json::Value;

use crate::rig::Rig;
use crate::scenario::play;

/// Plays a scenario on a new rig, and gives that.
fn played(scenario: &str) -> Rig {
    let rig = Rig::start();
    play(&rig, scenario);
    rig
}

/// The newest record of the history.
fn newest(rig: &Rig) -> Value {
    rig.fleet.history().pop().expect("nothing was asked for")
}

#[test]
fn somebody_signs_in_and_out_and_the_page_never_has_the_token() {
    assert_eq!(played("sign_in").fleet.newest_epoch(), 0, "nobody has asked for anything");
}

#[test]
fn a_deploy_is_reviewed_confirmed_and_watched_node_by_node() {
    let rig = played("deploy");
    rig.fleet.assert_all_run("one");
    let record = newest(&rig);
    assert_eq!((&record["via"], &record["verified"]["name"]), (&"ui".into(), &"ann".into()), "{record:#}");
}

#[test]
fn a_refusal_is_shown_with_the_nodes_own_words_and_is_asked_again() {
    played("refusal").fleet.assert_all_run("one");
}

#[test]
fn a_rollback_names_its_target_and_freezes_the_group() {
    let rig = played("rollback");
    rig.fleet.assert_all_run("one");
    assert_eq!(newest(&rig)["rollback"], true);
    assert_eq!(rig.fleet.json("freeze").unwrap()["by"], "ann");
}

#[test]
fn an_abort_before_the_commit_means_that_nobody_switches() {
    let rig = played("abort");
    assert_eq!(newest(&rig)["outcome"], "aborted");
    assert!(rig.fleet.nodes.iter().all(|node| node.current().is_none()));
}

#[test]
fn a_page_whose_agent_is_killed_comes_back_at_another_and_shows_the_true_end() {
    assert_eq!(newest(&played("failover"))["outcome"], "reverted");
}

#[test]
fn a_page_whose_agent_stands_still_does_not_call_itself_live() {
    played("silent_agent").fleet.assert_all_run("one");
}

#[test]
fn everything_is_done_without_a_script() {
    played("no_script").fleet.assert_all_run("one");
}

#[test]
fn a_deploy_needs_no_mouse() {
    played("keyboard").fleet.assert_all_run("one");
}

#[test]
fn what_changes_on_a_page_takes_nothing_out_of_anybodys_hands() {
    played("focus").fleet.assert_all_run("one");
}

#[test]
fn what_others_have_written_is_text() {
    played("untrusted_text");
}

#[test]
fn a_page_of_another_site_can_neither_ask_nor_frame_nor_read() {
    assert_eq!(played("other_site").fleet.newest_epoch(), 0, "somebody else's page has asked");
}

#[test]
fn the_colours_are_the_systems_until_somebody_chooses() {
    played("colours");
}

#[test]
#[ignore = "a measurement: make bench-page"]
fn a_thousand_nodes_change_within_two_seconds() {
    played("thousand_nodes");
}
