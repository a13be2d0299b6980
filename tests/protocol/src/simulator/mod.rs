//! Whole fleets in virtual time, from one seed each: the product's participants and coordinators, a Consul whose semantics
//! are proven against the real one, and faults of everything between and around them.
//!
//! ```text
//!  people ─┐                       ┌─ faults: crashes, hangs, cuts, lost journals, full disks, tampered keys
//!          ▼                       ▼
//!  [consul] ◄── [network] ──► agents: follow, publish, stand and lead ──► participant, disk
//!          └───────────┬───────────┘
//!                   [judge], after every event
//! ```
//!
//! A run has two parts. First come the faults of the seed's [`mix`]. Then all faults end, and within a bound the fleet must
//! be at rest: settled, every node on `committed`, no request waiting, and no alarm (I8). Finally one more deploy must
//! succeed.
//!
//! The same seed gives the same trace, byte for byte. There is no clock, no thread and no unordered map in a run.
//! Not simulated: a power loss in the middle of one write, ACLs, several units on a node, and sizes.

/// A line of the trace.
macro_rules! say {
    ($sim:expr, $($words:tt)*) => {{
        let text = format!($($words)*);
        $sim.diary.note($sim.now, &text);
    }};
}

mod agenda;
mod calm;
mod candidate;
mod chance;
pub(crate) mod command;
mod coverage;
mod diary;
mod disk;
mod faults;
mod follow;
mod judge;
mod lead;
mod mix;
mod network;
mod node;
mod people;
mod publish;
mod reads;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::agenda::{Agenda, Event, Version};
use self::chance::Chance;
use self::coverage::Coverage;
use self::diary::Diary;
use self::judge::Judge;
use self::mix::Mix;
use self::node::{Agent, Node};
use crate::consul::Consul;
use crate::kv::Kv;
use crate::protocol::ids::{ArtifactName, ModifyIndex, Unit};
use crate::protocol::journal::Target;

/// The wall clock's time at the start of each run.
const START: jiff::Timestamp = jiff::Timestamp::constant(1_795_424_400, 0);

/// One fleet.
#[derive(Debug)]
pub(crate) struct Sim {
    chance: Chance,
    mix: Mix,
    unit: Unit,
    now: Duration,
    agenda: Agenda,
    kv: Kv,
    /// Every value that `barrier` ever held.
    versions: Vec<Version>,
    /// The log's index at the last look for changes.
    looked_at: u64,
    /// The index of the lock at that look.
    lock_at: ModifyIndex,
    /// Consul has no leader before this.
    leader_back: Duration,
    sessions_at: Option<Duration>,
    nodes: Vec<Node>,
    is_store_away: bool,
    /// The number of published builds.
    builds: u32,
    bad: reads::Bad,
    /// A snapshot, until it is restored.
    kept: Option<Consul>,
    /// The keys were tampered with, and not recovered yet.
    is_tampered: bool,
    /// The newest era that an operator began.
    era: u32,
    /// The faults are over.
    is_calm: bool,
    calm_since: Duration,
    /// How long after the last fault the fleet was at rest.
    settled_after: Duration,
    /// The build of the one more deploy.
    last_deploy: Option<ArtifactName>,
    /// When that deploy was requested, and how often.
    asked_after: Duration,
    tries: u32,
    /// When a node was last seen to coordinate.
    led_at: Duration,
    judge: Judge,
    coverage: Coverage,
    diary: Diary,
    tickets: u64,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// The broken invariant, if any.
    pub(crate) failure: Option<String>,
    /// Of the whole trace.
    pub(crate) hash: u64,
    /// Empty unless requested.
    pub(crate) trace: String,
    pub(crate) coverage: Coverage,
    pub(crate) events: u64,
    /// How long after the last fault the fleet was at rest.
    pub(crate) settled_after: Duration,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, is_traced: bool) -> Run {
    let mut sim = Sim::new(seed, is_traced);
    let (mut events, mut next_look) = (0, Duration::ZERO);
    while let Some((moment, event)) = sim.agenda.next() {
        sim.now = moment;
        events += 1;
        sim.happens(event);
        if sim.judge.failure().is_some() {
            break;
        }
        if !sim.is_calm && sim.now >= sim.mix.length {
            sim.calm_down();
        }
        if sim.is_calm && sim.now >= next_look {
            next_look = sim.now + Duration::from_secs(1);
            if sim.is_over() {
                break;
            }
        }
    }
    let failure = sim.judge.failure().cloned();
    if let Some(failure) = &failure {
        say!(sim, "BROKEN {failure}");
    }
    let (hash, trace) = sim.diary.close();
    Run { failure, hash, trace, coverage: sim.coverage, events, settled_after: sim.settled_after }
}

