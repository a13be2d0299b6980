//! The cells that are run, and the table that is printed.
//!
//! `make faults` runs all of them. `FAULTS` and `PHASES` choose by name, separated by blanks or commas; `RESUME=1` leaves
//! out what the last run has found to be right; `ROUNDS` is how often each figure is taken: 20 if nothing is chosen, else
//! 0.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::cell::{self, Report};
use crate::fault::Fault;
use crate::phase::Phase;
use crate::results;
use crate::rig::Rig;
use crate::settled;
use crate::timings::{self, Figures};

/// One of them.
type Cell = (Fault, Phase);

/// How often a rig may fail to start: that is no cell's fault, and on a loaded machine it happens.
const STARTS: usize = 3;
/// How often each figure is taken with the whole matrix.
const ROUNDS: usize = 20;

/// What `cargo test` runs: the faults that would tear a fleet apart if any rule were missing, on one rig, in minutes.
const SHORT: [Cell; 6] = [
    (Fault::KillCoordinator, Phase::Committed),
    (Fault::StopCoordinator, Phase::Acknowledged),
    (Fault::IsolateNode, Phase::HalfSwitched),
    (Fault::Split, Phase::Acknowledged),
    (Fault::DeletePrefix, Phase::Committed),
    (Fault::Loss, Phase::Acknowledged),
];

/// Runs cells on as few rigs as will do: one, unless a cell fails.
fn run(cells: &[Cell], rounds: usize, note: fn(&Report)) -> (Vec<Report>, Figures) {
    let mut reports = Vec::new();
    let mut figures = Figures::default();
    let mut failed_starts = 0;
    while reports.len() < cells.len() {
        let left = cells[reports.len()..].to_vec();
        let done: Arc<Mutex<Vec<Report>>> = Arc::default();
        let (sink, is_first) = (Arc::clone(&done), reports.is_empty());
        let is_started: Arc<AtomicBool> = Arc::default();
        let starts = Arc::clone(&is_started);
        // A thread of its own: it enters the hub, and its end takes the rig along.
        let rig = std::thread::spawn(move || {
            let mut rig = Rig::start();
            settled::wait(&rig, cell::REST_LIMIT);
            // The first deploy of all has nothing to go back to.
            let first = rig.publish("first");
            rig.ask(&first.artifact);
            settled::wait(&rig, cell::REST_LIMIT);
            starts.store(true, Ordering::Relaxed);
            let mut figures = Figures::default();
            if is_first && rounds > 0 {
                figures = timings::give_up_and_go_back(&mut rig, rounds);
            }
            for (fault, phase) in left {
                eprintln!("{} in {}", fault.name(), phase.name());
                let report = cell::run(&mut rig, fault, phase);
                note(&report);
                eprintln!("    {report:?}");
                sink.lock().unwrap().push(report);
            }
            figures
        });
        let ended = rig.join();
        reports.append(&mut done.lock().unwrap());
        match ended {
            Ok(found) if figures.abort.is_empty() => figures = found,
            Ok(_) => {}
            Err(panic) if !is_started.load(Ordering::Relaxed) => {
                failed_starts += 1;
                if failed_starts == STARTS {
                    std::panic::resume_unwind(panic);
                }
            }
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let (fault, phase) = cells[reports.len()];
                let (fault, phase) = (fault.name().to_owned(), phase.name().to_owned());
                let violations = vec![why.unwrap_or_default()];
                let report = Report { fault, phase, outcome: "stuck".to_owned(), violations, ..Report::default() };
                note(&report);
                reports.push(report);
            }
        }
    }
    (reports, figures)
}

