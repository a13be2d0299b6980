//! Agents that are killed, stopped, away, or new.

use std::path::Path;

use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// Short limits, so that the tests do not wait for the long ones.
pub(crate) fn impatient(_: usize, _: &Path) -> String {
    "absence_grace = \"3s\"\nswitch_timeout = \"8s\"\nrevert_timeout = \"4s\"\n".to_owned()
}

/// The state of a node's own check: `passing`, `warning`, `critical`.
pub(crate) fn check_of(fleet: &Fleet, index: usize) -> Option<String> {
    let reply = fleet.consul.call("GET", "health/service/cutover?consistent", b"").ok()?;
    let instances: Vec<serde_json::Value> = serde_json::from_slice(&reply.body).ok()?;
    let consul_node = format!("n{}", index + 2);
    let instance = instances.iter().find(|it| it["Node"]["Node"] == consul_node.as_str())?;
    let checks = instance["Checks"].as_array()?;
    let own = checks.iter().find(|check| check["ServiceName"] == "cutover")?;
    Some(own["Status"].as_str()?.to_owned())
}

pub(crate) fn wait_check(fleet: &Fleet, index: usize, status: &str) {
    let what = format!("the check of {} is {status}", fleet.nodes[index].name);
    wait_until(LIMIT, &what, || check_of(fleet, index).filter(|it| it == status));
}

#[test]
fn an_agent_that_is_killed_while_it_prepares_aborts_the_deploy_and_joins_the_next() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings: impatient, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    let victim = (fleet.coordinator() + 1) % 3;
    fleet.nodes[victim].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--output", "json"]);
    fleet.nodes[victim].wait_hook("prepare");
    fleet.kill(victim);
    let output = deploy.finish();
    assert_eq!(output.code, 4, "{output}");
    let record = &output.json()["record"];
    let name = fleet.nodes[victim].name.as_str();
    assert_eq!(record["outcome"], "aborted", "{record:#}");
    assert_eq!(record["node"], name, "{record:#}");
    assert_eq!(record["fault"]["step"], "session", "{record:#}");
    assert_eq!(fleet.assert_all_run("one"), release);
    // Away for longer than the grace: the next one is refused by its name.
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert!(output.code == 4 && format!("{output}").contains(name), "{output}");
    fleet.nodes[victim].release("prepare");
    fleet.start_agent(victim);
    fleet.wait_for_presence(&[victim]);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_stopped_agent_ends_cleanly_and_resumes_its_session() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings: impatient, ..FleetSpec::default() });
    fleet.deployed("one");
    wait_check(&fleet, 1, "passing");
    let session = fleet.entry("nodes/web-2").unwrap().session.unwrap();
    let status = fleet.term(1);
    assert_eq!(status.code(), Some(0), "{status}");
    fleet.start_agent(1);
    wait_check(&fleet, 1, "passing");
    fleet.wait_for_presence(&[0, 1]);
    assert_eq!(fleet.entry("nodes/web-2").unwrap().session.unwrap(), session, "it was never away");
    fleet.deployed("two");
    fleet.assert_all_run("two");
}

#[test]
fn an_absent_node_is_left_out_if_the_policy_says_so_and_catches_up() {
    let settings = |index: usize, dir: &Path| impatient(index, dir) + "absent_nodes = \"skip\"\nmin_nodes = 2\n";
    let fleet = Fleet::start(&FleetSpec { settings, ..FleetSpec::default() });
    fleet.deployed("one");
    let away = (fleet.coordinator() + 1) % 3;
    fleet.kill(away);
    let name = fleet.nodes[away].name.clone();
    wait_until(LIMIT, "its session ends", || {
        fleet.entry(&format!("nodes/{name}")).filter(|entry| entry.session.is_none())
    });
    let two = fleet.publish_and_stage("two");
    let record = wait_until(LIMIT, "the grace is over", || {
        let output = fleet.cutover(&["deploy", UNIT, &two.artifact, "--output", "json"]);
        (output.code == 0).then(|| output.json()["record"].clone())
    });
    assert_eq!(record["left_out"], serde_json::json!([name]), "{record:#}");
    assert_eq!(fleet.nodes[away].read("current/version").as_deref(), Some("one"));
    fleet.start_agent(away);
    wait_until(LIMIT, "the node catches up", || {
        (fleet.nodes[away].read("current/version").as_deref() == Some("two")).then_some(())
    });
    wait_check(&fleet, away, "passing");
    fleet.assert_all_run("two");
}

