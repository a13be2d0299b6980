//! The state of a run: Consul, every node with its disk, and every coordinator with its next write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use super::scope::{Budget, Scope};
use super::shared::Shared;
use super::store::{AnswerWrite, Indexes, Session, Store};
use crate::invariant::Releases;
use crate::protocol::coordinator::Coordinator;
use crate::protocol::ids::{Epoch, ModifyIndex, Node, ReleaseName};
use crate::protocol::journal::{Journal, Origin};
use crate::protocol::participant::{Effect, Participant};
use crate::protocol::record::{AbsentNodes, Ack, Barrier, FORMAT, NodeRecord, Policy, Release};
use crate::protocol::transition::Transition;
use crate::receipt::Written;

/// A time after which every deadline and every grace is over.
pub(super) const OVERDUE_SECS: u64 = 1000;

/// A node's disk, without its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    /// None: the origin.
    pub(super) current: Option<Release>,
    /// Every complete release, and the epoch that made it.
    pub(super) releases: BTreeMap<ReleaseName, Epoch>,
}

impl Releases for Disk {
    fn holds(&self, release: &Release) -> bool {
        self.releases.contains_key(&release.release)
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) name: Node,
    pub(super) is_up: bool,
    pub(super) machine: Shared<Participant>,
    /// The journal on the disk.
    pub(super) durable: Shared<Journal>,
    /// For the journal that this life has written.
    pub(super) receipt: Option<Written>,
    pub(super) disk: Shared<Disk>,
    /// The work on the disk that is under way.
    pub(super) work: Option<Effect>,
    /// Whether the work was halted: it may then end early, outside the budget.
    pub(super) is_halted: bool,
    pub(super) reads: Vec<Effect>,
    /// The newest answer that is not written yet, with the index of the record answered.
    pub(super) answer: Option<(ModifyIndex, Arc<Ack>)>,
    pub(super) wants_retry: bool,
    /// The session that the node uses; none after a start that found it gone.
    pub(super) session: Option<Session>,
    /// Whether the next read of the barrier must be consistent.
    pub(super) has_no_journal: bool,
    /// Reads that changed nothing: of these records, consistent or not.
    pub(super) known_reads: KnownReads,
}

/// A cache for one value of a node's machine: an event makes a new one. The disk changes only together with the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownReads(Arc<Mutex<Vec<KnownRead>>>);

/// A record, and whether it was read consistently.
type KnownRead = (Arc<Barrier>, bool);

impl KnownReads {
    pub(super) fn holds(&self, record: &Arc<Barrier>, is_consistent: bool) -> bool {
        let known = self.0.lock().unwrap();
        known.iter().any(|(other, how)| *how == is_consistent && Arc::ptr_eq(other, record))
    }

    pub(super) fn note(&self, record: &Arc<Barrier>, is_consistent: bool) {
        self.0.lock().unwrap().push((Arc::clone(record), is_consistent));
    }
}

impl PartialEq for KnownReads {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for KnownReads {}

impl std::hash::Hash for KnownReads {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// A coordinator, with or without the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    /// The index of its node.
    pub(super) node: usize,
    pub(super) session: Session,
    pub(super) coordinator: Coordinator,
    /// The decision that is not written yet.
    pub(super) plan: Option<Arc<Transition>>,
    /// The input of the decision. While the input is the same, so is the decision.
    pub(super) decided_on: Uncounted<Option<DecisionInput>>,
}

/// Keys, the coordinator's own node, and the catalog.
pub(super) type DecisionInput = (Shared<Store>, Shared<Member>, Shared<BTreeSet<String>>);

/// A cache that does not count as part of the state.
#[derive(Clone, Debug, Default)]
pub(super) struct Uncounted<T>(pub(super) T);

impl<T> PartialEq for Uncounted<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Uncounted<T> {}

impl<T> std::hash::Hash for Uncounted<T> {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// A write that may arrive at any time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum InFlight {
    Answer(AnswerWrite),
    Transaction(Session, Arc<Transition>),
}

/// The difference from the state before, which was checked: the rest needs no second check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// No write to the log, but a change of a node.
    Nodes,
    Log,
}

/// The whole fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fleet {
    pub(super) store: Shared<Store>,
    pub(super) indexes: Indexes,
    /// Every record that `barrier` ever held, which a stale read may return, also after a restore.
    pub(super) past: Shared<Vec<(ModifyIndex, Arc<Barrier>)>>,
    /// Every epoch that was ever committed, also before a restore.
    pub(super) decided: Shared<BTreeSet<Epoch>>,
    pub(super) snapshot: Option<Shared<Store>>,
    /// Whether keys were restored, and not recovered yet.
    pub(super) is_restored: bool,
    /// Whether keys were ever restored.
    pub(super) has_gone_back: bool,
    pub(super) nodes: Vec<Shared<Member>>,
    pub(super) candidates: Vec<Shared<Candidate>>,
    pub(super) in_flight: Vec<InFlight>,
    pub(super) catalog: Shared<BTreeSet<String>>,
    /// The next session's number.
    pub(super) sessions: Session,
    pub(super) budget: Budget,
    /// The invariant that was broken on the way to this state.
    pub(super) broken: Option<String>,
    pub(super) news: Uncounted<News>,
    /// The broken invariant of this state, once it was looked for.
    pub(super) fault: Uncounted<OnceLock<Option<String>>>,
}

