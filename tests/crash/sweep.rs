//! Counts the calls of a deploy, and disturbs one deploy at each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::calls::{Call, Window};
use crate::lane::{Lane, Run, Scenario};
use crate::tracer::Aim;

/// How many nodes the whole sweeps disturb side by side.
pub(crate) const LANES: usize = 3;
/// How many runs count the calls of the whole sweeps.
pub(crate) const RUNS: usize = 5;
/// The variable that chooses calls: those whose name, as a sweep prints it, contains its value.
const CALLS: &str = "CALLS";
/// How many lines of a log are shown.
const SHOWN_LINES: usize = 30;
/// How many runs may miss a call: what tasks do at the same time is not in the same order in each run.
const TRIES: usize = 10;

/// A deploy that is disturbed.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) scenario: Scenario,
    pub(crate) aim: Aim,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, aim: Aim { call, deed } } = self;
        write!(f, "{scenario:?} {:?} {call} {deed:?}", call.effect)
    }
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) runs: Vec<(Task, Run)>,
    /// Calls that no run has made.
    pub(crate) missed: Vec<Task>,
    pub(crate) wrong: Vec<(Task, String)>,
}

/// The calls that a scenario makes in each of so many runs.
///
/// Of the second scenario only the windows that the first one has otherwise or not at all.
pub(crate) fn count(lane: &mut Lane, scenario: Scenario, runs: usize) -> Vec<Call> {
    let mut common: Option<BTreeSet<Call>> = None;
    for _ in 0..runs {
        let run = lane.run(scenario, None);
        let wanted = if scenario == Scenario::Good { "done" } else { "reverted" };
        assert_eq!(run.outcome(), wanted, "{}", run.record);
        let calls: BTreeSet<Call> = run.trace.calls.into_iter().collect();
        common = Some(match common {
            Some(common) => common.intersection(&calls).cloned().collect(),
            None => calls,
        });
    }
    let is_new = |call: &Call| scenario == Scenario::Good || matches!(call.window, Window::Revert | Window::Prune);
    let calls: Vec<Call> = common.unwrap_or_default().into_iter().filter(is_new).collect();
    println!("{scenario:?}: {} calls", calls.len());
    calls
}

/// The tasks that the variable [`CALLS`] chooses; without it, all.
pub(crate) fn named(mut tasks: Vec<Task>) -> Vec<Task> {
    let part = std::env::var(CALLS).unwrap_or_default();
    tasks.retain(|task| task.to_string().contains(&part));
    assert!(!tasks.is_empty(), "no call is named {part}");
    tasks
}

/// Disturbs a deploy by each task, on so many nodes side by side. `judge` says what is wrong with a run that hit its call.
pub(crate) fn sweep(
    what: &str,
    tasks: Vec<Task>,
    first: Lane,
    lanes: usize,
    judge: fn(&Task, &Run) -> Result<(), String>,
) -> Results {
    println!("{what}: {} runs", tasks.len());
    let tasks = Mutex::new(VecDeque::from(tasks));
    let results = Mutex::new(Results::default());
    let first = Mutex::new(Some(first));
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let mut lane = locked(&first).take().unwrap_or_else(Lane::start);
                loop {
                    let Some(task) = locked(&tasks).pop_front() else { break };
                    let run = catch_unwind(AssertUnwindSafe(|| disturb(&mut lane, &task)));
                    let mut results = locked(&results);
                    match run {
                        Ok(Some(run)) => {
                            if let Err(why) = judge(&task, &run) {
                                results.wrong(task.clone(), why, &run.log);
                            }
                            results.runs.push((task, run));
                        }
                        Ok(None) => results.missed.push(task),
                        Err(panic) => {
                            let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                            results.wrong(task, why, &lane.log());
                            drop(results);
                            lane = Lane::start();
                        }
                    }
                }
                lane.assert_well();
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.print(what);
    results
}

/// Runs until the call is made; none if it never is.
fn disturb(lane: &mut Lane, task: &Task) -> Option<Run> {
    (0..TRIES).map(|_| lane.run(task.scenario, Some(&task.aim))).find(|run| run.trace.is_hit)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Results {
    fn wrong(&mut self, task: Task, why: String, log: &str) {
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        println!("WRONG {task}: {why}\n{}", end.join("\n"));
        self.wrong.push((task, why));
    }

    /// Prints how many calls were disturbed, by window and outcome.
    fn print(&self, what: &str) {
        let mut counts: BTreeMap<(Scenario, Window, String, String), usize> = BTreeMap::new();
        for (task, run) in &self.runs {
            let call = &task.aim.call;
            let ended = if run.exit.is_some() { ", the agent had ended" } else { "" };
            let (effect, outcome) = (format!("{:?}", call.effect), format!("{}{ended}", run.outcome()));
            *counts.entry((task.scenario, call.window, effect, outcome)).or_default() += 1;
        }
        println!("{what}: {} calls, {} missed, {} wrong", self.runs.len(), self.missed.len(), self.wrong.len());
        for ((scenario, window, effect, outcome), count) in counts {
            println!("  {scenario:?} {window:?} {effect} {outcome}: {count}");
        }
    }

    /// Fails unless every call was hit, and nothing was wrong.
    pub(crate) fn assert_right(&self) {
        let missed: Vec<String> = self.missed.iter().map(Task::to_string).collect();
        assert!(missed.is_empty(), "no run of {TRIES} made these calls:\n{}", missed.join("\n"));
        let wrong: Vec<String> = self.wrong.iter().map(|(task, why)| format!("{task}: {why}")).collect();
        assert!(wrong.is_empty(), "wrong:\n{}", wrong.join("\n"));
    }
}