#[test]
fn a_new_node_takes_up_what_is_committed_and_is_critical_until_then() {
    let fleet = Fleet::start(&FleetSpec { late: &[2], hooks: true, ..FleetSpec::default() });
    let build = fleet.publish_and_stage("one");
    let output = fleet.cutover(&["deploy", UNIT, &build.artifact]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.nodes[2].current(), None);
    // It cannot make the release ready yet, so that the time before is long enough to be seen.
    fleet.nodes[2].fail("prepare", "not yet");
    fleet.start_agent(2);
    wait_check(&fleet, 2, "critical");
    fleet.nodes[2].mend("prepare");
    wait_until(LIMIT, "the new node runs what the others run", || {
        (fleet.nodes[2].current() == fleet.nodes[0].current()).then_some(())
    });
    fleet.assert_all_run("one");
    wait_check(&fleet, 2, "passing");
    fleet.deployed("two");
    fleet.assert_all_run("two");
}

#[test]
fn a_coordinator_that_is_killed_in_prepare_is_replaced_and_the_deploy_ends() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings: impatient, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    let first = fleet.coordinator();
    let held = (first + 1) % 3;
    fleet.nodes[held].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--output", "json"]);
    fleet.nodes[held].wait_hook("prepare");
    // Dead for good, it is a member without a session: its successor aborts.
    fleet.kill(first);
    let output = deploy.finish();
    assert_eq!(output.code, 4, "{output}");
    let record = output.json()["record"].clone();
    let name = fleet.nodes[first].name.as_str();
    assert_eq!(record["outcome"], "aborted", "{record:#}");
    assert_eq!(record["node"], name, "{record:#}");
    assert_ne!(record["coordinator"], name);
    assert_eq!(fleet.assert_all_run("one"), release);
    fleet.nodes[held].release("prepare");
    fleet.start_agent(first);
    fleet.wait_for_presence(&[first]);
    // Back at once, it is a member as before: whoever coordinates then ends the deploy well.
    let second = fleet.coordinator();
    let held = (second + 1) % 3;
    fleet.nodes[held].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[held].wait_hook("prepare");
    fleet.kill(second);
    fleet.start_agent(second);
    fleet.nodes[held].release("prepare");
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_coordinator_that_is_killed_in_commit_is_replaced_and_the_deploy_ends() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let first = fleet.coordinator();
    let held = (first + 1) % 3;
    fleet.nodes[held].hold("check");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.wait_phase("commit");
    fleet.nodes[held].wait_hook("check");
    fleet.kill(first);
    fleet.start_agent(first);
    fleet.nodes[held].release("check");
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_node_that_dies_in_commit_is_named_and_reverts_when_it_returns() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings: impatient, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    let victim = fleet.coordinator();
    fleet.nodes[victim].hold("switched");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--output", "json"]);
    fleet.nodes[victim].wait_hook("switched");
    fleet.kill(victim);
    let output = deploy.finish();
    assert_eq!(output.code, 1, "the way back was not complete: {output}");
    let record = output.json()["record"].clone();
    let name = fleet.nodes[victim].name.as_str();
    assert_eq!(record["outcome"], "failed", "{record:#}");
    assert_eq!(record["node"], name, "{record:#}");
    let others = |node: &&Node| node.name != name;
    assert!(fleet.nodes.iter().filter(others).all(|node| node.current().as_ref() == Some(&release)));
    fleet.nodes[victim].release("switched");
    fleet.start_agent(victim);
    wait_until(LIMIT, "the node goes back", || {
        (fleet.nodes[victim].current().as_ref() == Some(&release)).then_some(())
    });
    fleet.wait_for_presence(&[victim]);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_consul_outage_touches_no_running_release() {
    let mut fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    fleet.with_cluster(async |cluster| cluster.kill(0).unwrap());
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 8, "{output}");
    assert_eq!(fleet.assert_all_run("one"), release);
    fleet.with_cluster(async |cluster| cluster.restart(0).await.unwrap());
    fleet.wait_for_presence(&[0, 1]);
    assert!(fleet.nodes.iter().all(Node::is_running));
    fleet.deployed("two");
    fleet.assert_all_run("two");
}
