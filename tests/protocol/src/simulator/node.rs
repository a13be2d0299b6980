//! One agent: its participant, its events and the work on its disk, as in `src/agent/node/unit.rs`, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agenda::{Ask, Event, Task, Timer};
use super::disk::Disk;
use super::lead::Lead;
use super::{Sim, aim};
use crate::consul::Session;
use crate::protocol::ids::Node as Name;
use crate::protocol::journal::{Journal, Origin, Target};
use crate::protocol::participant::{Acknowledgement, Effect, Event as Told, Participant, Way};
use crate::protocol::record::{Answer, Barrier, Fault, Step};
use crate::protocol::rule::{Rule, holds};
use crate::protocol::shell::candidate::Candidate;
use crate::protocol::shell::describe::{Identity, Reporter};
use crate::protocol::shell::follow::Follower;
use crate::protocol::shell::keep::is_time_to_prune;
use crate::protocol::shell::publisher::Publisher;
use crate::protocol::shell::rebuild::{Ledger, Loss};
use crate::receipt::Written;
use crate::retention::RunResult;

use super::agenda::Version;

#[derive(Debug)]
pub(crate) enum State {
    Down,
    /// With the events that it has missed.
    Hanging(Vec<Event>),
    Running,
}

/// One node, and its agent's memory while it has one.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Name,
    pub(crate) origin: Origin,
    pub(crate) disk: Disk,
    pub(crate) state: State,
    pub(crate) is_candidate: bool,
    /// The node and Consul cannot reach each other.
    pub(crate) is_cut: bool,
    /// How far its wall clock is ahead of the true time.
    pub(crate) wall_ahead_secs: i64,
    /// The speed of its own clock, in thousandths.
    pub(crate) pace: u32,
    /// Counts its starts. An event for a former life is dropped.
    pub(crate) life: u32,
    pub(crate) agent: Option<Agent>,
    /// The floor of its lost journal; none: not lost, or it has followed a record since.
    pub(crate) lost_floor: Option<Barrier>,
    /// Its journal was lost once.
    pub(crate) has_lost_journal: bool,
    /// Whether the origin was lost with it.
    pub(crate) has_lost_origin: bool,
}

/// The work under way.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) effect: Effect,
    pub(crate) ticket: u64,
    pub(crate) is_halted: bool,
}

/// An agent's memory.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) machine: Participant,
    receipt: Option<Written>,
    pub(crate) work: Option<Work>,
    pub(crate) follower: Follower,
    pub(crate) is_watching: bool,
    /// The last result of the watch of `barrier`.
    pub(crate) last_seen: Option<Version>,
    pub(crate) publisher: Publisher<Session>,
    pub(crate) session: Option<Session>,
    pub(crate) reporter: Reporter,
    pub(crate) candidate: Candidate<Session>,
    /// While the agent coordinates.
    pub(crate) lead: Option<Box<Lead>>,
    /// Failed switches in a row.
    pub(crate) failures: u32,
    /// The ticket of each task's newest request. The answer to another one is dropped.
    pub(crate) tickets: [u64; 9],
    /// Reads of members and histories that are not answered yet.
    pub(crate) reads: BTreeMap<u64, Effect>,
}

impl Agent {
    pub(crate) const fn is_leading(&self) -> bool {
        self.lead.is_some()
    }

    /// Whether the agent coordinates, and does nothing until a person acts.
    pub(crate) fn is_halted(&self) -> bool {
        self.lead.as_ref().is_some_and(|lead| lead.is_halted)
    }
}

