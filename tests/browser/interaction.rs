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
fn sign_in_and_out_work_and_the_page_never_holds_the_token() {
    assert_eq!(played("sign_in").fleet.newest_epoch(), 0, "nobody has asked for anything");
}

#[test]
fn a_deploy_is_reviewed_confirmed_and_watched_node_by_node() {
    let rig = played("deploy");
    rig.fleet.assert_all_run("one");
    let record = newest(&rig);
    assert_eq!(record["via"], "ui", "{record:#}");
    assert_eq!(record["verified"]["name"], "ann", "{record:#}");
}

#[test]
fn a_refusal_shows_the_nodes_output_and_can_be_retried() {
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
fn after_an_abort_before_the_commit_no_node_switches() {
    let rig = played("abort");
    assert_eq!(newest(&rig)["outcome"], "aborted");
    assert!(rig.fleet.nodes.iter().all(|node| node.current().is_none()));
}

#[test]
fn a_page_whose_agent_is_killed_reconnects_to_another_and_shows_the_outcome() {
    assert_eq!(newest(&played("failover"))["outcome"], "reverted");
}

#[test]
fn a_page_whose_agent_hangs_does_not_show_live() {
    played("silent_agent").fleet.assert_all_run("one");
}

#[test]
fn everything_works_without_javascript() {
    played("no_script").fleet.assert_all_run("one");
}

#[test]
fn a_deploy_works_by_keyboard_alone() {
    played("keyboard").fleet.assert_all_run("one");
}

#[test]
fn page_updates_keep_focus_open_sections_and_typed_text() {
    played("focus").fleet.assert_all_run("one");
}

#[test]
fn untrusted_text_is_never_run_as_html() {
    played("untrusted_text");
}

#[test]
fn another_site_cannot_send_requests_frame_pages_or_read_them() {
    assert_eq!(played("other_site").fleet.newest_epoch(), 0, "somebody else's page has asked");
}

#[test]
fn the_colour_scheme_follows_the_system_until_one_is_chosen() {
    played("colours");
}

#[test]
#[ignore = "a measurement: make bench-page"]
fn a_thousand_nodes_change_within_two_seconds() {
    played("thousand_nodes");
}