/// One line per fault, one column per phase.
fn table(reports: &[Report]) -> String {
    let mut text = format!("{:<28}", "hits outcome seconds-to-rest");
    for phase in Phase::ALL {
        write!(text, "{:<22}", phase.name()).unwrap();
    }
    let cells: BTreeMap<_, _> = reports.iter().map(|it| ((it.fault.as_str(), it.phase.as_str()), it)).collect();
    for fault in Fault::ALL {
        write!(text, "\n{:<28}", fault.name()).unwrap();
        for phase in Phase::ALL {
            let shown = cells.get(&(fault.name(), phase.name())).map_or_else(String::new, |it| {
                let tenths = it.settled_ms / 100;
                let mark = if is_right(it) { "" } else { " WRONG" };
                format!("{} {} {}.{}{mark}", it.hits, it.outcome, tenths / 10, tenths % 10)
            });
            write!(text, "{shown:<22}").unwrap();
        }
    }
    text
}

fn is_right(report: &Report) -> bool {
    report.hits > 0 && report.violations.is_empty()
}

/// Prints what was found, and fails if any of it is wrong.
fn tell(reports: &[Report], figures: &Figures) {
    let taken = reports.iter().filter(|it| it.fault == Fault::KillCoordinator.name()).filter_map(|it| it.takeover_ms);
    let taken: Vec<u64> = figures.takeover.iter().copied().chain(taken).collect();
    eprintln!("\n{}\n", table(reports));
    eprintln!("{}", timings::shown("from the coordinator's death to another's first write", &taken));
    eprintln!("{}", timings::shown("from a node's no to the record that aborts", &figures.abort));
    eprintln!("{}", timings::shown("from the record that reverts to the last link that goes back", &figures.revert));
    let wrong: Vec<_> = reports.iter().filter(|report| !is_right(report)).collect();
    assert!(wrong.is_empty(), "{} of {} cells are wrong: {wrong:#?}", wrong.len(), reports.len());
}

/// The names in a variable, all where it is not set; an unknown one fails with those that there are.
fn chosen<T: Copy>(variable: &str, all: &[T], name: fn(T) -> &'static str) -> Vec<T> {
    let text = std::env::var(variable).unwrap_or_default();
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let known: Vec<&str> = all.iter().map(|it| name(*it)).collect();
    if let Some(word) = words.iter().find(|word| !known.contains(*word)) {
        panic!("{variable}: there is no {word:?}; there are {}", known.join(", "));
    }
    all.iter().copied().filter(|it| words.is_empty() || words.contains(&name(*it))).collect()
}

#[test]
fn the_most_telling_faults_leave_no_mixed_fleet() {
    let (reports, figures) = run(&SHORT, 0, |_| {});
    tell(&reports, &figures);
}

#[test]
#[ignore = "takes an hour; make faults runs it"]
fn every_fault_in_every_phase_leaves_no_mixed_fleet() {
    let faults = chosen("FAULTS", &Fault::ALL, Fault::name);
    let phases = chosen("PHASES", &Phase::ALL, Phase::name);
    let is_whole = faults.len() == Fault::ALL.len() && phases.len() == Phase::ALL.len();
    let rounds = std::env::var("ROUNDS").ok().map(|text| text.parse().expect("ROUNDS is a number"));
    let rounds = rounds.unwrap_or(if is_whole { ROUNDS } else { 0 });
    let mut former = Vec::new();
    if std::env::var("RESUME").is_ok_and(|it| it == "1") {
        former = results::read().into_iter().filter(is_right).collect();
    } else {
        results::clear();
    }
    let is_done = |cell: &Cell| former.iter().any(|it| it.fault == cell.0.name() && it.phase == cell.1.name());
    let cells = phases.iter().flat_map(|phase| faults.iter().map(|fault| (*fault, *phase)));
    let cells: Vec<Cell> = cells.filter(|cell| !is_done(cell)).collect();
    let (reports, mut figures) = run(&cells, rounds, results::add);
    let killed = |it: &&Report| it.fault == Fault::KillCoordinator.name() && it.takeover_ms.is_some();
    let missing = rounds.saturating_sub(former.iter().chain(&reports).filter(killed).count());
    if missing > 0 {
        let taken = std::thread::spawn(move || {
            let mut rig = Rig::start();
            settled::wait(&rig, cell::REST_LIMIT);
            timings::take_over(&mut rig, missing)
        });
        figures.takeover = taken.join().unwrap();
    }
    former.extend(reports);
    tell(&former, &figures);
}