impl Node {
    pub(crate) fn new(name: &str, origin: &Origin, is_candidate: bool) -> Self {
        Self {
            name: name.parse().unwrap(),
            origin: origin.clone(),
            disk: Disk::new(),
            state: State::Down,
            is_candidate,
            is_cut: false,
            wall_ahead_secs: 0,
            pace: 1000,
            life: 0,
            agent: None,
            lost_floor: None,
            has_lost_journal: false,
            has_lost_origin: false,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    pub(crate) fn journal(&self) -> Journal {
        self.disk.journal()
    }
}

/// Between half and the whole of a pause that doubles from `first` up to `most`.
pub(crate) fn backoff(sim: &mut Sim, first: Duration, most: Duration, failures: u32) -> Duration {
    let full = first.saturating_mul(1 << failures.min(10)).min(most);
    full + sim.chance.span(Duration::ZERO, full)
}

impl Sim {
    pub(crate) fn agent(&mut self, i: usize) -> &mut Agent {
        self.nodes[i].agent.as_mut().expect("only agents that run are told anything")
    }

    /// Starts an agent, as `src/agent/daemon/mod.rs` does.
    pub(crate) fn start(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if !matches!(node.state, State::Down) {
            return;
        }
        node.state = State::Running;
        node.life += 1;
        if node.disk.is_full && !matches!(node.disk.ledger, Ledger::Intact(_)) {
            // The journal cannot be rebuilt on a full disk: the agent ends, and is started again.
            node.state = State::Down;
            self.later(Duration::from_secs(2), Event::Start { node: i });
            return;
        }
        let (journal, loss) = node.disk.load();
        let moment = self.moment(i);
        let node = &self.nodes[i];
        let (name, session) = (node.name.to_string(), node.disk.session);
        let identity = Identity {
            unit: self.unit.clone(),
            node: node.name.clone(),
            consul_node: name.clone(),
            version: "0.1.0".to_owned(),
            config_digest: String::new(),
        };
        let agent = Agent {
            follower: Follower::new(node.name.clone(), self.kv.names.barrier(), journal.record.clone()),
            machine: Participant::new(journal),
            receipt: None,
            work: None,
            is_watching: false,
            last_seen: None,
            publisher: Publisher::new(name, session, moment),
            session: None,
            reporter: Reporter::new(identity),
            candidate: Candidate::new(node.name.to_string(), node.name.to_string()),
            lead: None,
            failures: 0,
            tickets: [0; 9],
            reads: BTreeMap::new(),
        };
        self.nodes[i].agent = Some(agent);
        if let Some(loss) = &loss {
            self.coverage.hit(match loss {
                Loss::Damaged(_) | Loss::Gone => "journal made anew",
                Loss::NeverWritten => "first start",
            });
        }
        say!(self, "{} starts{}", self.nodes[i].name, if loss.is_some() { " without a journal" } else { "" });
        let ticket = self.ticket();
        self.agent(i).tickets[Task::Presence as usize] = ticket;
        self.timer(i, Duration::from_millis(1), Timer::Presence(ticket));
        self.report(i);
        self.begin_to_follow(i);
        if self.nodes[i].is_candidate {
            self.begin_to_stand(i);
        }
        self.judge_node(i);
    }

    /// An agent dies: its memory is gone. Whether its work was done is random.
    pub(crate) fn crash(&mut self, i: usize, restarts_after: Duration) {
        if let Some(work) = self.nodes[i].agent.as_mut().and_then(|agent| agent.work.take()) {
            if self.chance.one_in(2) {
                // No agent is left to take the result.
                let _unheard = self.carry_out(i, &work.effect, None);
                self.coverage.hit("crash after the work");
            } else {
                self.coverage.hit("crash before the work");
            }
        }
        self.cover_phase("crash", i);
        let node = &mut self.nodes[i];
        node.agent = None;
        node.state = State::Down;
        say!(self, "{} dies", self.nodes[i].name);
        self.later(restarts_after, Event::Start { node: i });
        self.judge_node(i);
    }

    /// Gives an event to a participant, writes its journal, and begins its effects.
    pub(crate) fn tell(&mut self, i: usize, event: Told) {
        let dies = self.chance.happens(self.mix.dies_at_journal) && !self.is_calm;
        let dies_before = dies && self.chance.one_in(2);
        let node = &mut self.nodes[i];
        let link = node.disk.link(&node.origin);
        let agent = node.agent.as_mut().expect("only agents that run are told anything");
        let alarm = agent.machine.alarm();
        let record = agent.machine.journal().record.clone();
        let effects = match agent.machine.handle(event, &link) {
            Ok(effects) => effects,
            Err(illegal) => return self.judge.broken(format!("{}: {illegal}", node.name)),
        };
        let disk = &mut node.disk;
        let mut is_written = false;
        let published = effects.publish(&mut agent.receipt, |journal| {
            if dies_before {
                return Err("it dies");
            }
            if disk.is_full {
                return Err("no space left");
            }
            is_written = true;
            Ok(disk.store(journal))
        });
        let agent = node.agent.as_mut().expect("it runs");
        if agent.machine.journal().record != record {
            agent.failures = 0;
        }
        if let Some(now) = agent.machine.alarm().filter(|now| Some(now) != alarm.as_ref()) {
            self.coverage.hit("alarm");
            say!(self, "{} alarms: {now}", self.nodes[i].name);
        }
        if is_written {
            self.judge_node(i);
        }
        match published {
            Ok(_) if dies && is_written => {
                self.coverage.hit("dies after its journal");
                self.dies_soon(i);
            }
            Ok(run) => {
                for effect in run {
                    self.begin(i, effect);
                }
                self.report(i);
                self.see_to_pruning(i);
            }
            Err(reason) => {
                self.coverage.hit(if dies_before { "dies before its journal" } else { "journal cannot be written" });
                say!(self, "{} cannot write its journal: {reason}", self.nodes[i].name);
                self.dies_soon(i);
            }
        }
    }

    fn dies_soon(&mut self, i: usize) {
        let pause = self.chance.secs(1, 5);
        self.crash(i, pause);
    }

    fn see_to_pruning(&mut self, i: usize) {
        if is_time_to_prune(&self.agent(i).machine) {
            let pause = self.chance.within_ms(2_000);
            self.timer(i, pause, Timer::Prune);
        }
    }

    pub(crate) fn begin(&mut self, i: usize, effect: Effect) {
        let name = self.nodes[i].name.clone();
        match effect {
            Effect::Acknowledge(given) => {
                let Acknowledgement { epoch, answer, fault, .. } = &given;
                let answer = *answer;
                say!(self, "{name} answers {epoch} {answer:?}{}", fault.as_ref().map_or(String::new(), words));
                if answer == Answer::Prepared && !holds(Rule::PromiseKept) {
                    let pause = self.chance.within_ms(5_000);
                    self.timer(i, pause, Timer::Retry);
                }
                self.answer(i, given);
            }
            Effect::Prepare { ref release, .. } => {
                say!(self, "{name} prepares {}", release.epoch);
                self.work(i, effect);
            }
            Effect::Switch { ref to, way } => {
                say!(self, "{name} switches {way:?} to {}", aim(to));
                self.work(i, effect);
            }
            Effect::Discard { ref release } => {
                say!(self, "{name} discards {}", release.epoch);
                self.work(i, effect);
            }
            Effect::HaltPrepare | Effect::HaltSwitch => self.halt(i),
            Effect::ReadHistory { .. } | Effect::ReadMembers { .. } => self.read(i, effect),
            Effect::RetryLater => {
                let failures = self.agent(i).failures;
                self.agent(i).failures += 1;
                let pause = backoff(self, Duration::from_millis(500), Duration::from_mins(1), failures);
                self.timer(i, pause, Timer::Retry);
            }
        }
    }

    fn work(&mut self, i: usize, effect: Effect) {
        let took = self.chance.within_ms(if self.is_calm { self.mix.work_ms.min(1_000) } else { self.mix.work_ms });
        let ticket = self.ticket();
        let life = self.nodes[i].life;
        let work = Work { effect, ticket, is_halted: false };
        let before = self.agent(i).work.replace(work);
        assert!(before.is_none(), "{}: two things touch the disk at once", self.nodes[i].name);
        self.later(took, Event::WorkEnds { node: i, life, ticket });
    }

    fn halt(&mut self, i: usize) {
        self.coverage.hit("halt");
        let pause = self.chance.within_ms(20);
        let life = self.nodes[i].life;
        if let Some(work) = &mut self.agent(i).work {
            work.is_halted = true;
            let ticket = work.ticket;
            self.later(pause, Event::WorkEnds { node: i, life, ticket });
        }
    }

    pub(crate) fn work_ends(&mut self, i: usize, ticket: u64) {
        if self.agent(i).work.as_ref().is_none_or(|work| work.ticket != ticket) {
            return;
        }
        let Some(work) = self.agent(i).work.take() else { return };
        let result = self.result(i, &work);
        if let Err(fault) = &result {
            say!(self, "{} fails{}", self.nodes[i].name, words(fault));
        }
        let event = match work.effect {
            Effect::Prepare { release, .. } => Told::PrepareEnded { epoch: release.epoch, result },
            Effect::Switch { to, .. } => Told::SwitchEnded { to, result },
            Effect::Discard { release } => Told::Discarded { epoch: release.epoch },
            other => unreachable!("no work on the disk: {other:?}"),
        };
        self.judge_node(i);
        self.tell(i, event);
    }

    /// Ends the work, with the changes that it made.
    fn result(&mut self, i: usize, work: &Work) -> Result<(), Fault> {
        let is_switch = matches!(work.effect, Effect::Switch { .. });
        let step = if is_switch { Step::CheckHook } else { Step::PrepareHook };
        if work.is_halted && self.chance.one_in(2) {
            return Err(Fault::new(step, "stopped: the deploy no longer needs it, or the agent is stopping"));
        }
        if matches!(work.effect, Effect::Discard { .. }) || self.is_calm {
            return self.carry_out(i, &work.effect, None);
        }
        if self.chance.happens(self.mix.fails_early) {
            self.coverage.hit(if is_switch { "switch fails early" } else { "prepare fails" });
            return Err(Fault::new(if is_switch { Step::Switch } else { Step::Preflight }, "it broke"));
        }
        let fails = is_switch && self.chance.happens(self.mix.fails_late);
        if fails {
            self.coverage.hit("switch fails late");
        }
        self.carry_out(i, &work.effect, fails.then_some(step))
    }

    /// Changes the disk as the work does; then the hook of step `hook` fails, if given.
    fn carry_out(&mut self, i: usize, effect: &Effect, hook: Option<Step>) -> Result<(), Fault> {
        let is_store_away = self.is_store_away;
        let node = &mut self.nodes[i];
        let journal = node.journal();
        match effect {
            Effect::Prepare { release, from } => {
                for release in from.iter().chain([release]) {
                    node.disk.make_ready(release, is_store_away)?;
                }
            }
            Effect::Switch { to: Target::Release(release), way } => {
                node.disk.make_ready(release, is_store_away)?;
                let left = journal.runs.as_ref().filter(|runs| runs.release != release.release);
                if let (Way::Back, Some(left)) = (way, left) {
                    node.disk.mark_ran(left, RunResult::Failed);
                }
                node.disk.current = Some(release.clone());
                match (hook, way) {
                    (None, _) => node.disk.mark_ran(release, RunResult::Done),
                    (Some(_), Way::Forward) => node.disk.mark_ran(release, RunResult::Failed),
                    (Some(_), Way::Back) => {}
                }
            }
            Effect::Switch { to: Target::Origin, .. } => {
                let Some(origin) = &journal.origin else {
                    self.coverage.hit("origin lost with the journal");
                    return Err(Fault::new(Step::Switch, "what ran before Cutover is not known any more"));
                };
                if *origin != node.origin {
                    let text = format!("I11: {} goes back to {origin:?}", node.name);
                    self.judge.broken(text);
                }
                if let Some(left) = &journal.runs {
                    node.disk.mark_ran(left, RunResult::Failed);
                }
                node.disk.current = None;
            }
            Effect::Discard { release } => node.disk.discard(release, &journal),
            other => unreachable!("no work on the disk: {other:?}"),
        }
        match hook {
            Some(step) => Err(Fault::new(step, "the hook broke")),
            None => Ok(()),
        }
    }

    pub(crate) fn read(&mut self, i: usize, effect: Effect) {
        let names = &self.kv.names;
        let key = match &effect {
            Effect::ReadHistory { epoch } => names.history(*epoch),
            Effect::ReadMembers { epoch } => names.members(*epoch),
            other => unreachable!("no read: {other:?}"),
        };
        let ticket = self.call(i, Task::Read, Ask::Key(key));
        self.agent(i).reads.insert(ticket, effect);
    }
}

fn words(fault: &Fault) -> String {
    format!(" ({}: {})", fault.step.as_str(), fault.reason)
}
