//! The network between agents and Consul: requests arrive late, twice or never, and so do answers.
//!
//! Consul itself is never wrong: it applies each request that arrives, in one order. The agent does not know whether and
//! when. A read of `barrier` from any server may return any past value.

use std::sync::Arc;
use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, Call, Event, KeyRead, Task, Timer, Version};
use super::judge::Lock;
use super::node::{Agent, State};
use crate::consul::Behavior;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::Barrier;

/// How long a client waits for an answer: `src/consul/client.rs`.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a client waits for a renewal: `src/consul/session.rs`.
const RENEW_LIMIT: Duration = Duration::from_secs(4);
/// How long a server without leader holds a request before it refuses it (measured: 7.0 to 7.2 s).
const HELD_FOR: Duration = Duration::from_secs(7);
/// The TTL of every session: Consul's minimum.
const TTL: Duration = Duration::from_secs(10);

impl Sim {
    /// Sets a timer of an agent, by the agent's own clock.
    pub(crate) fn timer(&mut self, i: usize, pause: Duration, timer: Timer) {
        let pause = pause * 1000 / self.nodes[i].pace;
        let life = self.nodes[i].life;
        self.later(pause, Event::Timer { node: i, life, timer });
    }

    /// Sends a request of a task, which then waits for no earlier one. Returns the request's ticket.
    pub(crate) fn call(&mut self, i: usize, task: Task, ask: Ask) -> u64 {
        let ticket = self.ticket();
        if !matches!(task, Task::Read | Task::Round) {
            self.agent(i).tickets[task as usize] = ticket;
        }
        let limit = self.now + if matches!(ask, Ask::Renew(_)) { RENEW_LIMIT } else { CALL_LIMIT };
        let life = self.nodes[i].life;
        let mut call = Call { node: i, life, task, ticket, ask, limit, is_answered: true };
        let mut way = self.chance.within_ms(self.mix.latency_ms);
        if !self.is_calm {
            if self.chance.happens(self.mix.lose_call) {
                self.coverage.hit("call lost");
                self.lost(&call);
                return ticket;
            }
            if call.ask.is_write() && self.chance.happens(self.mix.repeat) {
                let again = Call { is_answered: false, ..call.clone() };
                let pause = self.chance.within_ms(30_000);
                self.later(pause, Event::Arrive(Box::new(again)));
                self.coverage.hit("write repeated");
            }
            if call.ask.is_write() && self.chance.happens(self.mix.late) {
                // Given up by the agent, and applied all the same.
                self.coverage.hit("write late");
                way = self.chance.secs(10, 60);
                self.lost(&call);
                call.is_answered = false;
            } else if self.chance.happens(self.mix.lose_answer) {
                self.coverage.hit("answer lost");
                self.lost(&call);
                call.is_answered = false;
            }
        }
        self.later(way, Event::Arrive(Box::new(call)));
        ticket
    }

    /// The caller gets no answer.
    fn lost(&mut self, call: &Call) {
        let Call { node, life, task, ticket, limit, .. } = *call;
        self.agenda.at(limit.max(self.now), Event::Answer { node, life, task, ticket, answer: Answer::Lost });
    }

    /// A request arrives at Consul.
    pub(crate) fn arrive(&mut self, mut call: Box<Call>) {
        let is_from_anywhere = matches!(call.ask, Ask::Barrier);
        let is_leaderless = self.leader_back > self.now && !is_from_anywhere;
        if self.nodes[call.node].is_cut || is_leaderless {
            // A write that waits in a queue may still apply, long after its caller has given up.
            let waits = call.ask.is_write() && self.chance.one_in(4);
            let back = if self.nodes[call.node].is_cut { self.now + CALL_LIMIT } else { self.leader_back };
            if call.is_answered && !self.nodes[call.node].is_cut && back < call.limit.min(self.now + HELD_FOR) {
                self.agenda.at(back + Duration::from_millis(1), Event::Arrive(call));
                return;
            }
            if call.is_answered {
                self.lost(&call);
            }
            if waits {
                self.coverage.hit("write held up");
                call.is_answered = false;
                let pause = self.chance.secs(1, 10);
                self.agenda.at(back + pause, Event::Arrive(call));
            }
            return;
        }
        let Call { node, life, task, ticket, is_answered, .. } = *call;
        let answer = self.consul_answers(&call);
        self.look_for_changes();
        if is_answered {
            let way = self.chance.within_ms(self.mix.latency_ms);
            self.later(way, Event::Answer { node, life, task, ticket, answer });
        }
    }

