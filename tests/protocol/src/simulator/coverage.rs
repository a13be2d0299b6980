//! Counts of faults and outcomes: a simulator that never met a fault in a phase has proven nothing about it.

use std::collections::BTreeMap;

use super::mix::Fault;

/// How often each situation was met, by its name and, where that matters, the phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    pub(crate) counts: BTreeMap<(&'static str, &'static str), u64>,
}

/// Phases in which every large run must have met a crash, a hang, a cut and a takeover.
const BUSY: [&str; 3] = ["prepare", "commit", "revert"];

/// Situations that every large run must have met.
const MUST: [&str; 43] = [
    "idle",
    "prepare",
    "commit",
    "done",
    "aborted",
    "revert",
    "reverted",
    "outcome aborted",
    "outcome done",
    "outcome failed",
    "outcome refused",
    "outcome reverted",
    "outcome superseded",
    "abort asked",
    "alarm",
    "answer fenced",
    "answer found written",
    "answer lost",
    "answer without session",
    "bad mark",
    "call lost",
    "crash after the work",
    "crash before the work",
    "dies after its journal",
    "dies before its journal",
    "former life ended",
    "freeze",
    "halt",
    "halts",
    "journal cannot be written",
    "journal made anew",
    "leaves fenced",
    "leaves in doubt",
    "leaves without session",
    "prepare fails",
    "recover",
    "request overtakes",
    "rollback answered by the revert",
    "stale read",
    "switch fails early",
    "switch fails late",
    "write late",
    "write repeated",
];

impl Coverage {
    pub(crate) fn hit(&mut self, what: &'static str) {
        self.hit_in(what, "");
    }

    pub(crate) fn hit_in(&mut self, what: &'static str, phase: &'static str) {
        *self.counts.entry((what, phase)).or_default() += 1;
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.hit(fault.word());
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(*what).or_default() += count;
        }
    }

    /// The required situations that were never met.
    pub(crate) fn missing(&self) -> Vec<String> {
        let once = MUST.iter().copied().chain(Fault::ALL.map(Fault::word)).map(|what| (what, ""));
        let faults = ["crash", "cut", "hang", "no leader", "session ended", "takeover"];
        let within = faults.iter().flat_map(|what| BUSY.iter().map(move |phase| (*what, *phase)));
        let missing = once.chain(within).filter(|what| !self.counts.contains_key(what));
        missing.map(|(what, phase)| format!("{what} {phase}").trim_end().to_owned()).collect()
    }
}
