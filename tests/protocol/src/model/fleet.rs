//! The state of a run: Consul, every node with its disk, and every coordinator with what it is about to write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::scope::{Budget, Scope};
use super::store::{AnswerWrite, Indexes, Session, Store};
use crate::invariant::Releases;
use crate::protocol::coordinator::Coordinator;
use crate::protocol::ids::{Epoch, ModifyIndex, Node, ReleaseName};
use crate::protocol::journal::{Journal, Origin};
use crate::protocol::participant::{Effect, Participant};
use crate::protocol::record::{AbsentNodes, Ack, Barrier, FORMAT, NodeRecord, Policy, Release};
use crate::protocol::transition::Transition;
use crate::receipt::Written;

/// Seconds after which a coordinator takes every deadline and every grace for over.
pub(super) const OVERDUE_SECS: u64 = 1000;

/// What lies on a node's disk beside its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    /// None: what was there before Cutover.
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
    pub(super) machine: Participant,
    /// The journal as it lies on the disk.
    pub(super) durable: Journal,
    /// Of the journal that this life has written.
    pub(super) receipt: Option<Written>,
    pub(super) disk: Disk,
    /// What touches the disk now.
    pub(super) work: Option<Effect>,
    /// Whether it was told to stop: it may end early, at no cost.
    pub(super) is_halted: bool,
    pub(super) reads: Vec<Effect>,
    /// The newest answer that is not written yet, and where the record that it answers stands.
    pub(super) answer: Option<(ModifyIndex, Arc<Ack>)>,
    pub(super) wants_retry: bool,
    /// The session that it takes for its own; none after a start that found it gone.
    pub(super) session: Option<Session>,
    /// Whether the next read of the barrier must be consistent.
    pub(super) has_no_journal: bool,
    /// Reads that told it nothing new: of these records, consistent or not.
    pub(super) known_reads: KnownReads,
}

/// What was found out about one value of a node; a copy that will be changed begins without.
#[derive(Debug, Default)]
pub(super) struct KnownReads(Mutex<Vec<(Arc<Barrier>, bool)>>);

impl KnownReads {
    pub(super) fn holds(&self, record: &Arc<Barrier>, is_consistent: bool) -> bool {
        let known = self.0.lock().unwrap();
        known.iter().any(|(other, how)| *how == is_consistent && Arc::ptr_eq(other, record))
    }

    pub(super) fn note(&self, record: &Arc<Barrier>, is_consistent: bool) {
        self.0.lock().unwrap().push((Arc::clone(record), is_consistent));
    }
}

impl Clone for KnownReads {
    fn clone(&self) -> Self {
        Self::default()
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
    /// Whose.
    pub(super) node: usize,
    pub(super) session: Session,
    pub(super) coordinator: Coordinator,
    /// Decided, and not written yet.
    pub(super) plan: Option<Arc<Transition>>,
    /// What the decision rests on. While it is the same, so is the decision.
    pub(super) seen: Uncounted<Option<Seen>>,
}

/// Keys, the coordinator's own node, and the catalog.
pub(super) type Seen = (Arc<Store>, Arc<Member>, Arc<BTreeSet<String>>);

/// Carried along for speed, and no part of the state.
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

/// What is on its way and may arrive at any time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum InFlight {
    Answer(AnswerWrite),
    Transaction(Session, Arc<Transition>),
}

/// The whole fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fleet {
    pub(super) store: Arc<Store>,
    pub(super) indexes: Indexes,
    /// Every record that ever stood: what a stale read may answer, also after the keys have gone back.
    pub(super) past: Arc<Vec<(ModifyIndex, Arc<Barrier>)>>,
    /// Every release that was ever committed, also in a past that a restored snapshot took away.
    pub(super) decided: Arc<BTreeSet<Epoch>>,
    pub(super) snapshot: Option<Arc<Store>>,
    /// Whether keys went back, and nobody has recovered them yet.
    pub(super) is_restored: bool,
    /// Whether keys ever went back.
    pub(super) has_gone_back: bool,
    pub(super) nodes: Vec<Arc<Member>>,
    pub(super) candidates: Vec<Arc<Candidate>>,
    pub(super) in_flight: Vec<InFlight>,
    pub(super) catalog: Arc<BTreeSet<String>>,
    /// The next session's number.
    pub(super) sessions: Session,
    pub(super) budget: Budget,
    /// The invariant that was broken on the way here.
    pub(super) broken: Option<String>,
}

impl Fleet {
    /// Live nodes, the first of which coordinates; the keys are there, and another tool's release runs.
    pub(super) fn new(scope: &Scope) -> Self {
        let mut fleet = Self {
            store: Arc::default(),
            indexes: Indexes::default(),
            past: Arc::default(),
            decided: Arc::default(),
            snapshot: None,
            is_restored: false,
            has_gone_back: false,
            nodes: Vec::new(),
            candidates: Vec::new(),
            in_flight: Vec::new(),
            catalog: Arc::default(),
            sessions: 0,
            budget: scope.budget,
            broken: None,
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

    /// A new node comes.
    pub(super) fn join(&mut self) {
        let name = ["a", "b", "c", "d"][self.nodes.len()];
        Arc::make_mut(&mut self.catalog).insert(name.to_owned());
        let journal = Journal::default();
        self.nodes.push(Arc::new(Member {
            name: name.parse().unwrap(),
            is_up: true,
            machine: Participant::new(journal.clone()),
            durable: journal,
            receipt: None,
            disk: Disk::default(),
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

    /// A node makes a session and holds its presence with it.
    pub(super) fn begin_session(&mut self, i: usize) {
        self.sessions += 1;
        let session = self.sessions;
        let node = Arc::make_mut(&mut self.nodes[i]);
        node.session = Some(session);
        let record = Arc::new(node.record());
        let store = Arc::make_mut(&mut self.store);
        store.nodes.insert(node.name.clone(), super::store::Held { session: Some(session), record });
    }

    /// A candidate takes the lock.
    pub(super) fn take_lock(&mut self, i: usize, scope: &Scope) {
        self.sessions += 1;
        let session = self.sessions;
        Arc::make_mut(&mut self.store).lock = Some(session);
        let unit = "shop/production".parse().unwrap();
        let coordinator = Coordinator::new(self.nodes[i].name.clone(), unit, policy(scope.absent_nodes));
        self.candidates.push(Arc::new(Candidate {
            node: i,
            session,
            coordinator,
            plan: None,
            seen: Uncounted::default(),
        }));
    }

    /// The candidate with the lock.
    pub(super) fn lock_holder(&self) -> Option<usize> {
        let lock = self.store.lock?;
        self.candidates.iter().position(|candidate| candidate.session == lock)
    }
}

impl Member {
    /// What it says about itself.
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
            newest_release: self.disk.releases.keys().next_back().cloned(),
            free_bytes: 0,
            alarm: None,
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// What `current` is now, as a first switch finds it: before Cutover, another tool's release.
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
