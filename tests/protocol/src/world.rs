//! A fleet of the product's participants and coordinators around one small Consul, moved one step at a time by a trace.
//!
//! The world is the driver of both machines, with disks that are values. It decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::invariant::{DiskView, FleetView, NodeView, Releases, check_i6, check_i7, check_i11_disk, check_moment};
use crate::protocol::coordinator::{Coordinator, Snapshot};
use crate::protocol::ids::{Epoch, ModifyIndex, Node, ReleaseName};
use crate::protocol::journal::{Journal, Origin, Target};
use crate::protocol::participant::{Acknowledgement, Effect, Event, Participant};
use crate::protocol::record::{
    AbsentNodes, Ack, Answer, Barrier, FORMAT, Fault, NodeRecord, Policy, Release, Step, Timings, decode, encode,
};
use crate::protocol::transition::Transition;

use crate::consul::{Behavior, Op as TxnOp, Session};
use crate::kv::Kv;
use crate::receipt::{self, Written};

/// A node's disk, without its journal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// None: the origin.
    pub(crate) current: Option<Release>,
    /// Every complete release, and the epoch that made it.
    pub(crate) releases: BTreeMap<ReleaseName, Epoch>,
}

/// How a piece of work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Well,
    /// Failed before it changed anything.
    Early(Step),
    /// Failed after it changed everything: by a hook, or a lost result.
    Late(Step),
}

/// One node: participant, disk, session, and a coordinator that acts only on command.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: Node,
    pub(crate) machine: Participant,
    pub(crate) durable: Journal,
    receipt: Option<Written>,
    pub(crate) disk: Disk,
    pub(crate) origin: Origin,
    /// The work on the disk that is under way.
    pub(crate) work: Option<Effect>,
    pub(crate) reads: VecDeque<Effect>,
    pub(crate) answers: VecDeque<(ModifyIndex, Ack)>,
    pub(crate) wants_retry: bool,
    pub(crate) session: Option<Session>,
    /// The session that it coordinates with, which may have ended.
    pub(crate) lease: Option<Session>,
    /// The next write of the journal fails.
    pub(crate) is_disk_full: bool,
    pub(crate) policy: Policy,
    pub(crate) coordinator: Coordinator,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) planned: Option<Transition>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) kv: Kv,
    pub(crate) agents: Vec<Agent>,
    pub(crate) clock: Duration,
    /// The output of the trace.
    pub(crate) said: Vec<String>,
    /// The keys were tampered with, so the log proves nothing any more.
    pub(crate) is_tampered: bool,
    last_journals: Vec<Journal>,
}

pub(crate) fn policy(absent_nodes: AbsentNodes, min_nodes: u32) -> Policy {
    Policy {
        prepare_timeout_secs: 600,
        switch_timeout_secs: 120,
        revert_timeout_secs: 30,
        absence_grace_secs: 15,
        absent_nodes,
        min_nodes,
    }
}

impl World {
    /// Live agents, the first of which holds the lock. There are no keys yet.
    pub(crate) fn new(names: &[&str], policy: &Policy, origin: &Origin) -> Self {
        let mut world = Self {
            kv: Kv::new(),
            agents: Vec::new(),
            clock: Duration::ZERO,
            said: Vec::new(),
            is_tampered: false,
            last_journals: Vec::new(),
        };
        for name in names {
            world.join(name, policy, origin);
        }
        world.take_lock(0);
        world
    }

    pub(crate) fn join(&mut self, name: &str, policy: &Policy, origin: &Origin) {
        let node: Node = name.parse().unwrap();
        self.kv.consul.register(name);
        self.agents.push(Agent {
            name: node.clone(),
            machine: Participant::new(Journal::default()),
            durable: Journal::default(),
            receipt: None,
            disk: Disk::default(),
            origin: origin.clone(),
            work: None,
            reads: VecDeque::new(),
            answers: VecDeque::new(),
            wants_retry: false,
            session: None,
            lease: None,
            is_disk_full: false,
            policy: policy.clone(),
            coordinator: Coordinator::new(node, "shop/production".parse().unwrap(), policy.clone()),
            snapshot: None,
            planned: None,
        });
        self.session_back(self.agents.len() - 1);
    }

    pub(crate) fn say(&mut self, text: impl Into<String>) {
        self.said.push(text.into());
    }