    fn consul_answers(&mut self, call: &Call) -> Answer {
        let now = self.now;
        match &call.ask {
            Ask::Barrier => Answer::Barrier(self.any_version()),
            Ask::First => Answer::First(Box::new(self.first(call.node))),
            Ask::BarrierNow => Answer::Barrier(self.newest().clone()),
            Ask::Catalog => Answer::Catalog(self.kv.consul.catalog().clone()),
            Ask::Create => {
                let name = self.nodes[call.node].name.to_string();
                let made = self.kv.consul.create_session(&name, Some(TTL), Behavior::Release, now).ok();
                self.watch_sessions();
                Answer::Created(made)
            }
            Ask::Destroy(session) => {
                self.kv.consul.destroy(*session);
                Answer::Done(true)
            }
            Ask::Key(key) => Answer::Key(self.kv.get(key).map(|entry| KeyRead {
                key: key.clone(),
                index: ModifyIndex(entry.modify_index),
                value: Arc::clone(&entry.value),
                holder: entry.holder,
            })),
            Ask::Release(session) => {
                let (key, name) = (self.kv.names.coordinator(), self.nodes[call.node].name.to_string());
                Answer::Done(self.kv.consul.release(&key, name.into_bytes(), *session))
            }
            Ask::Renew(session) => Answer::Done(self.kv.consul.renew(*session, now)),
            Ask::Resolve(request) => Answer::Resolved(Box::new(self.resolve(request))),
            Ask::SessionNode(session) => Answer::SessionNode(self.kv.consul.node_of(*session).map(str::to_owned)),
            Ask::Snapshot(extent) => Answer::Snapshot(Box::new(self.snapshot(*extent))),
            Ask::Transition(session, transition) => {
                let lock = Lock { writer: *session, holder: self.kv.holder(&self.kv.names.coordinator()) };
                let result = self.kv.apply(*session, transition);
                self.judge_transition(call.node, transition, &lock, &result);
                Answer::Txn(result.map(|()| ModifyIndex(self.kv.consul.index())))
            }
            Ask::Txn(ops) => {
                let result = self.kv.txn(ops);
                if call.task == Task::Outbox {
                    let word = if result.is_ok() { "is answered" } else { "may not answer" };
                    say!(self, "{} {word}", self.nodes[call.node].name);
                }
                Answer::Txn(result.map(|()| ModifyIndex(self.kv.consul.index())))
            }
        }
    }

    pub(crate) fn newest(&self) -> &Version {
        self.versions.last().expect("there is always one")
    }

    fn any_version(&mut self) -> Version {
        if !self.is_calm && self.chance.happens(self.mix.stale) {
            self.coverage.hit("stale read");
            let at = self.chance.index(self.versions.len());
            return self.versions[at].clone();
        }
        self.newest().clone()
    }

    /// Wakes the watches of the keys that have changed.
    pub(crate) fn look_for_changes(&mut self) {
        let index = self.kv.consul.index();
        if index == self.looked_at {
            return;
        }
        self.looked_at = index;
        self.see_barrier();
        let lock = self.kv.index_of(&self.kv.names.coordinator());
        if lock != self.lock_at {
            self.lock_at = lock;
            let is_free = self.kv.holder(&self.kv.names.coordinator()).is_none();
            for i in 0..self.nodes.len() {
                if is_free && self.nodes[i].is_candidate && self.nodes[i].agent.is_some() {
                    let pause = self.wake();
                    self.timer(i, pause, Timer::WatchLock);
                }
            }
        }
        for i in 0..self.nodes.len() {
            if self.nodes[i].agent.as_ref().is_some_and(Agent::is_leading) {
                self.wake_leader(i);
            }
        }
        self.judge_log();
    }

