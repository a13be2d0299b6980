//! The faults of one run: each seed draws its own mix, and leaves most kinds out.
//!
//! A run with every kind of fault hardly gets past its first deploy. With a few kinds each, runs come far, and all runs
//! together meet every combination (swarm testing).

use std::time::Duration;

use super::chance::Chance;
use crate::protocol::journal::Origin;
use crate::protocol::record::{AbsentNodes, Policy};

/// A fault from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A node leaves Consul's catalog for a while.
    Catalog,
    /// A wall clock jumps.
    Clock,
    /// An agent dies, and starts again.
    Crash,
    /// A node and Consul cannot reach each other.
    Cut,
    DiskFull,
    /// An agent stands still, with its coordinator and its next writes (SIGSTOP).
    Hang,
    /// A new node joins.
    Join,
    /// A journal is gone or torn when its agent starts.
    JournalLost,
    /// Consul is without leader, and then every TTL begins anew.
    Leader,
    /// Somebody deletes a node's record.
    NodeKey,
    /// A snapshot that was taken before is restored.
    Restore,
    /// Somebody overwrites `barrier` with an unreadable value.
    Rubbish,
    /// A session ends, and its agent does not know.
    Session,
    /// The artifact store is away.
    Store,
    /// All keys of the unit are deleted.
    Wipe,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::Catalog,
        Self::Clock,
        Self::Crash,
        Self::Cut,
        Self::DiskFull,
        Self::Hang,
        Self::Join,
        Self::JournalLost,
        Self::Leader,
        Self::NodeKey,
        Self::Restore,
        Self::Rubbish,
        Self::Session,
        Self::Store,
        Self::Wipe,
    ];

    /// The name for the coverage.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Catalog => "left the catalog",
            Self::Clock => "clock",
            Self::Crash => "crash",
            Self::Cut => "cut",
            Self::DiskFull => "disk full",
            Self::Hang => "hang",
            Self::Join => "join",
            Self::JournalLost => "journal lost",
            Self::Leader => "no leader",
            Self::NodeKey => "node key deleted",
            Self::Restore => "restore",
            Self::Rubbish => "rubbish",
            Self::Session => "session ended",
            Self::Store => "store away",
            Self::Wipe => "wipe",
        }
    }

    /// Whether the fault tampers with keys, so that an operator must `recover`.
    pub(crate) const fn is_tampering(self) -> bool {
        matches!(self, Self::Restore | Self::Rubbish | Self::Wipe)
    }
}

/// One seed's mix.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    pub(crate) nodes: usize,
    /// The number of nodes that stand for coordinator.
    pub(crate) candidates: usize,
    pub(crate) policy: Policy,
    pub(crate) origin: Origin,
    /// How long there are faults.
    pub(crate) length: Duration,
    /// The kinds of faults of this run.
    pub(crate) faults: Vec<Fault>,
    pub(crate) fault_every: Duration,
    pub(crate) request_every: Duration,
    /// The longest way to Consul, and back, without a fault.
    pub(crate) latency_ms: u64,
    /// Of a thousand calls: lost on the way there, lost on the way back, applied twice, and applied long after the caller
    /// gave up.
    pub(crate) lose_call: u64,
    pub(crate) lose_answer: u64,
    pub(crate) repeat: u64,
    pub(crate) late: u64,
    /// Of a thousand stale reads: answered with an older state.
    pub(crate) stale: u64,
    /// The longest piece of work on a disk.
    pub(crate) work_ms: u64,
    /// Of a thousand pieces of work: failed before, or after, they changed anything.
    pub(crate) fails_early: u64,
    pub(crate) fails_late: u64,
    /// Of a thousand writes of a journal: the agent dies just before, or just after.
    pub(crate) dies_at_journal: u64,
    /// As [`crate::consul::Consul::hurry`].
    pub(crate) hurry: u32,
    /// How many releases each node keeps.
    pub(crate) keep: usize,
}

impl Mix {
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let nodes = usize::try_from(chance.between(2, 7)).unwrap();
        let mut sometimes = |one_in: u64, most: u64| if chance.one_in(one_in) { chance.between(1, most) } else { 0 };
        let (lose_call, lose_answer) = (sometimes(3, 100), sometimes(3, 100));
        let (repeat, late, stale) = (sometimes(3, 100), sometimes(4, 50), sometimes(2, 500));
        let (fails_early, fails_late) = (sometimes(3, 200), sometimes(2, 300));
        let dies_at_journal = sometimes(6, 50);
        let work_ms = [50, 500, 3_000, 15_000][chance.index(4)];
        let policy = Policy {
            prepare_timeout_secs: chance.between(10, 60),
            switch_timeout_secs: chance.between(5, 40),
            revert_timeout_secs: chance.between(5, 30),
            absence_grace_secs: chance.between(2, 20),
            absent_nodes: chance.pick(&[AbsentNodes::Fail, AbsentNodes::Skip]),
            min_nodes: u32::try_from(chance.between(1, 2)).unwrap(),
        };
        Self {
            nodes,
            candidates: 1 + chance.index(nodes.min(4)),
            policy,
            origin: if chance.one_in(4) { Origin::Nothing } else { Origin::Link("/srv/legacy".to_owned()) },
            length: chance.secs(40, 160),
            faults: Self::draw_faults(chance),
            fault_every: chance.secs(3, 40),
            request_every: chance.secs(3, 25),
            latency_ms: chance.pick(&[2, 10, 50, 400]),
            lose_call,
            lose_answer,
            repeat,
            late,
            stale,
            work_ms,
            fails_early,
            fails_late,
            dies_at_journal,
            hurry: chance.pick(&[0, 0, 50, 100]),
            keep: usize::try_from(chance.between(1, 5)).unwrap(),
        }
    }

    /// Two to five kinds. One in six runs has tampering among them.
    fn draw_faults(chance: &mut Chance) -> Vec<Fault> {
        let may_tamper = chance.one_in(6);
        let count = chance.between(2, 5);
        let mut faults: Vec<Fault> = (0..count).map(|_| chance.pick(&Fault::ALL)).collect();
        faults.retain(|fault| may_tamper || !fault.is_tampering());
        if may_tamper {
            faults.push(chance.pick(&[Fault::Restore, Fault::Rubbish, Fault::Wipe]));
        }
        if faults.is_empty() {
            faults.push(Fault::Crash);
        }
        faults.sort();
        faults
    }
}