    /// Gives an event to a participant, writes its journal, and begins its effects.
    pub(crate) fn handle(&mut self, i: usize, event: Event) {
        let agent = &mut self.agents[i];
        let alarm = agent.machine.alarm();
        let (durable, is_disk_full) = (&mut agent.durable, &mut agent.is_disk_full);
        let link = |release: &Release| Origin::Link(format!("releases/{}", release.release));
        let current = agent.disk.current.as_ref().map_or_else(|| agent.origin.clone(), link);
        let effects = agent.machine.handle(event, &current).unwrap();
        let published = effects.publish(&mut agent.receipt, |journal| {
            if std::mem::take(is_disk_full) {
                return Err("no space left");
            }
            Ok(receipt::write(durable, journal))
        });
        match published {
            Ok(run) => run.into_iter().for_each(|effect| self.begin(i, effect)),
            Err(reason) => {
                self.say(format!("{} cannot write its journal: {reason}", self.agents[i].name));
                self.restart(i, End::Early(Step::Sync));
            }
        }
        let agent = &self.agents[i];
        if let Some(now) = agent.machine.alarm().filter(|now| Some(now) != alarm.as_ref()) {
            self.said.push(format!("{} alarms: {now}", agent.name));
        }
    }

    fn begin(&mut self, i: usize, effect: Effect) {
        let at = jiff_at(self.clock);
        let agent = &mut self.agents[i];
        let words = match &effect {
            Effect::Acknowledge(Acknowledgement { epoch, answer, fault, .. }) => {
                let why = fault.as_ref().map(|f| format!(" ({}: {})", f.step.as_str(), f.reason)).unwrap_or_default();
                format!("answers {epoch} {answer:?}{why}").to_lowercase()
            }
            Effect::Discard { release } => format!("discards {}", release.epoch),
            Effect::HaltPrepare => "halts its preparation".to_owned(),
            Effect::HaltSwitch => "halts its switch".to_owned(),
            Effect::Prepare { release, from } => {
                let from = from.as_ref().map_or("its origin".to_owned(), |from| from.epoch.to_string());
                format!("prepares {} (back: {from})", release.epoch)
            }
            Effect::ReadHistory { epoch } => format!("reads history/{epoch}"),
            Effect::ReadMembers { epoch } => format!("reads members/{epoch}"),
            Effect::RetryLater => "tries again later".to_owned(),
            Effect::Switch { to, way } => format!("switches {} to {}", format!("{way:?}").to_lowercase(), aim(to)),
        };
        self.said.push(format!("{} {words}", agent.name));
        match effect {
            Effect::Acknowledge(Acknowledgement { index, epoch, answer, fault, .. }) => {
                let ack = Ack { format: FORMAT, epoch, answer, fault, took: Timings::default(), at };
                agent.answers.push_back((index, ack));
            }
            Effect::Discard { .. } | Effect::Prepare { .. } | Effect::Switch { .. } => {
                assert_eq!(agent.work, None, "{}: two things touch the disk at once", agent.name);
                agent.work = Some(effect);
            }
            Effect::HaltPrepare => assert!(matches!(agent.work, Some(Effect::Prepare { .. })), "nothing to halt"),
            Effect::HaltSwitch => assert!(matches!(agent.work, Some(Effect::Switch { .. })), "nothing to halt"),
            Effect::ReadHistory { .. } | Effect::ReadMembers { .. } => agent.reads.push_back(effect),
            Effect::RetryLater => agent.wants_retry = true,
        }
    }

    /// Changes the disk as the work does, as far as it came.
    fn carry_out(&mut self, i: usize, work: &Effect, end: End) {
        let disk = &mut self.agents[i].disk;
        if matches!(end, End::Early(_)) {
            return;
        }
        match work {
            Effect::Prepare { release, from } => {
                for release in from.iter().chain([release]) {
                    disk.releases.entry(release.release.clone()).or_insert(release.epoch);
                }
            }
            Effect::Switch { to: Target::Release(release), .. } => {
                disk.releases.entry(release.release.clone()).or_insert(release.epoch);
                disk.current = Some(release.clone());
            }
            Effect::Switch { to: Target::Origin, .. } => {
                disk.current = None;
                let agent = &self.agents[i];
                assert_eq!(agent.durable.origin.as_ref(), Some(&agent.origin), "{} lost its origin", agent.name);
            }
            Effect::Discard { release } => {
                if disk.releases.get(&release.release) == Some(&release.epoch) {
                    let in_use = disk.current.as_ref().is_some_and(|current| current.release == release.release);
                    assert!(!in_use, "I11: {} would remove what it runs", self.agents[i].name);
                    disk.releases.remove(&release.release);
                }
            }
            other => unreachable!("no work on the disk: {other:?}"),
        }
    }

