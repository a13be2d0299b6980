//! A node that cannot make the release ready: nobody switches, and the node is named.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// Deploys `what`, and checks that it ends as aborted on `node` at `step`, on a fleet that still runs `one`.
fn assert_aborted(fleet: &Fleet, what: &str, (node, step): (&str, &str), words: &str) -> Value {
    let output = fleet.cutover(&["deploy", UNIT, what, "--output", "json"]);
    assert_eq!(output.code, 4, "{output}");
    let document = output.json();
    let record = &document["record"];
    assert_eq!(record["outcome"], "aborted", "{record:#}");
    assert_eq!(record["node"], node, "{record:#}");
    assert_eq!(record["fault"]["step"], step, "{record:#}");
    assert!(record["fault"].to_string().contains(words), "{words:?} is not in {}", record["fault"]);
    assert!(record["committed_at"].is_null(), "{record:#}");
    let last = &fleet.json("status").unwrap()["last"];
    assert_eq!(last["outcome"], "aborted");
    assert_eq!(last["node"], node);
    assert_eq!(last["step"], step);
    assert_eq!(last["reason"], record["fault"]["reason"]);
    record.clone()
}

#[test]
fn a_directory_named_current_stops_the_deploy_on_every_node() {
    let furnish = |_: &Fleet, node: &crate::fleet::node::Node| {
        if node.name == "web-2" {
            std::fs::create_dir_all(node.deploy_to.join("current/precious")).unwrap();
        }
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 2, furnish, ..FleetSpec::default() });
    let build = fleet.publish_and_stage("one");
    assert_aborted(&fleet, &build.artifact, ("web-2", "preflight"), "current");
    assert!(fleet.nodes[0].current().is_none(), "nobody has switched");
    assert!(fleet.nodes[1].deploy_to.join("current/precious").is_dir(), "and nothing was removed");
    std::fs::remove_dir_all(fleet.nodes[1].deploy_to.join("current")).unwrap();
    let output = fleet.cutover(&["deploy", UNIT, &build.artifact]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
}

#[test]
fn a_prepare_hook_that_fails_on_one_node_stops_the_deploy_on_all() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    fleet.nodes[1].fail("prepare", "no database here");
    let record = assert_aborted(&fleet, "master", ("web-2", "prepare_hook"), "no database here");
    assert_eq!(fleet.assert_all_run("one"), release);
    let left = format!("releases/{}", record["release"].as_str().unwrap());
    wait_until(LIMIT, "every node discards what the epoch made", || {
        fleet.nodes.iter().all(|node| node.read(&format!("{left}/version")).is_none()).then_some(())
    });
    fleet.nodes[1].mend("prepare");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn an_archive_that_was_changed_after_it_was_published_is_not_deployed() {
    // Not fetched ahead of time: the damage is to be met during the deploy.
    let settings = |_: usize, _: &Path| "prefetch = []\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let one = fleet.publish("one");
    assert_eq!(fleet.cutover(&["deploy", UNIT, &one.artifact]).code, 0);
    let release = fleet.assert_all_run("one");
    let two = fleet.publish("two");
    let object = fleet.archive(&two);
    let whole = std::fs::read(&object).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    std::fs::write(&object, &damaged).unwrap();
    let output = fleet.cutover(&["deploy", UNIT, &two.artifact]);
    assert_eq!(output.code, 4, "{output}");
    let last = fleet.json("status").unwrap()["last"].clone();
    assert_eq!(last["outcome"], "aborted", "{last:#}");
    assert_eq!(last["step"], "verify", "{last:#}");
    assert_eq!(fleet.assert_all_run("one"), release);
    std::fs::remove_file(&object).unwrap();
    let output = fleet.cutover(&["deploy", UNIT, &two.artifact]);
    assert_eq!(output.code, 4, "{output}");
    assert_eq!(fleet.json("status").unwrap()["last"]["step"], "fetch");
    std::fs::write(&object, &whole).unwrap();
    let output = fleet.cutover(&["deploy", UNIT, &two.artifact]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_full_disk_on_one_node_stops_the_deploy_on_all() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts a small tmpfs as a node's disk: run it as root");
    let furnish = |fleet: &Fleet, node: &crate::fleet::node::Node| {
        if node.name == "web-2" {
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(&node.deploy_to).status();
            assert!(mounted.unwrap().success(), "mount -t tmpfs failed; containers need CAP_SYS_ADMIN for it");
            let disk = node.deploy_to.clone();
            fleet.at_end(move || {
                _ = Command::new("umount").arg("-l").arg(disk).status();
            });
        }
    };
    let settings = |_: usize, _: &Path| "prefetch = []\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, furnish, settings, ..FleetSpec::default() });
    let small_disk = fleet.nodes[1].deploy_to.clone();
    let one = fleet.publish("one");
    assert_eq!(fleet.cutover(&["deploy", UNIT, &one.artifact]).code, 0);
    let release = fleet.assert_all_run("one");
    let big = fleet.publish_with("big", |tree| {
        let noise: Vec<u8> = (0..5_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(tree.join("noise"), noise).unwrap();
    });
    assert_aborted(&fleet, &big.artifact, ("web-2", "unpack"), "unpacked under");
    assert_eq!(fleet.assert_all_run("one"), release);
    let grown = Command::new("mount").args(["-o", "remount,size=128m"]).arg(&small_disk).status();
    assert!(grown.unwrap().success());
    let output = fleet.cutover(&["deploy", UNIT, &big.artifact]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("big");
}

#[test]
fn an_abort_during_prepare_stops_the_deploy() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    fleet.nodes[0].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[0].wait_hook("prepare");
    let abort = fleet.cutover(&["abort", UNIT]);
    assert_eq!(abort.code, 0, "{abort}");
    let output = deploy.finish();
    assert_eq!(output.code, 4, "{output}");
    fleet.nodes[0].release("prepare");
    assert_eq!(fleet.assert_all_run("one"), release);
    let last = fleet.json("status").unwrap()["last"].clone();
    assert_eq!(last["outcome"], "aborted", "{last:#}");
    assert_eq!(last["step"], "abort", "{last:#}");
}