impl Sim {
    fn new(seed: u64, is_traced: bool) -> Self {
        let mut chance = Chance::new(seed);
        let mix = Mix::draw(&mut chance);
        let mut kv = Kv::new();
        kv.consul.hurry(mix.hurry);
        let mut nodes = Vec::new();
        for i in 0..mix.nodes {
            let name = format!("n{i}");
            kv.consul.register(&name);
            nodes.push(Node::new(&name, &mix.origin, i < mix.candidates));
        }
        let mut sim = Self {
            unit: "shop/production".parse().unwrap(),
            now: Duration::ZERO,
            agenda: Agenda::default(),
            versions: vec![Version { index: ModifyIndex(0), value: None, record: None }],
            looked_at: 0,
            lock_at: ModifyIndex(0),
            leader_back: Duration::ZERO,
            sessions_at: None,
            is_store_away: false,
            builds: 2,
            bad: reads::Bad::new(),
            kept: None,
            is_tampered: false,
            era: 0,
            is_calm: false,
            calm_since: Duration::ZERO,
            settled_after: Duration::ZERO,
            last_deploy: None,
            asked_after: Duration::ZERO,
            tries: 0,
            led_at: Duration::ZERO,
            judge: Judge::new(&nodes),
            coverage: Coverage::default(),
            diary: Diary::new(is_traced),
            tickets: 0,
            chance,
            mix,
            kv,
            nodes,
        };
        say!(sim, "seed {seed}: {:?}", sim.mix);
        for i in 0..sim.nodes.len() {
            let pause = sim.chance.within_ms(1_000);
            sim.later(pause, Event::Start { node: i });
            sim.nodes[i].pace = 1000 - 50 + u32::try_from(sim.chance.below(101)).unwrap();
        }
        sim.later(Duration::from_secs(2), Event::People);
        sim.later(Duration::from_secs(3), Event::Fault);
        sim
    }

    fn happens(&mut self, event: Event) {
        if let Some((i, life)) = event.agent() {
            return self.reach(i, life, event);
        }
        match event {
            Event::Arrive(call) => self.arrive(call),
            Event::Fault => self.fault(),
            Event::Health { node } => self.is_found_dead(node),
            Event::Mended { node, fault } => self.mended(node, fault),
            Event::People => self.people(),
            Event::Recover => self.recover(),
            Event::Request { text, index } => self.put_request(&text, Some(index)),
            Event::Sessions => self.sessions_end(),
            Event::Start { node } => self.start(node),
            Event::Answer { .. } | Event::Timer { .. } | Event::WorkEnds { .. } => {}
        }
    }

    fn later(&mut self, pause: Duration, event: Event) {
        self.agenda.at(self.now + pause, event);
    }

    const fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// A node's own wall clock.
    fn wall(&self, i: usize) -> jiff::Timestamp {
        let ahead = jiff::SignedDuration::from_secs(self.nodes[i].wall_ahead_secs);
        START + jiff::SignedDuration::try_from(self.now).unwrap() + ahead
    }

    /// Counts a situation with the current phase.
    fn cover_phase(&mut self, what: &'static str, i: usize) {
        let phase = match &self.newest().record {
            Some(Ok(record)) => record.phase.as_str(),
            Some(Err(_)) => "unreadable",
            None => "absent",
        };
        self.coverage.hit_in(what, phase);
        let is_leader = self.nodes[i].agent.as_ref().is_some_and(Agent::is_leading);
        if is_leader && what != "takeover" {
            self.coverage.hit_in("to the coordinator", what);
        }
    }
}

fn aim(to: &Target) -> String {
    match to {
        Target::Origin => "its origin".to_owned(),
        Target::Release(release) => release.epoch.to_string(),
    }
}
