//! An agent that is killed at a system call of a deploy, and started again.

use std::os::unix::process::ExitStatusExt as _;

use crate::calls::Effect;
use crate::lane::{Lane, Run, Scenario};
use crate::sweep::{LANES, RUNS, Task, count, named, sweep};
use crate::tracer::{Aim, Deed};

/// Of the calls that change the disk, `cargo test` kills at every so-many-th.
const EVERY: usize = 12;
/// The first of them.
const FIRST: usize = 7;

#[test]
fn an_agent_that_is_killed_at_some_calls_converges_after_its_restart() {
    let mut lane = Lane::start();
    let mut tasks = tasks(&mut lane, 2);
    // The others leave the disk as the next of these finds it.
    tasks.retain(|task| task.aim.call.effect == Effect::Changes);
    let some = tasks.into_iter().skip(FIRST).step_by(EVERY).collect();
    sweep("kills", some, lane, 1, judge).assert_right();
}

#[test]
#[ignore = "takes a quarter of an hour: make crash-sweep"]
fn an_agent_that_is_killed_at_any_call_converges_after_its_restart() {
    let mut lane = Lane::start();
    let tasks = named(tasks(&mut lane, RUNS));
    sweep("kills", tasks, lane, LANES, judge).assert_right();
}

/// A kill at every call that each of so many runs makes.
fn tasks(lane: &mut Lane, runs: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    for scenario in [Scenario::Good, Scenario::CheckFails] {
        let calls = count(lane, scenario, runs);
        tasks.extend(calls.into_iter().map(|call| Task { scenario, aim: Aim { call, deed: Deed::Kill } }));
    }
    tasks
}

fn judge(task: &Task, run: &Run) -> Result<(), String> {
    if run.exit.and_then(|status| status.signal()) != Some(9) {
        return Err(format!("the agent was not killed: {:?}", run.exit));
    }
    match (task.scenario, run.outcome()) {
        (_, "aborted") | (Scenario::Good, "done") | (Scenario::CheckFails, "reverted") => Ok(()),
        _ => Err(format!("the deploy ended as {}", run.record)),
    }
}
