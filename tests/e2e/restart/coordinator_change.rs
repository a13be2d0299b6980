//! Coordinators that are paused, leave, die, or are not there.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

/// The session that holds the lock, if any does.
fn holder(fleet: &Fleet) -> Option<String> {
    fleet.entry("coordinator").and_then(|entry| entry.session)
}

/// What only a coordinator writes, and where it stands in the log.
fn decided(fleet: &Fleet) -> Vec<(String, u64)> {
    let (_, keys) = fleet.consul.keys(PREFIX, "recurse&consistent").unwrap();
    let is_a_nodes =
        |key: &str| ["acks/", "nodes/", "coordinator"].iter().any(|it| key[PREFIX.len()..].starts_with(it));
    keys.into_iter().filter(|entry| !is_a_nodes(&entry.key)).map(|entry| (entry.key, entry.modify_index)).collect()
}

/// Pauses the coordinator, ends its session as Consul would in the end, and takes the lock in its place.
fn pause_and_replace(fleet: &Fleet, coordinator: usize) -> String {
    fleet.nodes[coordinator].signal(Signal::STOP);
    fleet.end_session(&holder(fleet).unwrap());
    let reply = fleet.consul.call("PUT", "session/create", b"{\"LockDelay\":\"0s\"}").unwrap();
    let session: Value = serde_json::from_slice(&reply.body).unwrap();
    let session = session["ID"].as_str().unwrap().to_owned();
    let reply = fleet.consul.call("PUT", &format!("kv/{PREFIX}coordinator?acquire={session}"), b"the test").unwrap();
    assert_eq!(reply.body, b"true", "nobody else stands for coordinator: {reply:?}");
    session
}

/// Lets the paused coordinator go on, until it knows that it is one no longer.
fn wake(fleet: &Fleet, coordinator: usize) {
    let words = "coordinates no longer";
    let before = fleet.nodes[coordinator].logged(words);
    fleet.nodes[coordinator].signal(Signal::CONT);
    wait_until(LIMIT, "it learns that its session has ended", || {
        (fleet.nodes[coordinator].logged(words) > before).then_some(())
    });
}

#[test]
fn a_coordinator_paused_beyond_its_session_changes_nothing() {
    let settings = |index: usize, _: &Path| if index == 0 { String::new() } else { "coordinate = false\n".to_owned() };
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    // Paused in the middle of a deploy: while it sleeps, the last answer comes that it has waited for.
    fleet.nodes[1].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[1].wait_hook("prepare");
    let answered = |index: usize| {
        let epoch = fleet.wait_phase("prepare")["epoch"].clone();
        let key = format!("acks/{}", fleet.nodes[index].name);
        wait_until(LIMIT, &key, || fleet.json(&key).filter(|ack| ack["epoch"] == epoch && ack["answer"] == "prepared"));
    };
    answered(0);
    answered(2);
    let session = pause_and_replace(&fleet, 0);
    let before = decided(&fleet);
    fleet.nodes[1].release("prepare");
    answered(1);
    wake(&fleet, 0);
    assert_eq!(decided(&fleet), before);
    fleet.assert_all_run("one");
    fleet.end_session(&session);
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
    // And at rest: a request comes that it would have taken.
    wait_until(LIMIT, "somebody coordinates", || holder(&fleet));
    let session = pause_and_replace(&fleet, 0);
    let requests = fleet.history().len();
    fleet.consul(&["kv", "put", &format!("{PREFIX}deploy"), "{\"ref\":\"master\",\"again\":true}"]);
    let before = decided(&fleet);
    wake(&fleet, 0);
    assert_eq!(decided(&fleet), before);
    let record = fleet.outcome_of(|| fleet.end_session(&session));
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(fleet.history().len(), requests + 1, "{record:#}");
}

#[test]
fn a_coordinator_that_stops_hands_over_first() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let first = fleet.coordinator();
    let held = (first + 1) % 3;
    fleet.nodes[held].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--output", "json"]);
    fleet.nodes[held].wait_hook("prepare");
    let session = holder(&fleet).unwrap();
    let status = fleet.term(first);
    assert_eq!(status.code(), Some(0), "{status}");
    assert_ne!(holder(&fleet), Some(session), "nobody waits for the end of a session");
    wait_until(LIMIT, "another coordinates", || holder(&fleet));
    fleet.start_agent(first);
    fleet.nodes[held].release("prepare");
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    assert_ne!(output.json()["record"]["coordinator"], fleet.nodes[first].name.as_str());
    fleet.assert_all_run("two");
}

/// When a coordinator goes, as its request's life has it.
#[derive(Clone, Copy, Debug)]
enum Moment {
    BeforeItIsAsked,
    AsItIsAsked,
    OnceItHasBegun,
    OnceItIsCommitted,
}

