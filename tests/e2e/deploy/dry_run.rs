//! `--dry-run`: the nodes say themselves what would happen, and nothing does.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::{Fleet, FleetSpec, UNIT};

/// No prefetching: what would be fetched is to be seen.
fn no_prefetch(_: usize, _: &Path) -> String {
    "prefetch = []\n".to_owned()
}

fn node<'a>(document: &'a Value, name: &str) -> &'a Value {
    let nodes = document["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == name).unwrap_or_else(|| panic!("no {name} in {document:#}"))
}

/// The finding of a node about one thing.
fn finding<'a>(node: &'a Value, about: &str) -> &'a Value {
    let findings = node["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["about"] == about).unwrap_or_else(|| panic!("no {about} in {node:#}"))
}

#[test]
fn every_node_says_what_it_would_fetch_and_nothing_changes() {
    let fleet = Fleet::start(&FleetSpec { settings: no_prefetch, ..FleetSpec::default() });
    let one = fleet.publish("one");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    let release = fleet.assert_all_run("one");
    let two = fleet.publish("two");
    let asked = fleet.entry("deploy").unwrap().modify_index;
    let output = fleet.cutover(&["deploy", UNIT, "master", "--dry-run", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let document = output.json();
    assert_eq!(document["would_go"], true, "{document:#}");
    assert_eq!(document["code"], 0, "{document:#}");
    assert_eq!(document["from"]["artifact"], one.artifact.as_str());
    assert_eq!(document["to"]["artifact"], two.artifact);
    assert_eq!(document["to"]["commit"], two.commit);
    for name in ["web-1", "web-2", "web-3"] {
        let node = node(&document, name);
        assert_eq!(node["heard"], "answered");
        assert_eq!(node["runs"]["artifact"], one.artifact.as_str());
        assert!(node["figures"]["fetch_bytes"].as_u64().unwrap() > 0, "{node:#}");
        assert_eq!(finding(node, "store")["mark"], "good");
        assert_eq!(finding(node, "space")["mark"], "good");
    }
    let coordinator = &fleet.nodes[fleet.coordinator()].name;
    assert_eq!(finding(node(&document, coordinator), "rules")["mark"], "good");
    assert_eq!(fleet.assert_all_run("one"), release);
    assert_eq!(fleet.entry("deploy").unwrap().modify_index, asked, "nothing was requested");
    for node in &fleet.nodes {
        assert!(node.list(".cutover/staged").is_empty(), "nothing was fetched");
    }

    // What the release of a rollback needs lies on every disk.
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    let output = fleet.cutover(&["rollback", UNIT, "--dry-run", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let document = output.json();
    assert_eq!(document["to"]["release"], release.trim_start_matches("releases/"));
    for name in ["web-1", "web-2", "web-3"] {
        assert_eq!(node(&document, name)["figures"]["fetch_bytes"], 0);
    }
    fleet.assert_all_run("two");
}

#[test]
fn a_node_that_would_fail_says_so_and_what_to_do() {
    let settings = |_: usize, _: &Path| "prefetch = []\nlinked_files = [\".env\"]\n".to_owned();
    let furnish = |_: &Fleet, node: &crate::fleet::node::Node| {
        if node.name != "web-2" {
            std::fs::create_dir_all(node.deploy_to.join("shared")).unwrap();
            std::fs::write(node.deploy_to.join("shared/.env"), "").unwrap();
        }
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, furnish, ..FleetSpec::default() });
    fleet.publish("one");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--dry-run"]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stdout.starts_with("blocked: master-"), "{output}");
    assert!(output.stdout.contains("web-2: shared: linked_files has \".env\""), "{output}");
    assert!(output.stdout.contains("put the file there on this node"), "{output}");
    std::fs::write(fleet.nodes[1].deploy_to.join("shared/.env"), "").unwrap();
    // The store has lost the archive: every node that would have to fetch it says so.
    fleet.hide_store();
    let output = fleet.cutover(&["deploy", UNIT, "master", "--dry-run", "--output", "json"]);
    assert_eq!(output.code, 4, "{output}");
    let document = output.json();
    for name in ["web-1", "web-2"] {
        assert_eq!(finding(node(&document, name), "store")["mark"], "bad");
    }
    assert_eq!(fleet.newest_epoch(), 0, "nobody has asked for a deploy");
}

#[test]
fn a_node_that_does_not_answer_is_reported_as_no_answer_and_never_as_ok() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    // The coordinator is the other one: the node is only silent, its session lives on for a while.
    let silent = 1 - fleet.coordinator();
    fleet.nodes[silent].signal(Signal::STOP);
    let output = fleet.cutover(&["deploy", UNIT, "master", "--dry-run", "--output", "json"]);
    fleet.nodes[silent].signal(Signal::CONT);
    assert_eq!(output.code, 4, "{output}");
    let document = output.json();
    let name = &fleet.nodes[silent].name;
    assert_ne!(node(&document, name)["heard"], "answered", "{document:#}");
    assert!(node(&document, name)["findings"].as_array().unwrap().is_empty());
    assert!(document["headline"].as_str().unwrap().contains(&format!("{name}: no answer")), "{document:#}");
    assert_eq!(node(&document, &fleet.nodes[1 - silent].name)["heard"], "answered");
    // What it slept through it answers late, and nobody takes that for an answer to another question.
    let output = fleet.cutover(&["deploy", UNIT, "master", "--dry-run"]);
    assert_eq!(output.code, 0, "{output}");
}

#[test]
fn a_dry_run_refuses_with_the_same_exit_code_as_the_deploy() {
    let settings = |_: usize, _: &Path| "branches = [\"release\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    let one = fleet.publish("one");
    let dry = |what: &[&str]| {
        let mut arguments = vec!["deploy", UNIT, "--dry-run"];
        arguments.extend(what);
        fleet.cutover(&arguments)
    };
    let output = dry(&["nothing-like-that"]);
    assert_eq!(output.code, 3, "{output}");
    let output = dry(&["master"]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stdout.contains("is of branch master, and branches allows only"), "{output}");
    assert_eq!(fleet.cutover(&["freeze", UNIT, "--reason", "sale"]).code, 0);
    let output = dry(&["master"]);
    assert_eq!(output.code, 10, "{output}");
    assert!(output.stdout.contains("frozen by ann: sale"), "{output}");
    assert_eq!(fleet.cutover(&["unfreeze", UNIT]).code, 0);
    assert_eq!(fleet.cutover(&["build", "mark-bad", "shop", &one.artifact]).code, 0);
    assert_eq!(dry(&["master"]).code, 10);
    assert_eq!(fleet.newest_epoch(), 0, "nobody has asked for a deploy");
}
