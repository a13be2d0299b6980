//! What a node reads: `barrier` from any server, and the members and histories that its participant asks for.

use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, Task, Timer};
use super::node::backoff;
use crate::protocol::floor::{Admission, admit};
use crate::protocol::ids::Node as Name;
use crate::protocol::participant::{Effect, Event as Told, Verdict};
use crate::protocol::record::{Barrier, History, decode};

impl Sim {
    /// Reads `barrier`; whatever read is under way is given up for it.
    pub(crate) fn follow(&mut self, i: usize) {
        let agent = self.agent(i);
        agent.is_reading_now = agent.is_doubtful || agent.machine.journal().record.is_none();
        let ask = if agent.is_reading_now { Ask::BarrierNow } else { Ask::Barrier };
        self.call(i, Task::Follow, ask);
    }

    pub(crate) fn follow_answered(&mut self, i: usize, answer: Answer) {
        let Answer::Barrier(version) = answer else {
            let pause = self.chance.span(Duration::from_millis(200), Duration::from_secs(2));
            return self.timer(i, pause, Timer::Follow);
        };
        // A server that is behind shows the newer state in the end.
        if version != *self.newest() {
            let pause = self.chance.within_ms(3_000);
            self.timer(i, pause, Timer::Follow);
        }
        let agent = self.agent(i);
        let is_consistent = agent.is_reading_now;
        if is_consistent {
            agent.is_doubtful = false;
        } else if agent.last_seen.as_ref() == Some(&version) {
            return;
        }
        agent.last_seen = Some(version.clone());
        let floor = agent.machine.journal().record.clone();
        let is_late = |record: &Barrier| admit(floor.as_ref(), record) == Admission::Late;
        match version.record {
            Some(Ok(record)) if is_late(&record) && !is_consistent => {
                // An old answer, or keys that were restored?
                agent.is_doubtful = true;
                self.timer(i, Duration::from_micros(1), Timer::Follow);
            }
            Some(Ok(record)) => {
                if is_late(&record) {
                    self.coverage.hit("restored keys noticed");
                }
                let event = Told::Record { index: version.index, record: Box::new((*record).clone()), is_consistent };
                self.tell(i, event);
            }
            Some(Err(reason)) => self.tell(i, Told::Unreadable { reason }),
            None if floor.is_none() => {}
            None if !is_consistent => {
                self.agent(i).is_doubtful = true;
                self.timer(i, Duration::from_micros(1), Timer::Follow);
            }
            None => self.tell(i, Told::Unreadable { reason: "barrier is gone: nothing is changed here".to_owned() }),
        }
    }

    pub(crate) fn was_read(&mut self, i: usize, effect: Effect, answer: &Answer) {
        let Answer::Key(seen) = answer else {
            let pause = backoff(self, Duration::from_millis(200), Duration::from_secs(10), 2);
            return self.timer(i, pause, Timer::Read(effect));
        };
        let seen = seen.as_ref().map(|seen| &seen.value[..]);
        let event = match effect {
            Effect::ReadMembers { epoch } => {
                let members = seen.map_or(Ok(Vec::new()), |value| decode::<Vec<Name>>("members", value)).unwrap();
                Told::Members { epoch, is_member: members.contains(&self.nodes[i].name) }
            }
            Effect::ReadHistory { epoch } => {
                let history = seen.map(|value| decode::<History>("history", value).unwrap());
                let is_reverted = history.is_some_and(|history| history.was_reverted());
                Told::History { epoch, verdict: if is_reverted { Verdict::Reverted } else { Verdict::NotReverted } }
            }
            other => unreachable!("no read: {other:?}"),
        };
        self.tell(i, event);
    }
}
