//! `cutover rollback`.

use std::path::Path;

use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

#[test]
fn a_rollback_needs_neither_download_nor_unpacking_and_a_second_one_goes_further_back() {
    let fleet = Fleet::start(&FleetSpec::default());
    fleet.deployed("one");
    let one = fleet.assert_all_run("one");
    fleet.deployed("two");
    let two = fleet.assert_all_run("two");
    let three = fleet.deployed("three");
    fleet.assert_all_run("three");
    fleet.hide_store();
    let releases: Vec<_> = fleet.nodes.iter().map(|node| node.list("releases")).collect();
    let output = fleet.cutover(&["rollback", UNIT, "--reason", "three is slow", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.assert_all_run("two"), two, "the very release that ran before");
    let record = &output.json()["record"];
    assert_eq!(record["rollback"], true, "{record:#}");
    assert_eq!(record["why"], "three is slow", "{record:#}");
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.assert_all_run("one"), one);
    assert_eq!(fleet.nodes.iter().map(|node| node.list("releases")).collect::<Vec<_>>(), releases);
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 3, "nothing ran before that");
    let output = fleet.cutover(&["rollback", UNIT, "--to", &three.artifact]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("three");
    assert_eq!(fleet.cutover(&["rollback", UNIT, "--to", "master-00000000"]).code, 3);
    fleet.assert_all_run("three");
}

#[test]
fn a_rollback_checks_shared_files_as_a_deploy_does() {
    let furnish = |_: &Fleet, node: &Node| {
        std::fs::create_dir_all(node.deploy_to.join("shared")).unwrap();
        std::fs::write(node.deploy_to.join("shared/.env"), "SECRET=1\n").unwrap();
    };
    let settings = |_: usize, _: &Path| "linked_files = [\".env\"]\nlinked_dirs = [\"log\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, furnish, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.deployed("two");
    let env = fleet.nodes[1].deploy_to.join("shared/.env");
    std::fs::remove_file(&env).unwrap();
    for arguments in [&["rollback", UNIT, "--dry-run"][..], &["rollback", UNIT]] {
        let output = fleet.cutover(arguments);
        assert_eq!(output.code, 4, "{output}");
        let text = output.to_string();
        assert!(text.contains("web-2") && text.contains("linked_files has \".env\""), "{output}");
    }
    fleet.assert_all_run("two");
    // A deploy that fails still goes back to what runs, with the file or without it.
    fleet.nodes[0].fail("check", "three does not answer");
    std::fs::write(&env, "SECRET=2\n").unwrap();
    fleet.nodes[1].hold("check");
    fleet.publish_and_stage("three");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[1].wait_hook("check");
    std::fs::remove_file(&env).unwrap();
    fleet.nodes[1].release("check");
    assert_eq!(deploy.finish().code, 9);
    fleet.assert_all_run("two");
    fleet.nodes[0].mend("check");
    std::fs::write(&env, "SECRET=3\n").unwrap();
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
    assert_eq!(fleet.nodes[1].read("current/.env").as_deref(), Some("SECRET=3\n"));
}

#[test]
fn a_freeze_does_not_stop_a_rollback() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.deployed("two");
    fleet.consul(&["kv", "put", "cutover/shop/production/freeze", "holidays"]);
    let output = fleet.cutover(&["rollback", UNIT, "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
    assert!(output.json()["record"]["notes"].to_string().contains("holidays"), "{output}");
}

/// Reference: C7. The fleet is on its way back to "two". Taken after that, the rollback would lead to "one".
#[test]
fn a_rollback_during_a_revert_goes_back_one_release_and_not_two() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let two = fleet.deployed("two");
    let release = fleet.assert_all_run("two");
    fleet.publish_and_stage("three");
    fleet.nodes[0].hold("reverted");
    fleet.nodes[1].fail("check", "three does not answer");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[0].wait_hook("reverted");
    let before = fleet.newest_epoch();
    fleet.consul(&["kv", "put", &format!("{PREFIX}deploy"), r#"{"rollback":true,"by":"ann","id":"back-to-two"}"#]);
    fleet.nodes[0].release("reverted");
    let output = deploy.finish();
    assert_eq!(output.code, 9, "{output}");
    let record = wait_until(LIMIT, "the rollback is answered", || {
        let newest = fleet.history().pop()?;
        (newest["epoch"].as_u64()? > before).then_some(newest)
    });
    assert_eq!(record["id"], "back-to-two", "{record:#}");
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["artifact"], two.artifact.as_str(), "{record:#}");
    assert!(record["notes"].to_string().contains("the revert answers it"), "{record:#}");
    assert_eq!(fleet.assert_all_run("two"), release, "one release back");
    // The request is answered, and is not taken later either.
    assert_eq!(fleet.entry("deploy").unwrap().value, b"");
    // A rollback that is requested after the revert goes one release back from there.
    fleet.nodes[1].mend("check");
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
}

/// Reference: C7. A command that waits for its turn asks for the same rollback, and is told that it has happened.
#[test]
fn a_queued_rollback_is_not_requested_after_the_revert_that_it_waited_for() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.deployed("two");
    fleet.publish_and_stage("three");
    fleet.nodes[1].fail("check", "three does not answer");
    fleet.nodes[0].hold("reverted");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[0].wait_hook("reverted");
    let rollback = fleet.begin(&["rollback", UNIT, "--queue"]);
    wait_until(LIMIT, "the rollback waits", || rollback.said()[1].contains("waiting").then_some(()));
    fleet.nodes[0].release("reverted");
    assert_eq!(deploy.finish().code, 9);
    let output = rollback.finish();
    assert_eq!(output.code, 6, "{output}");
    assert!(output.to_string().contains("was reverted while the rollback waited"), "{output}");
    fleet.assert_all_run("two");
}
