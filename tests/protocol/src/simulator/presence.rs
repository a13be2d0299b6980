//! A node's session and its `nodes/<node>` record; `src/agent/node/presence.rs`.

use std::time::Duration;

use jiff::Timestamp;

use super::Sim;
use super::agenda::{Answer, Ask, Task, Timer};
use crate::consul::{Op as TxnOp, Session};
use crate::protocol::ids::Epoch;
use crate::protocol::record::{FORMAT, NodeRecord, encode};

const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often the record is looked at in Consul.
const LOOK_EVERY: Duration = Duration::from_mins(1);
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Renewing {
        session: Session,
    },
    /// Who holds this node's key: a former self?
    Evicting,
    AskingHolder {
        holder: Session,
    },
    Destroying,
    Creating,
    Looking,
    Publishing {
        said: String,
    },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Presence {
    step: Step,
    /// What it says may have changed.
    pub(crate) is_dirty: bool,
    /// What stands in Consul, by this agent's own last write, apart from its time.
    written: Option<String>,
    looked: Duration,
}

impl Presence {
    pub(crate) fn wrote(&mut self, record: &NodeRecord) {
        self.written = Some(said(record));
    }

    pub(crate) fn forget_written(&mut self) {
        self.written = None;
    }
}

fn said(record: &NodeRecord) -> String {
    let floor = record.floor.map(|floor| Epoch { number: 0, ..floor });
    encode(&NodeRecord { at: Timestamp::UNIX_EPOCH, floor, ..record.clone() })
}

impl Sim {
    pub(crate) fn describe(&mut self, i: usize) -> NodeRecord {
        let at = self.wall(i);
        let node = &self.nodes[i];
        let machine = &node.agent.as_ref().expect("it runs").machine;
        let fault = machine.fault().map(|fault| format!("{}: {}", fault.step.as_str(), fault.reason));
        NodeRecord {
            format: FORMAT,
            node: node.name.clone(),
            consul_node: node.name.to_string(),
            version: "0.1.0".to_owned(),
            config_digest: String::new(),
            floor: machine.journal().record.as_ref().map(|record| record.epoch),
            astray: machine.alarm().is_some(),
            runs: machine.journal().runs.clone(),
            current: node.disk.current.as_ref().map(|release| release.release.to_string()),
            previous: None,
            staged: Vec::new(),
            newest_release: node.disk.releases.keys().next_back().cloned(),
            free_bytes: 0,
            alarm: machine.alarm().or(fault),
            at,
        }
    }

    pub(crate) fn presence_tick(&mut self, i: usize) {
        self.timer(i, RENEW_EVERY, Timer::Tick);
        if self.agent(i).presence.step == Step::Idle {
            self.ensure(i);
        }
    }

    /// Something changed a moment ago.
    pub(crate) fn presence_gathered(&mut self, i: usize) {
        let agent = self.agent(i);
        if agent.presence.step != Step::Idle {
            return;
        }
        if agent.session.is_none() { self.ensure(i) } else { self.publish(i) }
    }

    fn ask_for_presence(&mut self, i: usize, step: Step, ask: Ask) {
        self.agent(i).presence.step = step;
        self.call(i, Task::Presence, ask);
    }

    /// Renews the session that is held, or the one on disk, or makes one.
    fn ensure(&mut self, i: usize) {
        let known = self.agent(i).session.or(self.nodes[i].disk.session);
        match known {
            Some(session) => self.ask_for_presence(i, Step::Renewing { session }, Ask::Renew(session)),
            None => self.evict(i),
        }
    }

    fn evict(&mut self, i: usize) {
        let agent = self.agent(i);
        agent.session = None;
        agent.presence.written = None;
        let key = self.kv.names.node(&self.nodes[i].name);
        self.ask_for_presence(i, Step::Evicting, Ask::Key(key));
    }

    fn publish(&mut self, i: usize) {
        let now = self.now;
        let agent = self.agent(i);
        let Some(session) = agent.session else {
            agent.presence.step = Step::Idle;
            return;
        };
        if now >= agent.presence.looked + LOOK_EVERY {
            agent.presence.looked = now;
            let key = self.kv.names.node(&self.nodes[i].name);
            return self.ask_for_presence(i, Step::Looking, Ask::Key(key));
        }
        self.agent(i).presence.step = Step::Idle;
        let is_new = self.agent(i).presence.written.is_none();
        if !std::mem::take(&mut self.agent(i).presence.is_dirty) && !is_new {
            return;
        }
        let record = self.describe(i);
        let said = said(&record);
        if self.agent(i).presence.written.as_ref() == Some(&said) {
            return;
        }
        let key = self.kv.names.node(&self.nodes[i].name);
        let lock = TxnOp::Lock { key, value: encode(&record).into_bytes().into(), session };
        self.ask_for_presence(i, Step::Publishing { said }, Ask::Txn(vec![lock]));
    }

    pub(crate) fn presence_answered(&mut self, i: usize, answer: Answer) {
        let step = std::mem::take(&mut self.agent(i).presence.step);
        match (step, answer) {
            (Step::Renewing { session }, Answer::Done(true)) => {
                let was_away = self.agent(i).session.replace(session).is_none();
                if was_away {
                    self.session_is_back(i);
                }
                self.publish(i);
            }
            (Step::Renewing { .. }, Answer::Done(false)) => self.evict(i),
            (Step::Evicting, Answer::Key(seen)) => match seen.and_then(|seen| seen.holder) {
                Some(holder) => {
                    self.ask_for_presence(i, Step::AskingHolder { holder }, Ask::SessionNode(holder));
                }
                None => self.ask_for_presence(i, Step::Creating, Ask::Create),
            },
            (Step::AskingHolder { holder }, Answer::SessionNode(Some(node))) => {
                assert_eq!(node, self.nodes[i].name.as_str(), "one agent for each node");
                self.ask_for_presence(i, Step::Destroying, Ask::Destroy(holder));
            }
            (Step::AskingHolder { .. }, Answer::SessionNode(None)) | (Step::Destroying, Answer::Done(_)) => {
                self.ask_for_presence(i, Step::Creating, Ask::Create);
            }
            (Step::Creating, Answer::Created(Some(session))) => {
                self.nodes[i].disk.session = Some(session);
                self.agent(i).session = Some(session);
                self.session_is_back(i);
                self.publish(i);
            }
            (Step::Looking, Answer::Key(seen)) => {
                let agent = self.agent(i);
                if seen.and_then(|seen| seen.holder) != agent.session {
                    agent.presence.written = None;
                }
                self.publish(i);
            }
            (Step::Publishing { said }, Answer::Txn(Ok(_))) => {
                self.agent(i).presence.written = Some(said);
                // What changed meanwhile is said next.
                self.timer(i, Duration::from_millis(50), Timer::Presence);
            }
            (Step::Publishing { .. }, Answer::Txn(Err(_))) => {
                let agent = self.agent(i);
                agent.session = None;
                agent.presence.is_dirty = true;
                self.timer(i, REFUSED_PAUSE, Timer::Presence);
            }
            (_, _) => self.agent(i).presence.is_dirty = true,
        }
    }
}
