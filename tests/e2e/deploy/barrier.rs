//! P1, judged from outside.

use std::path::Path;

use crate::fleet::{Fleet, FleetSpec, UNIT};

fn deploys_without_a_violation(deploys: usize) {
    let fleet = Fleet::start(&FleetSpec::default());
    let builds = [fleet.publish("one"), fleet.publish_and_stage("two")];
    let judge = fleet.judge();
    for round in 0..deploys {
        let output = fleet.cutover(&["deploy", UNIT, &builds[round % 2].artifact]);
        assert_eq!(output.code, 0, "round {round}: {output}");
    }
    let verdict = judge.verdict();
    assert!(verdict.violations.is_empty(), "{verdict:#?}");
    eprintln!("{verdict:?}");
    // The judge was awake: it saw nearly every decision, answer, and move.
    assert!(verdict.commits * 10 >= deploys * 9, "{verdict:?}");
    assert!(verdict.acks_seen * 10 >= verdict.commits * 3 * 9, "{verdict:?}");
    assert!(verdict.moves * 10 >= deploys * 3 * 9, "{verdict:?}");
}

#[test]
fn no_node_switches_before_every_node_is_prepared() {
    deploys_without_a_violation(15);
}

#[test]
#[ignore = "takes minutes; make judge runs it"]
fn no_node_switches_before_every_node_is_prepared_in_a_hundred_deploys() {
    deploys_without_a_violation(100);
}

#[test]
fn a_fleet_that_reverts_and_loses_agents_switches_only_to_committed_releases() {
    let settings =
        |_: usize, _: &Path| "absence_grace = \"3s\"\nswitch_timeout = \"8s\"\nrevert_timeout = \"4s\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { hooks: true, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let judge = fleet.judge();
    fleet.nodes[0].fail("check", "no");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 9);
    fleet.nodes[0].mend("check");
    fleet.nodes[1].fail("prepare", "no");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 4);
    fleet.nodes[1].mend("prepare");
    // Killed with a promise given, and back: it keeps the promise.
    fleet.nodes[0].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[0].wait_hook("prepare");
    let promised = (0..3).find(|index| *index != 0 && *index != fleet.coordinator()).unwrap();
    let key = format!("acks/{}", fleet.nodes[promised].name);
    let epoch = fleet.wait_phase("prepare")["epoch"].clone();
    crate::fleet::wait_until(crate::fleet::LIMIT, "the promise", || {
        fleet.json(&key).filter(|ack| ack["epoch"] == epoch && ack["answer"] == "prepared")
    });
    fleet.kill(promised);
    fleet.start_agent(promised);
    fleet.nodes[0].release("prepare");
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 0);
    fleet.assert_all_run("one");
    let verdict = judge.verdict();
    assert!(verdict.violations.is_empty(), "{verdict:#?}");
}
