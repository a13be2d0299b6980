//! Rotation: two pinned keys, then the old one is withdrawn. What a node verified stays usable for a rollback.

use serde_json::json;

use super::again::sign;
use super::{Pair, pin, publish, restart, signers};
use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

#[test]
fn a_withdrawn_key_keeps_the_way_back_and_deploys_nothing() {
    let furnish = |fleet: &Fleet, node: &Node| pin(node, &[&Pair::of(fleet, "old")], true);
    let fleet = Fleet::start(&FleetSpec { nodes: 2, furnish, ..FleetSpec::default() });
    let (old, new) = (Pair::of(&fleet, "old"), Pair::of(&fleet, "new"));
    let deploy = |what: &str, code: i32| {
        let output = fleet.cutover(&["deploy", UNIT, what]);
        assert_eq!(output.code, code, "{output}");
        output
    };
    let one = publish(&fleet, "one", Some(&old));
    deploy(&one.artifact, 0);

    // Node by node: the settings differ until all have both keys.
    pin(&fleet.nodes[0], &[&old, &new], true);
    restart(&fleet, &[0]);
    wait_until(LIMIT, "the settings differ", || {
        let status = fleet.cutover(&["status", UNIT]);
        status.stdout.contains("config differs").then_some(())
    });
    pin(&fleet.nodes[1], &[&new, &old], true);
    restart(&fleet, &[1]);
    wait_until(LIMIT, "the settings are the same, whatever their order", || {
        let status = fleet.cutover(&["status", UNIT]);
        (!status.stdout.contains("config differs")).then_some(())
    });
    let two = publish(&fleet, "two", Some(&new));
    deploy(&two.artifact, 0);
    // Signed by the old key and unpacked ahead of time, but never deployed.
    let three = publish(&fleet, "three", Some(&old));
    fleet.wait_staged(&three);

    for node in &fleet.nodes {
        pin(node, &[&new], true);
        assert_eq!(signers(node)[&one.artifact], old.id.as_str());
    }
    restart(&fleet, &[0, 1]);
    let refused = deploy(&three.artifact, 4);
    let words = format!("is signed by key {}, which is not among [signatures] keys", old.id);
    assert!(refused.stdout.contains(&words), "{refused}");
    assert!(deploy(&one.artifact, 4).stdout.contains(&words), "a deploy of it is no rollback");

    let doctor = fleet.cutover(&["doctor", UNIT]);
    assert_eq!(doctor.code, 0, "{doctor}");
    let release = fleet.nodes[0].list("releases")[0].clone();
    let named = format!("verified by key {}, which is no longer pinned: release {release} ({})", old.id, one.artifact);
    let named = format!("{named}, staged {}", three.artifact);
    assert_eq!(doctor.stdout.matches(&named).count(), 2, "{named}: {doctor}");
    let builds = format!("builds signed by key {}, which is not pinned: {}, {}", old.id, one.artifact, three.artifact);
    let builds_turned =
        format!("builds signed by key {}, which is not pinned: {}, {}", old.id, three.artifact, one.artifact);
    assert!(doctor.stdout.contains(&builds) || doctor.stdout.contains(&builds_turned), "{doctor}");

    let dry = fleet.cutover(&["rollback", UNIT, "--dry-run"]);
    assert_eq!(dry.code, 0, "{dry}");
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");

    // Signed again with a key that is pinned, the build can be deployed again.
    let output = sign(&fleet, "three", &new, &["--replace-signature"]);
    assert_eq!(output.code, 0, "{output}");
    deploy(&three.artifact, 0);
    for node in &fleet.nodes {
        assert_eq!(signers(node)[&three.artifact], new.id.as_str());
    }
}

#[test]
fn what_ran_before_the_rule_can_be_reverted_to_and_not_rolled_back_to() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, hooks: true, ..FleetSpec::default() });
    let ci = Pair::of(&fleet, "ci");
    let before = publish(&fleet, "before", None);
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    pin(&fleet.nodes[0], &[&ci], true);
    restart(&fleet, &[0]);
    let doctor = fleet.cutover(&["doctor", UNIT]);
    let unsigned = format!("builds that are not signed, 1 in all: {}", before.artifact);
    assert!(doctor.code == 0 && doctor.stdout.contains(&unsigned), "{doctor}");

    publish(&fleet, "bad", Some(&ci));
    fleet.nodes[0].fail("check", "no");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 9, "{output}");
    fleet.assert_all_run("before");
    fleet.nodes[0].mend("check");
    publish(&fleet, "good", Some(&ci));
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    fleet.assert_all_run("good");

    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stdout.contains(&format!("{} is not signed", before.artifact)), "{output}");
    // The same build, signed: its record is checked, and its digest is that of the release.
    publish(&fleet, "before", Some(&ci));
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 0);
    fleet.assert_all_run("before");
}

#[test]
fn a_node_that_never_verified_a_release_refuses_to_go_back_to_it() {
    // Whoever coordinates has no rules, so the refusal is the node's.
    let settings = |index: usize, _: &std::path::Path| format!("coordinate = {}\n", index == 0);
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let ci = Pair::of(&fleet, "ci");
    let before = publish(&fleet, "before", None);
    assert_eq!(fleet.cutover(&["deploy", UNIT, &before.artifact]).code, 0);
    let good = publish(&fleet, "good", Some(&ci));
    assert_eq!(fleet.cutover(&["deploy", UNIT, &good.artifact]).code, 0);
    pin(&fleet.nodes[1], &[&ci], true);
    restart(&fleet, &[1]);
    let words = format!("{} is not signed, and web-2 has require_signature for {UNIT}", before.artifact);
    for options in [["rollback", UNIT].as_slice(), &["rollback", UNIT, "--dry-run"]] {
        let output = fleet.cutover(options);
        assert!(output.code == 4 && output.stdout.contains(&words), "{options:?}: {output}");
    }
    let forced = fleet.put_deploy(&json!({"rollback": true, "force": true, "by": "bob", "via": "chat"}).to_string());
    assert_eq!((&forced["outcome"], &forced["node"]), (&json!("aborted"), &json!("web-2")), "{forced:#}");
    assert!(forced["fault"]["reason"].as_str().unwrap().contains(&words), "{forced:#}");
    fleet.assert_all_run("good");
}
