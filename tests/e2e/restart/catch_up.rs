//! Nodes that were away, or are new: they come to what is committed, to nothing else, and say so only then.

use std::path::Path;

use serde_json::{Value, json};

use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::restart::agent_restarts::{check_of, impatient, wait_check};

fn lenient(index: usize, dir: &Path) -> String {
    impatient(index, dir) + "absent_nodes = \"skip\"\nmin_nodes = 2\n"
}

/// Kills a node's agent, and ends its session as Consul would in a while.
fn lose(fleet: &Fleet, index: usize) {
    fleet.kill(index);
    let key = format!("nodes/{}", fleet.nodes[index].name);
    if let Some(session) = fleet.entry(&key).and_then(|entry| entry.session) {
        fleet.end_session(&session);
    }
}

/// Waits until a node's check passes, and fails if it did so before the node was where the fleet is.
fn passes_only_when_it_is_there(fleet: &Fleet, index: usize, release: &str) {
    let node = &fleet.nodes[index];
    wait_until(LIMIT, &format!("the check of {} passes", node.name), || {
        check_of(fleet, index).filter(|status| status == "passing")?;
        // Read after the check: it had to be there before.
        assert_eq!(node.current().as_deref(), Some(release), "{} passes", node.name);
        Some(())
    });
}

#[test]
fn a_returning_node_runs_no_aborted_and_no_undecided_release() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings: lenient, ..FleetSpec::default() });
    let one = fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    let away = (fleet.coordinator() + 1) % 3;
    let other = (0..3).find(|index| *index != away && *index != fleet.coordinator()).unwrap();
    let name = fleet.nodes[away].name.clone();
    lose(&fleet, away);
    let judge = fleet.judge();
    fleet.publish_and_stage("two");
    fleet.nodes[other].fail("check", "no");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 9);
    fleet.nodes[other].mend("check");
    fleet.publish_and_stage("three");
    fleet.nodes[other].fail("prepare", "no");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 4);
    fleet.nodes[other].mend("prepare");
    let four = fleet.publish_and_stage("four");
    fleet.nodes[other].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--output", "json"]);
    fleet.nodes[other].wait_hook("prepare");
    fleet.start_agent(away);
    fleet.wait_for_presence(&[away]);
    wait_check(&fleet, away, "passing");
    assert_eq!(fleet.nodes[away].current(), Some(release), "the deploy is not decided");
    fleet.nodes[other].release("prepare");
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    let record = &output.json()["record"];
    assert_eq!(record["left_out"], json!([name]), "{record:#}");
    assert!(record["nodes"][&name].is_null(), "it is no member of what it did not begin with: {record:#}");
    wait_until(LIMIT, "it follows", || (fleet.nodes[away].current() == fleet.nodes[other].current()).then_some(()));
    fleet.assert_all_run("four");
    wait_check(&fleet, away, "passing");
    for hook in ["prepare", "switched"] {
        assert_eq!(fleet.nodes[away].hook_ran_for(hook), [one.artifact.clone(), four.artifact.clone()], "{hook}");
    }
    let verdict = judge.verdict();
    assert!(verdict.violations.is_empty(), "{verdict:#?}");
}

#[test]
fn a_node_that_reboots_into_another_release_passes_its_check_only_there() {
    let mut fleet = Fleet::start(&FleetSpec { hooks: true, settings: lenient, ..FleetSpec::default() });
    fleet.deployed("one");
    let away = (fleet.coordinator() + 1) % 3;
    wait_check(&fleet, away, "passing");
    lose(&fleet, away);
    fleet.with_cluster(async |cluster| cluster.kill(away + 1).unwrap());
    fleet.publish_and_stage("two");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    // It takes its time, so that the time before can be seen.
    fleet.nodes[away].hold("prepare");
    fleet.with_cluster(async |cluster| cluster.restart(away + 1).await.unwrap());
    fleet.start_agent(away);
    fleet.nodes[away].wait_hook("prepare");
    wait_check(&fleet, away, "critical");
    fleet.nodes[away].release("prepare");
    let other = (0..3).find(|index| *index != away).unwrap();
    passes_only_when_it_is_there(&fleet, away, &fleet.nodes[other].current().unwrap());
    fleet.assert_all_run("two");
}