    /// The work under way ends. Returns whether there was any.
    pub(crate) fn end(&mut self, i: usize, end: End) -> bool {
        let Some(work) = self.agents[i].work.take() else { return false };
        self.carry_out(i, &work, end);
        let result = match end {
            End::Well => Ok(()),
            End::Early(step) | End::Late(step) => Err(Fault::new(step, "it broke")),
        };
        let event = match work {
            Effect::Prepare { release, .. } => Event::PrepareEnded { epoch: release.epoch, result },
            Effect::Switch { to, .. } => Event::SwitchEnded { to, result },
            Effect::Discard { release } => Event::Discarded { epoch: release.epoch },
            other => unreachable!("no work on the disk: {other:?}"),
        };
        self.handle(i, event);
        self.publish_presence(i);
        true
    }

    /// A node reads the barrier and does all its work, with success.
    pub(crate) fn settle_node(&mut self, i: usize) {
        /// Steps: prepare, answer, switch, answer take six; the rest is room.
        const BOUND: usize = 40;
        self.deliver_newest(i);
        for _ in 0..BOUND {
            if !(self.read(i) || self.end(i, End::Well) || self.send(i)) {
                return;
            }
            self.check().unwrap();
        }
        panic!("{} never comes to rest", self.agents[i].name);
    }

    /// A crash: memory is gone, and the work under way is done as far as `end` says.
    pub(crate) fn restart(&mut self, i: usize, end: End) {
        if let Some(work) = self.agents[i].work.take() {
            self.carry_out(i, &work, end);
        }
        let agent = &mut self.agents[i];
        agent.machine = Participant::new(agent.durable.clone());
        agent.receipt = None;
        agent.reads.clear();
        agent.answers.clear();
        agent.wants_retry = false;
        self.forget_coordination(i);
    }

    /// A node reads a record that `barrier` held once, or holds now.
    pub(crate) fn deliver(&mut self, i: usize, record: (ModifyIndex, Barrier), is_consistent: bool) {
        let (index, record) = record;
        self.handle(i, Event::Record { index, record: Box::new(record), is_consistent });
    }

    /// A node reads `barrier` consistently. Returns whether the key exists.
    pub(crate) fn deliver_newest(&mut self, i: usize) -> bool {
        match self.kv.barrier() {
            Some((index, Ok(record))) => self.deliver(i, (index, record), true),
            Some((_, Err(reason))) => self.handle(i, Event::Unreadable { reason: reason.to_string() }),
            None => return false,
        }
        true
    }

    /// Answers the oldest read that a node waits for. Returns whether there was one.
    pub(crate) fn read(&mut self, i: usize) -> bool {
        let event = match self.agents[i].reads.pop_front() {
            Some(Effect::ReadMembers { epoch }) => {
                Event::Members { epoch, is_member: self.kv.members(epoch).contains(&self.agents[i].name) }
            }
            Some(Effect::ReadHistory { epoch }) => Event::History { epoch, verdict: self.kv.verdict(epoch) },
            _ => return false,
        };
        self.handle(i, event);
        true
    }

    /// Tries to write a node's oldest answer. The answer is kept without a session, and dropped when the record is another.
    pub(crate) fn send(&mut self, i: usize) -> bool {
        let Some((index, ack)) = self.agents[i].answers.pop_front() else { return false };
        let agent = &self.agents[i];
        // A node without a session waits for one.
        let Some(session) = agent.session else {
            self.agents[i].answers.push_front((index, ack));
            return false;
        };
        let is_report = matches!(ack.answer, Answer::Switched | Answer::Failed | Answer::Reverted | Answer::Stuck);
        let record = is_report.then(|| self.presence(i));
        let key = self.kv.names.ack(&agent.name);
        let former = self.kv.get(&key).and_then(|entry| decode::<Ack>(&key, &entry.value).ok());
        if former.is_some_and(|former| !ack.may_replace(&former)) {
            let words = format!("{} keeps its promise to {}", agent.name, ack.epoch);
            self.say(words);
            return true;
        }
        let standing = self.kv.index_of(&key);
        let ops = self.kv.answer((&agent.name, session), index, standing, &ack, record.as_ref());
        match self.kv.txn(&ops) {
            Ok(()) => true,
            Err(refusals) if refusals.iter().any(|(place, _)| *place == 1) => {
                let words = format!("{}'s answer to {} is refused: barrier", agent.name, ack.epoch);
                self.say(words);
                true
            }
            Err(_) => {
                self.agents[i].answers.push_front((index, ack));
                false
            }
        }
    }