    fn see_barrier(&mut self) {
        let key = self.kv.names.barrier();
        let entry = self.kv.get(&key);
        let index = entry.map_or(ModifyIndex(0), |entry| ModifyIndex(entry.modify_index));
        if index == self.newest().index {
            return;
        }
        let decode = |value: &[u8]| Barrier::decode(&key, value).map(Arc::new);
        let record = entry.map(|entry| decode(&entry.value));
        if let Some(Ok(record)) = &record {
            self.coverage.hit(record.phase.as_str());
        }
        let value = self.kv.get(&key).map(|entry| Arc::clone(&entry.value));
        self.versions.push(Version { index, value, record });
        for i in 0..self.nodes.len() {
            if self.nodes[i].agent.is_some() {
                let pause = self.wake();
                self.timer(i, pause, Timer::Watch);
            }
        }
    }

    /// How long after a change a watch reports it.
    fn wake(&mut self) -> Duration {
        let is_slow = !self.is_calm && self.chance.happens(20);
        self.chance.within_ms(if is_slow { 20_000 } else { self.mix.latency_ms })
    }

    /// Plans a check for the next end of a session.
    pub(crate) fn watch_sessions(&mut self) {
        let Some(next) = self.kv.consul.next_end() else { return };
        if self.sessions_at.is_none_or(|at| next < at) {
            self.sessions_at = Some(next);
            self.agenda.at(next.max(self.now), Event::Sessions);
        }
    }

    pub(crate) fn sessions_end(&mut self) {
        self.sessions_at = None;
        // Without a leader no session ends.
        if self.leader_back <= self.now {
            for _ in self.kv.consul.expire(self.now) {
                self.coverage.hit("session ended by time");
                say!(self, "a session ends by time");
            }
            self.look_for_changes();
            self.watch_sessions();
        }
    }

    /// Gives an event to its agent, or keeps it while the agent hangs.
    pub(crate) fn reach(&mut self, i: usize, life: u32, event: Event) {
        let node = &mut self.nodes[i];
        if node.life != life {
            return;
        }
        match &mut node.state {
            State::Down => {}
            State::Hanging(kept) => kept.push(event),
            State::Running => match event {
                Event::Answer { task, ticket, answer, .. } => self.answered(i, task, ticket, answer),
                Event::Timer { timer, .. } => self.rings(i, timer),
                Event::WorkEnds { ticket, .. } => self.work_ends(i, ticket),
                other => unreachable!("no agent is told of {other:?}"),
            },
        }
    }

    fn answered(&mut self, i: usize, task: Task, ticket: u64, answer: Answer) {
        if task == Task::Read {
            let Some(effect) = self.agent(i).reads.remove(&ticket) else { return };
            return self.was_read(i, effect, &answer);
        }
        if task == Task::Round {
            return self.round_answered(i, ticket, answer);
        }
        if self.agent(i).tickets[task as usize] != ticket {
            return;
        }
        match task {
            Task::Candidate => self.candidate_answered(i, answer),
            Task::Follow => self.follow_answered(i, answer),
            Task::Outbox => self.outbox_answered(i, answer),
            Task::Presence => self.presence_answered(i, answer),
            Task::Read | Task::Round => {}
            Task::Watch => self.watch_answered(i, answer),
            Task::Renew => self.renew_answered(i, &answer),
            Task::WatchLock => self.lock_answered(i, answer),
        }
    }

    fn rings(&mut self, i: usize, timer: Timer) {
        match timer {
            Timer::Changed => self.has_changed(i),
            Timer::Candidate(ticket) => self.candidate_waited(i, ticket),
            Timer::Follow(ticket) => self.followed_later(i, ticket),
            Timer::Watch => self.watch(i),
            Timer::Due(wake) => self.is_due(i, wake),
            Timer::Outbox(ticket) => self.waited(i, Task::Outbox, ticket),
            Timer::Presence(ticket) => self.waited(i, Task::Presence, ticket),
            Timer::Prune => {
                let journal = self.nodes[i].journal();
                let pruned = self.nodes[i].disk.prune(self.mix.keep, &journal);
                if pruned > 0 {
                    self.coverage.hit("pruned");
                    self.judge_node(i);
                }
            }
            Timer::Read(effect) => self.read(i, effect),
            Timer::Retry => self.tell(i, crate::protocol::participant::Event::Retry),
            Timer::Send { ticket, round, transition } => self.send(i, ticket, round, transition),
            Timer::WatchLock => self.watch_lock(i),
        }
    }
}