#[test]
fn a_new_node_takes_the_committed_release_despite_a_freeze_and_a_bad_mark() {
    let fleet = Fleet::start(&FleetSpec { late: &[2], hooks: true, ..FleetSpec::default() });
    let one = fleet.deployed("one");
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "holidays"]);
    fleet.consul(&["kv", "put", &format!("cutover/shop/bad/{}", one.artifact), "leaks memory"]);
    fleet.nodes[2].fail("prepare", "not yet");
    fleet.start_agent(2);
    wait_check(&fleet, 2, "critical");
    fleet.nodes[2].mend("prepare");
    passes_only_when_it_is_there(&fleet, 2, &fleet.nodes[0].current().unwrap());
    fleet.assert_all_run("one");
}

/// What the check of the release says on the app's own service.
fn service_check(fleet: &Fleet, index: usize) -> Option<String> {
    let reply = fleet.consul.call("GET", "health/service/web?consistent", b"").ok()?;
    let instances: Vec<Value> = serde_json::from_slice(&reply.body).ok()?;
    let consul_node = format!("n{}", index + 2);
    let instance = instances.iter().find(|it| it["Node"]["Node"] == consul_node.as_str())?;
    let is_ours = |check: &&Value| check["CheckID"].as_str().is_some_and(|id| id.starts_with("cutover-release:"));
    Some(instance["Checks"].as_array()?.iter().find(is_ours)?["Status"].as_str()?.to_owned())
}

#[test]
fn the_apps_own_service_is_critical_while_its_node_is_behind_with_or_without_an_agent() {
    let settings = |_: usize, _: &Path| "service = \"web\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { late: &[2], hooks: true, settings, ..FleetSpec::default() });
    for index in 0..3 {
        let reply = fleet.local_consul(index).call("PUT", "agent/service/register", b"{\"Name\":\"web\"}").unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    fleet.deployed("one");
    let wait = |index: usize, status: &str| {
        wait_until(LIMIT, &format!("web is {status} on {}", fleet.nodes[index].name), || {
            let now = service_check(&fleet, index).filter(|now| now == status)?;
            let runs = fleet.nodes[index].read("current/version");
            assert!(now == "critical" || runs.as_deref() == Some("one"), "{now} with {runs:?}");
            Some(())
        });
    };
    wait(0, "passing");
    assert_eq!(service_check(&fleet, 2), None, "nobody has looked yet");
    fleet.nodes[2].hold("prepare");
    fleet.start_agent(2);
    fleet.nodes[2].wait_hook("prepare");
    wait(2, "critical");
    fleet.kill(2);
    fleet.nodes[2].release("prepare");
    assert_eq!(service_check(&fleet, 2).as_deref(), Some("critical"));
    fleet.start_agent(2);
    wait(2, "passing");
    fleet.kill(2);
    assert_eq!(service_check(&fleet, 2).as_deref(), Some("passing"), "the agent's end is not the application's");
}

#[test]
fn with_fewer_nodes_than_min_nodes_a_deploy_is_refused() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings: lenient, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    lose(&fleet, (fleet.coordinator() + 1) % 2);
    let output = fleet.cutover(&["deploy", UNIT, "master", "--output", "json"]);
    assert_eq!(output.code, 4, "{output}");
    let record = &output.json()["record"];
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert_eq!(record["fault"]["step"], "session", "{record:#}");
    assert!(record["fault"]["reason"].as_str().unwrap().contains("min_nodes is 2"), "{record:#}");
    fleet.assert_all_run("one");
}
