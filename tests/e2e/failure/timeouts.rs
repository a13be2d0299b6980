//! Deploys that are given up, before the switch or after it: why, at which node, and what becomes of the others.

use std::path::Path;

use serde_json::{Value, json};

use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::restart::agent_restarts::{impatient, wait_check};

/// Rounds of an abort that comes as the deploy commits.
const RACES: usize = 12;

#[test]
fn a_node_that_is_not_ready_in_time_stops_the_deploy_on_all() {
    let settings = |_: usize, _: &Path| "prepare_timeout = \"2s\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    fleet.nodes[1].hold("prepare");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--output", "json"]);
    assert_eq!(output.code, 4, "{output}");
    let record = &output.json()["record"];
    assert_eq!(record["outcome"], "aborted", "{record:#}");
    assert_eq!(record["node"], "web-2", "{record:#}");
    assert_eq!(record["fault"]["step"], "deadline", "{record:#}");
    assert_eq!(fleet.assert_all_run("one"), release);
    fleet.nodes[1].release("prepare");
    fleet.deployed("three");
    fleet.assert_all_run("three");
}

#[test]
fn a_switch_that_times_out_on_one_node_reverts_the_fleet() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings: impatient, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    fleet.nodes[2].hold("check");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--output", "json"]);
    assert_eq!(output.code, 9, "its hook is stopped, and it goes back with the others: {output}");
    let record = &output.json()["record"];
    assert_eq!(record["outcome"], "reverted", "{record:#}");
    assert_eq!(record["node"], "web-3", "{record:#}");
    assert_eq!(record["fault"]["step"], "deadline", "{record:#}");
    assert_eq!(fleet.assert_all_run("one"), release);
}

#[test]
fn a_node_that_cannot_revert_is_named_critical_and_reverts_when_it_can() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    fleet.nodes[0].fail("check", "does not answer");
    fleet.nodes[1].fail("reverted", "does not stop");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--output", "json"]);
    assert_eq!(output.code, 1, "the way back was not complete: {output}");
    let record = &output.json()["record"];
    assert_eq!(record["outcome"], "failed", "{record:#}");
    assert_eq!(record["node"], "web-1", "{record:#}");
    let answers = ["web-1", "web-2", "web-3"].map(|name| record["nodes"][name]["answer"].clone());
    assert_eq!(answers, ["reverted", "stuck", "reverted"], "{record:#}");
    assert!(record["nodes"]["web-2"]["fault"].to_string().contains("does not stop"), "{record:#}");
    wait_check(&fleet, 1, "critical");
    wait_check(&fleet, 0, "passing");
    fleet.nodes[0].mend("check");
    fleet.nodes[1].mend("reverted");
    wait_check(&fleet, 1, "passing");
    assert_eq!(fleet.assert_all_run("one"), release);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_node_that_leaves_consuls_catalog_during_the_switch_stops_nothing() {
    let mut fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let leaves = (fleet.coordinator() + 1) % 3;
    let name = fleet.nodes[leaves].name.clone();
    fleet.nodes[leaves].hold("check");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--output", "json"]);
    fleet.nodes[leaves].wait_hook("check");
    fleet.kill(leaves);
    // Scaled in: its Consul agent leaves, and with it the node.
    fleet.with_cluster(async |cluster| cluster.stop(leaves + 1).await.unwrap());
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    let record = &output.json()["record"];
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["left_out"], json!([name]), "{record:#}");
    let others: Vec<&Node> = fleet.nodes.iter().filter(|node| node.name != name).collect();
    assert!(others.iter().all(|node| node.read("current/version").as_deref() == Some("two")));
    // While it left, Consul's agent has registered itself once more; Consul's leader mends that within a minute.
    let node = json!({"Node": format!("n{}", leaves + 2)}).to_string();
    assert_eq!(fleet.consul.call("PUT", "catalog/deregister", node.as_bytes()).unwrap().status, 200);
    // Nor does it stop the next deploy, or hold it up as one that is merely away would.
    let record = fleet.put_deploy("{\"ref\":\"master\",\"again\":true}");
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["left_out"], json!([name]), "{record:#}");
    assert!(record["nodes"][&name].is_null(), "{record:#}");
}

#[test]
fn an_abort_at_the_moment_of_the_commit_leaves_no_mixed_fleet() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("first");
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for race in 0..RACES {
        let before = fleet.nodes[0].current();
        fleet.publish_and_stage(&format!("v{race}"));
        let epoch = fleet.newest_epoch();
        let record = fleet.outcome_of(|| {
            fleet.consul(&["kv", "put", &format!("{PREFIX}deploy"), "master"]);
            let barrier: Value = wait_until(LIMIT, "it begins", || {
                fleet.json("barrier").filter(|it| it["epoch"].as_u64() > Some(epoch) && it["phase"] != "idle")
            });
            // By hand, as anybody may who has the right.
            fleet.consul(&["kv", "put", &format!("{PREFIX}abort"), &barrier["epoch"].to_string()]);
        });
        let outcome = record["outcome"].as_str().unwrap();
        *seen.entry(outcome.to_owned()).or_default() += 1;
        let wanted = match outcome {
            "done" => Some(format!("releases/{}", record["release"].as_str().unwrap())),
            "aborted" | "reverted" => before,
            other => panic!("{other}: {record:#}"),
        };
        assert_eq!(outcome == "aborted", record["committed_at"].is_null(), "{record:#}");
        for node in &fleet.nodes {
            assert_eq!(node.current(), wanted, "{}: {record:#}", node.name);
        }
    }
    eprintln!("{seen:?}");
}
