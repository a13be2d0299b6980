//! Goes through the moments of a deploy, and cuts the power at each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::disk::Loss;
use crate::machine::{End, Machine};
use crate::promise::{self, Said};

/// How often a moment is tried again that was not reached: threads do not always do the same number of operations.
const TRIES: usize = 3;
/// What an agent says that has lost its journal.
const JOURNAL_LOST: &str = "is rebuilt from the releases on disk";

/// What is deployed when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// A build on an empty node: the start of the agent, and its first deploy.
    First,
    /// A build that switches well, after which an old release is removed.
    Forward,
    /// A build whose switch fails, so that it is reverted.
    Back,
}

/// Which moments are tried.
#[derive(Clone, Copy, Debug)]
struct Moments {
    first: u64,
    every: u64,
    /// Losses by chance at each moment, besides the loss of everything.
    seeds: u64,
}

/// What came of the moments.
#[derive(Debug, Default)]
struct Count {
    operations: u64,
    moments: u64,
    cuts: u64,
    phases: BTreeMap<String, u64>,
    outcomes: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

fn sweep(course: Course, moments: Moments) -> Count {
    let mut machine = Machine::start();
    let mut count = Count::default();
    // Releases of two runs before, as before every cut.
    for _ in 0..3 {
        settle(&mut machine);
    }
    assert_eq!(course.run(&mut machine, None), End::Rest);
    let operations = machine.disk.done();
    count.operations = operations.len() as u64;
    assert_placed_durably(&operations);
    settle(&mut machine);
    for at in (moments.first..=count.operations).step_by(usize::try_from(moments.every).unwrap()) {
        let chances = (0..moments.seeds).map(|seed| Loss::Some(at * 1000 + seed));
        for loss in std::iter::once(Loss::All).chain(chances) {
            cut(&mut machine, course, at, loss, &mut count);
        }
        count.moments += 1;
    }
    count
}

/// A loss by chance that keeps the changes in a placed tree without its rename is rare.
fn assert_placed_durably(operations: &[String]) {
    let is_staged = |name: &str| name.starts_with("master-");
    let rename = operations.iter().position(|operation| {
        let from = operation.strip_prefix("rename ").and_then(|rest| rest.split_once(" to "));
        from.and_then(|(from, _)| from.split_once('/')).is_some_and(|(_, name)| is_staged(name) && !name.contains('.'))
    });
    let rename = rename.expect("no build was placed");
    let to = operations[rename].rsplit_once(" to ").and_then(|(_, to)| to.split_once('/')).unwrap().0;
    assert_eq!(operations[rename + 1], format!("fsyncdir {to}"), "after {}", operations[rename]);
}

/// One loss of power, and what comes after it.
fn cut(machine: &mut Machine, course: Course, at: u64, loss: Loss, count: &mut Count) {
    let reached = (0..TRIES).any(|_| course.run(machine, Some(at)) == End::Cut);
    assert!(reached, "{course:?}: no run was cut at operation {at} of {}", count.operations);
    machine.cut();
    let last = machine.disk.done().last().cloned().unwrap_or_default();
    let said = Said::now(machine);
    let label = format!("{course:?} {at} ({last}), {loss:?}, in {}", said.phase());
    eprintln!("{label}");
    machine.lose(loss);
    let mut wrong = promise::broken(machine, &said);
    let before = machine.node().logged(JOURNAL_LOST);
    machine.start_agent();
    machine.wait_rest();
    let after = Said::now(machine);
    wrong.extend(promise::broken(machine, &after));
    if machine.node().logged(JOURNAL_LOST) > before {
        wrong.push("the journal was lost".to_owned());
    }
    count.cuts += 1;
    *count.phases.entry(said.phase().to_owned()).or_default() += 1;
    *count.outcomes.entry(after.phase().to_owned()).or_default() += 1;
    settle(machine);
    count.wrong.extend(wrong.into_iter().map(|wrong| format!("{label}: {wrong}")));
}

/// Deploys a build that works, to its end.
fn settle(machine: &mut Machine) {
    machine.fail_switches(false);
    let build = machine.publish();
    assert_eq!(machine.deploy(&build), End::Rest);
    let said = Said::now(machine);
    assert_eq!((said.phase(), said.barrier["artifact"].as_str()), ("done", Some(build.artifact.as_str())));
    assert_eq!(promise::broken(machine, &said), Vec::<String>::new());
}

impl Course {
    /// Deploys another build, until it is over or the power has failed after so many operations.
    fn run(self, machine: &mut Machine, cut: Option<u64>) -> End {
        let build = machine.publish();
        machine.fail_switches(self == Self::Back);
        if self == Self::First {
            if machine.begin_anew(cut) == End::Cut {
                return End::Cut;
            }
        } else {
            cut.map_or_else(|| machine.disk.count(), |at| machine.disk.fail_after(at));
        }
        machine.deploy(&build)
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.operations = self.operations.max(other.operations);
        self.moments += other.moments;
        self.cuts += other.cuts;
        for (counts, others) in [(&mut self.phases, other.phases), (&mut self.outcomes, other.outcomes)] {
            for (what, count) in others {
                *counts.entry(what).or_default() += count;
            }
        }
        self.wrong.extend(other.wrong);
    }

    fn check(&self, course: Course) {
        let (operations, moments, cuts) = (self.operations, self.moments, self.cuts);
        let mut text = format!("{course:?}: {operations} operations, {moments} moments, {cuts} cuts");
        for (what, counts) in [("in phase", &self.phases), ("then", &self.outcomes)] {
            write!(text, "; {what}").unwrap();
            for (phase, count) in counts {
                write!(text, " {phase} {count}").unwrap();
            }
        }
        println!("{text}; {} violations", self.wrong.len());
        assert!(self.wrong.is_empty(), "{} violations:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

#[test]
fn a_first_deploy_survives_a_loss_of_power() {
    sweep(Course::First, Moments { first: 7, every: 37, seeds: 1 }).check(Course::First);
}

#[test]
fn what_was_promised_survives_a_loss_of_power_in_a_deploy() {
    sweep(Course::Forward, Moments { first: 5, every: 37, seeds: 1 }).check(Course::Forward);
}

#[test]
fn what_was_promised_survives_a_loss_of_power_in_a_revert() {
    sweep(Course::Back, Moments { first: 20, every: 37, seeds: 1 }).check(Course::Back);
}

/// `make power-sweep`: every moment, or `POWER_EVERY`; `POWER_SEEDS` losses by chance at each (2), and `POWER_JOBS` machines beside each
/// other for each course (2).
fn sweep_all(course: Course) {
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (seeds, jobs, every) = (number("POWER_SEEDS", 2), number("POWER_JOBS", 2), number("POWER_EVERY", 1));
    let mut all = Count::default();
    std::thread::scope(|scope| {
        let moments = |job| Moments { first: 1 + job * every, every: jobs * every, seeds };
        let jobs: Vec<_> = (0..jobs).map(|job| scope.spawn(move || sweep(course, moments(job)))).collect();
        for job in jobs {
            all.add(job.join().unwrap());
        }
    });
    all.check(course);
}

#[test]
#[ignore = "takes ten minutes: make power-sweep"]
fn every_moment_of_a_first_deploy() {
    sweep_all(Course::First);
}

#[test]
#[ignore = "takes ten minutes: make power-sweep"]
fn every_moment_of_a_deploy() {
    sweep_all(Course::Forward);
}

#[test]
#[ignore = "takes ten minutes: make power-sweep"]
fn every_moment_of_a_revert() {
    sweep_all(Course::Back);
}
