//! One cell of the matrix: one deploy, one fault in one phase, and the end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::fleet::wait_until;
use crate::phase::{Held, Phase};
use crate::rig::{LIMIT, Rig};
use crate::settled;

/// After a fault is mended, all must be at rest within this: a session that has to end first (20 s), a takeover, the
/// longest of the deadlines (25 s), the retries of a node (up to a minute apart), and a second deploy where two asked.
pub(crate) const REST_LIMIT: Duration = Duration::from_mins(3);
/// How often a fault that has missed its phase is tried again. A busy machine can take longer than a gate holds.
const TRIES: usize = 3;

/// What came of a cell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) fault: String,
    pub(crate) phase: String,
    /// How often the fault hit its phase, and how often it came too late.
    pub(crate) hits: usize,
    pub(crate) misses: usize,
    /// How the deploy that was hit ended.
    pub(crate) outcome: String,
    /// From the mending to rest.
    pub(crate) settled_ms: u64,
    /// From the coordinator's death or sleep to another's first write.
    pub(crate) takeover_ms: Option<u64>,
    /// What is wrong; empty: nothing.
    pub(crate) violations: Vec<String>,
}

/// Runs a cell on a rig at rest, and leaves it at rest.
pub(crate) fn run(rig: &mut Rig, fault: Fault, phase: Phase) -> Report {
    let (fault_name, phase_name) = (fault.name().to_owned(), phase.name().to_owned());
    let mut report = Report { fault: fault_name, phase: phase_name, ..Report::default() };
    while report.hits == 0 && report.misses < TRIES && report.violations.is_empty() {
        attempt(rig, fault, phase, &mut report);
    }
    report
}

fn attempt(rig: &mut Rig, fault: Fault, phase: Phase, report: &mut Report) {
    let build = rig.publish(&format!("{}-{}", fault.name(), phase.name()));
    let judge = rig.fleet.judge();
    let mut held = phase.hold(rig, &build);
    let before = held.stands(rig, None);
    let mut wound = fault.inject(rig, &mut held, &judge);
    // What is still so after the damage was so at its moment. Consul may have to elect a leader before it can be told.
    let after = if fault.hits_barrier() {
        Ok(())
    } else {
        wait_until(LIMIT, "Consul answers", || rig.barrier());
        held.stands(rig, fault.dead(&held))
    };
    fault.suffer(rig, &mut held, &mut wound);
    fault.heal(rig, &held, &wound);
    held.let_go(rig);
    let settled = settled::wait(rig, REST_LIMIT);
    report.violations.extend(judge.verdict().violations);
    if let Err(why) = before.and(after) {
        eprintln!("{} missed {}: {why}", fault.name(), phase.name());
        report.misses += 1;
        return;
    }
    report.hits += 1;
    report.outcome = outcome(rig, &held);
    report.settled_ms = millis(settled);
    report.takeover_ms = wound.takeover.map(millis);
}

/// How the first deploy of this cell's build ended. It may have been taken under another index than it was asked with:
/// keys that were put back have new ones.
fn outcome(rig: &Rig, held: &Held) -> String {
    let history = rig.fleet.history();
    let ours = |record: &&serde_json::Value| record["artifact"] == held.build.artifact.as_str();
    // One that was replaced before anybody saw it has no record.
    history.iter().find(ours).map_or("unseen", |it| it["outcome"].as_str().unwrap_or("open")).to_owned()
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