#[test]
fn a_request_is_taken_exactly_once_whenever_the_coordinator_changes() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let mut requests = fleet.history().len();
    for moment in [Moment::BeforeItIsAsked, Moment::AsItIsAsked, Moment::OnceItHasBegun, Moment::OnceItIsCommitted] {
        for is_killed in [false, true] {
            let (first, epoch) = (fleet.coordinator(), fleet.newest_epoch());
            let session = holder(&fleet).unwrap();
            let ran = |hook: &str| -> Vec<usize> {
                let count = |index: usize| fleet.nodes[index].hook_ran_for(hook).len();
                (0..3).filter(|index| *index != first).map(count).collect()
            };
            let before = ["prepare", "switched", "check"].map(ran);
            let go = || {
                if is_killed {
                    fleet.kill(first);
                    fleet.end_session(&session);
                } else {
                    fleet.term(first);
                }
            };
            let ask = || {
                fleet.consul(&["kv", "put", &format!("{PREFIX}deploy"), "{\"ref\":\"master\",\"again\":true}"]);
            };
            let wait_for = |phases: &[&str]| {
                wait_until(LIMIT, phases[0], || {
                    let barrier = fleet.json("barrier")?;
                    let is_there =
                        barrier["epoch"].as_u64()? > epoch && phases.iter().any(|it| barrier["phase"] == *it);
                    is_there.then_some(())
                });
            };
            let record = fleet.outcome_of(|| {
                match moment {
                    Moment::BeforeItIsAsked => {
                        go();
                        ask();
                    }
                    Moment::AsItIsAsked => {
                        ask();
                        go();
                    }
                    Moment::OnceItHasBegun => {
                        ask();
                        wait_for(&["prepare", "commit", "done"]);
                        go();
                    }
                    Moment::OnceItIsCommitted => {
                        ask();
                        wait_for(&["commit", "done"]);
                        go();
                    }
                }
                fleet.start_agent(first);
            });
            assert_eq!(record["outcome"], "done", "{moment:?}, killed: {is_killed}: {record:#}");
            fleet.wait_for_presence(&[0, 1, 2]);
            wait_until(LIMIT, "every node runs it", || {
                let current = fleet.nodes.iter().map(Node::current).collect::<Option<Vec<_>>>()?;
                let release = format!("releases/{}", record["release"].as_str()?);
                current.iter().all(|link| *link == release).then_some(())
            });
            requests += 1;
            assert_eq!(fleet.history().len(), requests, "{moment:?}, killed: {is_killed}");
            // Nodes that nobody touched made it ready once, and switched once.
            let once = before.map(|counts| counts.into_iter().map(|count| count + 1).collect::<Vec<_>>());
            assert_eq!(["prepare", "switched", "check"].map(ran), once, "{moment:?}, killed: {is_killed}");
        }
    }
}

#[test]
fn a_missing_coordinator_is_reported_and_requests_wait_for_the_next() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let build = fleet.deployed("one");
    for index in [0, 1] {
        fleet.term(index);
    }
    let status = fleet.cutover(&["status", UNIT]);
    assert!(status.code == 0 && status.stdout.contains("no agent coordinates this group"), "{status}");
    assert!(fleet.cutover(&["status", UNIT, "--output", "json"]).json()["coordinator"].is_null());
    let deploy = fleet.begin(&["deploy", UNIT, &build.artifact]);
    wait_until(LIMIT, "it says so", || deploy.said()[1].contains("no agent coordinates this group").then_some(()));
    for index in [0, 1] {
        fleet.start_agent(index);
    }
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
}

#[test]
fn a_refused_request_never_runs_later() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    let one = fleet.deployed("one");
    let two = fleet.publish_and_stage("two");
    let freeze = format!("{PREFIX}freeze");
    fleet.consul(&["kv", "put", &freeze, "sale weekend"]);
    let record = fleet.put_deploy(&two.artifact);
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert_eq!(record["fault"]["step"], "freeze", "{record:#}");
    fleet.consul(&["kv", "put", &freeze, ""]);
    // Neither now, nor by another coordinator.
    let first = fleet.coordinator();
    fleet.term(first);
    wait_until(LIMIT, "another coordinates", || holder(&fleet));
    fleet.start_agent(first);
    fleet.wait_for_presence(&[0, 1]);
    let record = fleet.put_deploy(&format!("{{\"ref\":\"{}\",\"again\":true}}", one.artifact));
    assert_eq!(record["outcome"], "done", "{record:#}");
    let outcomes: Vec<_> = fleet.history().iter().map(|it| it["outcome"].clone()).collect();
    assert_eq!(outcomes, ["done", "refused", "done"]);
    for node in &fleet.nodes {
        assert_eq!(node.hook_ran_for("switched"), [one.artifact.clone(), one.artifact.clone()], "{}", node.name);
    }
}
