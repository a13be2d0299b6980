//! A switch that fails on one node takes the whole fleet back, without needing the store.

use std::path::Path;
use std::process::Command;

use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// A fleet with hooks that runs `one` and has `two` staged; its release of `one`.
fn fleet_on_one() -> (Fleet, String) {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    (fleet, release)
}

fn a_hook_that_fails_takes_everyone_back(hook: &str, step: &str) {
    let (fleet, release) = fleet_on_one();
    fleet.hide_store();
    fleet.nodes[2].fail(hook, "the app does not answer on :8080");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--output", "json"]);
    assert_eq!(output.code, 9, "{output}");
    assert_eq!(fleet.assert_all_run("one"), release, "everyone is on the very same release as before");
    let record = &output.json()["record"];
    assert_eq!(record["outcome"], "reverted", "{record:#}");
    assert_eq!(record["node"], "web-3", "{record:#}");
    for name in ["web-1", "web-2", "web-3"] {
        assert_eq!(record["nodes"][name]["answer"], "reverted", "{record:#}");
    }
    let last = &fleet.json("status").unwrap()["last"];
    assert_eq!(last["step"], step, "{last:#}");
    assert!(last["output"].as_str().unwrap_or_default().contains("does not answer on :8080"), "{last:#}");
    for node in &fleet.nodes {
        assert_eq!(node.hooks_run().last().map(String::as_str), Some("reverted"), "{}", node.name);
        assert!(
            node.hook_env("reverted")
                .contains(&format!("CUTOVER_RELEASE_PATH={}", node.deploy_to.join(&release).display()))
        );
    }
    fleet.nodes[2].mend(hook);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_failed_switched_hook_on_one_node_reverts_the_fleet() {
    a_hook_that_fails_takes_everyone_back("switched", "switched_hook");
}

#[test]
fn a_failed_check_on_one_node_reverts_the_fleet() {
    a_hook_that_fails_takes_everyone_back("check", "check_hook");
}

#[test]
fn a_first_deploy_that_fails_leaves_no_current_behind() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    fleet.nodes[1].fail("check", "no");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 9, "{output}");
    for node in &fleet.nodes {
        assert_eq!(node.current(), None, "{}", node.name);
    }
}

fn chattr(flag: &str, path: &Path) -> bool {
    Command::new("chattr").arg(flag).arg(path).status().unwrap().success()
}

#[test]
fn a_link_that_cannot_be_switched_on_one_node_reverts_the_fleet() {
    assert!(rustix::process::geteuid().is_root(), "this test makes a directory immutable (chattr +i): run it as root");
    let (fleet, release) = fleet_on_one();
    fleet.nodes[0].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--output", "json"]);
    wait_until(LIMIT, "web-2 is prepared", || {
        let epoch = fleet.json("barrier").filter(|it| it["phase"] == "prepare")?["epoch"].clone();
        fleet.json("acks/web-2").filter(|ack| ack["answer"] == "prepared" && ack["epoch"] == epoch)
    });
    let stubborn = fleet.nodes[1].deploy_to.clone();
    assert!(chattr("+i", &stubborn), "chattr +i needs ext4, xfs or btrfs below $TMPDIR");
    fleet.at_end({
        let stubborn = stubborn.clone();
        move || {
            chattr("-i", &stubborn);
        }
    });
    fleet.nodes[0].release("prepare");
    let output = deploy.finish();
    assert_eq!(output.code, 9, "{output}");
    assert_eq!(fleet.assert_all_run("one"), release);
    let record = &output.json()["record"];
    assert_eq!(record["node"], "web-2", "{record:#}");
    assert_eq!(record["fault"]["step"], "switch", "{record:#}");
    assert!(chattr("-i", &stubborn));
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn an_abort_during_the_switch_reverts_the_fleet() {
    let (fleet, release) = fleet_on_one();
    fleet.nodes[1].hold("check");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[1].wait_hook("check");
    let abort = fleet.begin(&["abort", UNIT]);
    let output = deploy.finish();
    assert_eq!(output.code, 9, "{output}");
    assert_eq!(fleet.assert_all_run("one"), release);
    let output = abort.finish();
    assert_eq!(output.code, 0, "{output}");
}
