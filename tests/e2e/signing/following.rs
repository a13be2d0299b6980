//! A node that follows a deploy which it did not prepare checks the signature as well, before it switches.

use std::path::Path;

use serde_json::json;

use super::{Pair, pin, publish, restart};
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