impl Fleet {
    /// Live nodes, the first of which coordinates. The first keys are written, and another tool's release runs.
    pub(super) fn new(scope: &Scope) -> Self {
        let mut fleet = Self {
            store: Shared::default(),
            indexes: Indexes::default(),
            past: Shared::default(),
            decided: Shared::default(),
            snapshot: None,
            is_restored: false,
            has_gone_back: false,
            nodes: Vec::new(),
            candidates: Vec::new(),
            in_flight: Vec::new(),
            catalog: Shared::default(),
            sessions: 0,
            budget: scope.budget,
            broken: None,
            news: Uncounted(News::Log),
            fault: Uncounted::default(),
        };
        for _ in 0..scope.nodes {
            fleet.join();
        }
        fleet.take_lock(0, scope);
        // The first keys.
        fleet.decide(0, false);
        fleet.write(0);
        fleet
    }

    /// Adds a new node.
    pub(super) fn join(&mut self) {
        let name = ["a", "b", "c", "d"][self.nodes.len()];
        self.catalog.make_mut().insert(name.to_owned());
        let journal = Journal::default();
        self.nodes.push(Shared::new(Member {
            name: name.parse().unwrap(),
            is_up: true,
            machine: Shared::new(Participant::new(journal.clone())),
            durable: Shared::new(journal),
            receipt: None,
            disk: Shared::default(),
            work: None,
            is_halted: false,
            reads: Vec::new(),
            answer: None,
            wants_retry: false,
            session: None,
            has_no_journal: true,
            known_reads: KnownReads::default(),
        }));
        self.begin_session(self.nodes.len() - 1);
    }

    /// A node creates a session and holds its presence with it.
    pub(super) fn begin_session(&mut self, i: usize) {
        self.sessions += 1;
        let session = self.sessions;
        let node = self.nodes[i].make_mut();
        node.session = Some(session);
        let record = Arc::new(node.record());
        let store = self.store.make_mut();
        store.nodes.insert(node.name.clone(), super::store::Held { session: Some(session), record });
    }

    /// A candidate takes the lock.
    pub(super) fn take_lock(&mut self, i: usize, scope: &Scope) {
        self.sessions += 1;
        let session = self.sessions;
        self.store.make_mut().lock = Some(session);
        let unit = "shop/production".parse().unwrap();
        let coordinator = Coordinator::new(self.nodes[i].name.clone(), unit, policy(scope.absent_nodes));
        self.candidates.push(Shared::new(Candidate {
            node: i,
            session,
            coordinator,
            plan: None,
            decided_on: Uncounted::default(),
        }));
    }

    /// The candidate with the lock.
    pub(super) fn lock_holder(&self) -> Option<usize> {
        let lock = self.store.lock?;
        self.candidates.iter().position(|candidate| candidate.session == lock)
    }
}

impl Member {
    pub(super) fn record(&self) -> NodeRecord {
        NodeRecord {
            format: FORMAT,
            node: self.name.clone(),
            consul_node: self.name.to_string(),
            version: String::new(),
            config_digest: String::new(),
            floor: self.machine.journal().record.as_ref().map(|record| record.epoch),
            astray: self.machine.alarm().is_some(),
            runs: self.machine.journal().runs.clone(),
            current: self.disk.current.as_ref().map(|release| release.release.to_string()),
            previous: None,
            staged: Vec::new(),
            refused: Vec::new(),
            fetching: None,
            newest_release: self.disk.releases.keys().next_back().cloned(),
            free_bytes: 0,
            alarm: None,
            unremovable: Vec::new(),
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// What `current` is now. Before Cutover it is another tool's release.
    pub(super) fn origin(&self) -> Origin {
        let text = self.disk.current.as_ref().map_or("legacy".to_owned(), |r| format!("releases/{}", r.release));
        Origin::Link(text)
    }
}

/// The policy of every coordinator.
pub(super) const fn policy(absent_nodes: AbsentNodes) -> Policy {
    Policy {
        prepare_timeout_secs: 600,
        switch_timeout_secs: 120,
        revert_timeout_secs: 30,
        absence_grace_secs: 15,
        absent_nodes,
        min_nodes: 1,
    }
}
