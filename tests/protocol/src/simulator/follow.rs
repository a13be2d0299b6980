//! The reads of a node: `barrier` for its follower, members and histories for its participant.

use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, Task, Timer, Version};
use crate::consul::Entry;
use crate::protocol::ids::Node as Name;
use crate::protocol::participant::{Effect, Event as Told, Verdict};
use crate::protocol::record::{History, decode};
use crate::protocol::shell::follow::{BarrierRead, Event, FirstRead, KeyRead, Step};
use crate::protocol::shell::presence;
use crate::protocol::shell::publisher;
use crate::protocol::shell::rebuild::known_epoch;

impl Sim {
    /// The watch of `barrier` asks any server, and gives up its former request.
    pub(crate) fn watch(&mut self, i: usize) {
        if self.agent(i).is_watching {
            self.call(i, Task::Watch, Ask::Barrier);
        }
    }

    pub(crate) fn watch_answered(&mut self, i: usize, answer: Answer) {
        let Answer::Barrier(version) = answer else {
            let pause = self.chance.span(Duration::from_millis(200), Duration::from_secs(2));
            self.timer(i, pause, Timer::Watch);
            // As in the product, the watch reports its result again after a failure.
            self.agent(i).last_seen = None;
            return self.follow(i, Event::WatchFailed("lost".to_owned()));
        };
        // A server that lags shows the newer state later.
        if version != *self.newest() {
            let pause = self.chance.within_ms(3_000);
            self.timer(i, pause, Timer::Watch);
        }
        if self.agent(i).last_seen.as_ref() == Some(&version) {
            return;
        }
        self.agent(i).last_seen = Some(version.clone());
        self.follow(i, Event::Watched(seen(&version)));
    }

    pub(crate) fn follow_answered(&mut self, i: usize, answer: Answer) {
        let event = match answer {
            Answer::Barrier(version) => Event::Read(seen(&version)),
            Answer::First(first) => Event::First(first),
            Answer::Lost => Event::Failed("lost".to_owned()),
            other => unreachable!("the follower asks for nothing like {other:?}"),
        };
        self.follow(i, event);
    }

    pub(crate) fn followed_later(&mut self, i: usize, ticket: u64) {
        if self.agent(i).tickets[Task::Follow as usize] == ticket {
            self.follow(i, Event::Waited);
        }
    }

    fn follow(&mut self, i: usize, event: Event) {
        let moment = self.moment(i);
        let steps = self.agent(i).follower.on(moment, event);
        self.take_steps(i, steps);
    }

    pub(crate) fn begin_to_follow(&mut self, i: usize) {
        let steps = self.agent(i).follower.begin();
        self.take_steps(i, steps);
    }

    fn take_steps(&mut self, i: usize, steps: Vec<Step>) {
        let life = self.nodes[i].life;
        for step in steps {
            // The step before may have ended the agent.
            if self.nodes[i].agent.is_none() || self.nodes[i].life != life {
                return;
            }
            match step {
                Step::Newer(_) | Step::ReadFailed(_) | Step::Readable(_) | Step::ReadSucceeded => {}
                Step::Read => {
                    self.coverage.hit("read again");
                    self.call(i, Task::Follow, Ask::BarrierNow);
                }
                Step::ReadFirst => {
                    self.call(i, Task::Follow, Ask::First);
                }
                Step::Tell(event) => self.tell(i, event),
                Step::Trust(trust) => {
                    self.publish(i, publisher::Event::Presence(presence::Event::Trust(trust)));
                }
                Step::Wait(pause) => {
                    let ticket = self.ticket();
                    self.agent(i).tickets[Task::Follow as usize] = ticket;
                    self.timer(i, pause, Timer::Follow(ticket));
                }
                Step::Watch => {
                    self.agent(i).is_watching = true;
                    self.timer(i, Duration::from_micros(1), Timer::Watch);
                }
            }
        }
    }

    /// The first read of a node without a record: keys at one index, and its own disk.
    pub(crate) fn first(&self, i: usize) -> FirstRead {
        let node = &self.nodes[i];
        let names = &self.kv.names;
        let kept = |key: &str, entry: &Entry| KeyRead {
            key: key.to_owned(),
            value: entry.value.to_vec(),
            is_held: entry.holder.is_some(),
        };
        let (at_ack, at_nodes) = (names.ack(&node.name), names.nodes());
        FirstRead {
            barrier: seen(self.newest()),
            own_ack: self.kv.get(&at_ack).map(|entry| kept(&at_ack, entry)),
            nodes: self.kv.under(&at_nodes).map(|(name, entry)| kept(name, entry)).collect(),
            on_disk: known_epoch(&node.disk.made()),
        }
    }

    pub(crate) fn was_read(&mut self, i: usize, effect: Effect, answer: &Answer) {
        let Answer::Key(seen) = answer else {
            let pause = self.chance.span(Duration::from_millis(400), Duration::from_millis(800));
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

fn seen(version: &Version) -> Option<BarrierRead> {
    version.value.as_ref().map(|value| BarrierRead { index: version.index, value: value.to_vec() })
}
