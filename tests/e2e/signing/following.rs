//! A node that follows a deploy which it did not prepare checks the signature as well, before it switches.

use std::path::Path;

use serde_json::json;

use super::{Pair, pin, publish, restart};
use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// The third node does not coordinate, so the others decide without its rules.
fn lenient(index: usize, _: &Path) -> String {
    let coordinates = index != 2;
    format!("absence_grace = \"3s\"\nabsent_nodes = \"skip\"\nmin_nodes = 2\ncoordinate = {coordinates}\n")
}

fn lose(fleet: &Fleet, index: usize) {
    fleet.kill(index);
    let key = format!("nodes/{}", fleet.nodes[index].name);
    if let Some(session) = fleet.entry(&key).and_then(|entry| entry.session) {
        fleet.end_session(&session);
    }
}

#[test]
fn a_node_that_missed_a_rollback_does_not_run_what_it_never_verified() {
    let fleet = Fleet::start(&FleetSpec { settings: lenient, ..FleetSpec::default() });
    let ci = Pair::of(&fleet, "ci");
    let strict = &fleet.nodes[2];
    let before = publish(&fleet, "before", None);
    assert_eq!(fleet.cutover(&["deploy", UNIT, &before.artifact]).code, 0);
    let good = publish(&fleet, "good", Some(&ci));
    assert_eq!(fleet.cutover(&["deploy", UNIT, &good.artifact]).code, 0);
    pin(strict, &[&ci], true);
    restart(&fleet, &[2]);
    let runs = strict.current();

    lose(&fleet, 2);
    let record = wait_until(LIMIT, "the grace is over", || {
        let output = fleet.cutover(&["rollback", UNIT, "--output", "json"]);
        (output.code == 0).then(|| output.json()["record"].clone())
    });
    assert_eq!(record["left_out"], json!([strict.name]), "{record:#}");
    assert_eq!(fleet.nodes[0].read("current/version").as_deref(), Some("before"));

    fleet.start_agent(2);
    let words = format!("{} is not signed, and web-3 has require_signature for {UNIT}", before.artifact);
    wait_until(LIMIT, "it says why it stays", || {
        assert_eq!(strict.current(), runs, "it switched to what it never verified");
        fleet.cutover(&["status", UNIT]).stdout.contains(&words).then_some(())
    });
    assert_eq!(strict.current(), runs);

    // Signed meanwhile, it is followed without another deploy.
    publish(&fleet, "before", Some(&ci));
    wait_until(LIMIT, "it follows", || (strict.read("current/version").as_deref() == Some("before")).then_some(()));
    fleet.assert_all_run("before");
}

#[test]
fn a_node_without_the_running_release_takes_part_in_the_deploy_that_replaces_it() {
    let settings = |index: usize, _: &Path| format!("coordinate = {}\n", index == 0);
    let furnish = |fleet: &Fleet, node: &Node| {
        if node.name == "web-2" {
            pin(node, &[&Pair::of(fleet, "ci")], true);
        }
    };
    let fleet =
        Fleet::start(&FleetSpec { nodes: 2, late: &[1], hooks: true, settings, furnish, ..FleetSpec::default() });
    let (ci, [lax, strict]) = (Pair::of(&fleet, "ci"), [0, 1].map(|index| &fleet.nodes[index]));
    let running = publish(&fleet, "running", None);
    assert_eq!(fleet.cutover(&["deploy", UNIT, &running.artifact]).code, 0);
    fleet.start_agent(1);
    fleet.wait_for_presence(&[0, 1]);
    let words = format!("{} is not signed, and web-2 has require_signature for {UNIT}", running.artifact);
    let says = |what: &str| {
        wait_until(LIMIT, what, || fleet.cutover(&["status", UNIT]).stdout.contains(&words).then_some(()));
    };
    says("it does not join");
    assert_eq!(strict.current(), None);

    // A deploy of an unsigned build is refused there as ever.
    publish(&fleet, "unsigned", None);
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 4);

    // Reverted, the node stays where it is: it has nothing that it may go back to.
    let bad = publish(&fleet, "bad", Some(&ci));
    lax.fail("check", "no");
    let output = fleet.cutover(&["deploy", UNIT, &bad.artifact]);
    assert!(output.code != 0 && output.code != 4, "{output}");
    lax.mend("check");
    assert_eq!(lax.read("current/version").as_deref(), Some("running"));
    says("it says why it is stuck");
    assert_ne!(strict.read("current/version").as_deref(), Some("running"));

    let good = publish(&fleet, "good", Some(&ci));
    let output = fleet.cutover(&["deploy", UNIT, &good.artifact]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("good");
}