    pub(crate) fn retry(&mut self, i: usize) -> bool {
        let is_due = std::mem::take(&mut self.agents[i].wants_retry);
        if is_due {
            self.handle(i, Event::Retry);
        }
        is_due
    }

    fn presence(&self, i: usize) -> NodeRecord {
        let agent = &self.agents[i];
        NodeRecord {
            format: FORMAT,
            node: agent.name.clone(),
            consul_node: agent.name.to_string(),
            version: "0.1.0".to_owned(),
            config_digest: String::new(),
            floor: agent.machine.journal().record.as_ref().map(|record| record.epoch),
            astray: agent.machine.alarm().is_some(),
            runs: agent.machine.journal().runs.clone(),
            current: agent.disk.current.as_ref().map(|release| release.release.to_string()),
            previous: None,
            staged: Vec::new(),
            refused: Vec::new(),
            fetching: None,
            newest_release: agent.disk.releases.keys().next_back().cloned(),
            free_bytes: 0,
            alarm: agent.machine.alarm(),
            unremovable: Vec::new(),
            at: jiff_at(self.clock),
        }
    }

    /// Writes the node's record with its session, as the agent does.
    fn publish_presence(&mut self, i: usize) {
        let Some(session) = self.agents[i].session else { return };
        let key = self.kv.names.node(&self.agents[i].name);
        let value = encode(&self.presence(i)).into_bytes().into();
        if self.kv.txn(&[TxnOp::Lock { key, value, session }]).is_err() {
            self.agents[i].session = None;
        }
    }

    pub(crate) fn session_lost(&mut self, i: usize) {
        if let Some(session) = self.agents[i].session.take() {
            self.kv.consul.destroy(session);
        }
    }

    pub(crate) fn session_back(&mut self, i: usize) {
        if self.agents[i].session.is_none() {
            self.agents[i].session = self.new_session(i);
            self.publish_presence(i);
        }
    }

    /// None: the node is not in the catalog.
    pub(crate) fn new_session(&mut self, i: usize) -> Option<Session> {
        self.kv.consul.create_session(self.agents[i].name.as_str(), None, Behavior::Release, self.clock).ok()
    }

    fn view(&self) -> FleetView<'_> {
        FleetView { log: &self.kv.log, nodes: self.agents.iter().map(seen).collect() }
    }

    /// Checks all invariants, also against the last check.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        if self.is_tampered {
            return Ok(());
        }
        let view = self.view();
        check_moment(&view).map_err(|broken| broken.to_string())?;
        for (before, now) in self.last_journals.iter().zip(&view.nodes) {
            check_i7(now.name, before, now.journal).map_err(|broken| broken.to_string())?;
        }
        let disks: Vec<DiskView<'_>> = self.agents.iter().map(disk).collect();
        check_i6(&self.kv.log, &disks).map_err(|broken| broken.to_string())?;
        check_i11_disk(&disks).map_err(|broken| broken.to_string())?;
        self.last_journals = self.agents.iter().map(|agent| agent.durable.clone()).collect();
        Ok(())
    }
}

pub(crate) fn aim(to: &Target) -> String {
    match to {
        Target::Origin => "its origin".to_owned(),
        Target::Release(release) => release.epoch.to_string(),
    }
}

/// The wall clock of a world. Only names of releases and timestamps for people depend on it.
pub(crate) fn jiff_at(clock: Duration) -> jiff::Timestamp {
    let start: jiff::Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
    start + jiff::SignedDuration::try_from(clock).unwrap()
}

fn seen(agent: &Agent) -> NodeView<'_> {
    NodeView { name: &agent.name, journal: &agent.durable, current: agent.disk.current.as_ref() }
}

fn disk(agent: &Agent) -> DiskView<'_> {
    DiskView { name: &agent.name, current: agent.disk.current.as_ref(), releases: &agent.disk }
}

impl Releases for Disk {
    fn holds(&self, release: &Release) -> bool {
        self.releases.contains_key(&release.release)
    }
}
