//! A candidate for coordinator: when it looks at the lock, acquires it, gives it up, and releases it.
//!
//! ```text
//!  watch ─► free ─► jitter ─► read ─► newer record? ─► create ─► acquire ─► lead, and renew
//!    ▲                         │           │              │         │              │ lost, in doubt, or at shutdown
//!    │◄──────── held ──────────┘           ▼              ▼         ▼              ▼
//!    │◄──────── readable ──────────── await it          pause ◄─ destroy ◄───── release
//!    └──────────────────────────────────────────────────────┘
//! ```
//!
//! A candidate reads the lock before it acquires it, with jitter, since each failed acquire is a write in Consul's log.
//! Losing the lock is never fatal: everything that was under way is in Consul, and the next coordinator goes on from there.
//!
//! The caller must
//!
//! 1. give [`Event::Watched`] for each state of the lock that its watch shows, from [`Step::Watch`] on;
//! 2. answer each step that waits for an outcome; at most one is under way, and a [`Step::Renew`] beside a wait;
//! 3. end the agent only while [`Candidate::is_idle`].

use std::time::Duration;

use super::Moment;
use crate::protocol::record::RecordError;
use crate::protocol::rule::{Rule, holds};

/// How often the lock's session is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long a coordinator acts after its last successful renewal: under the session's TTL of 10 s, the earliest moment at
/// which Consul may end the session.
const IN_DOUBT_AFTER: Duration = Duration::from_secs(8);
/// Spreads the candidates of a fleet when the lock becomes free.
const JITTER: Duration = Duration::from_millis(150);
/// The pause after an attempt that failed, or that another candidate won.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The pause where Consul's ACLs forbid it: every node of a fleet may be in this state, and each attempt is two writes.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// The least wait. A timer may fire a little early, and must not be set again in a tight loop.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// The lock as it was read; `S` is a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lock<S> {
    /// None: the lock is free.
    pub(crate) holder: Option<S>,
    /// The name that the last coordinator wrote into it.
    pub(crate) value: Vec<u8>,
}

/// Why a request to Consul failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Consul's ACLs forbid it.
    Forbidden,
    /// Any other error, or the answer was lost: a write may have applied, or may yet apply.
    Unanswered,
}

#[derive(Clone, Debug)]
pub(crate) enum Event<S> {
    /// The transaction applied: the session holds the lock.
    Acquired,
    /// [`Step::FindNewer`] has ended: a record that a newer program wrote, if there is one.
    Checked(Option<RecordError>),
    Created(S),
    /// [`Step::Destroy`], [`Step::DestroyFormer`] or [`Step::Release`] has ended.
    Done,
    Failed(Failure),
    /// [`Step::Renew`] has ended: the session no longer exists.
    Gone,
    /// [`Step::AskHolder`] has ended: the Consul node of the session; none: the session no longer exists.
    HolderIs(Option<String>),
    /// The coordinator may no longer write, or the agent ends.
    Left,
    /// [`Step::ReadLock`] has ended; none: the key is absent.
    Read(Option<Lock<S>>),
    /// [`Step::AwaitReadable`] has ended.
    Readable,
    /// The transaction did not apply: another candidate was faster.
    Refused,
    /// [`Step::Renew`] has succeeded.
    Renewed,
    /// [`Step::Renew`] has failed.
    RenewalFailed,
    /// [`Step::EndTerm`] has ended.
    TermEnded,
    /// [`Step::Wait`] has ended.
    Waited,
    /// The watch has shown the lock; none: the key is absent.
    Watched(Option<Lock<S>>),
}

/// Work for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<S> {
    Acquire(S),
    /// Find the Consul node of this session.
    AskHolder(S),
    /// Wait until this record is gone, or this program can read it.
    AwaitReadable(RecordError),
    Create,
    Destroy(S),
    /// Destroy the session of a former life of this agent, which holds the lock.
    DestroyFormer(S),
    /// Stop coordinating. Nothing is written under the lock from now on.
    EndTerm(Leaving),
    /// Read the records that a coordinator needs, and find one that a newer program wrote.
    FindNewer,
    /// Begin to coordinate with this session, which holds the lock.
    Lead(S),
    /// Read the lock consistently.
    ReadLock,
    Release(S),
    Renew(S),
    Wait(Duration),
    /// Show the lock as it is now, and each change.
    Watch,
}

/// Why a coordinator gives up the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// The session was not renewed in time: another candidate may have the lock by now.
    InDoubt,
    /// It may no longer write, or its agent ends.
    Left,
    SessionGone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage<S> {
    Acquiring {
        session: S,
        created: Duration,
    },
    /// Finding out whether a former life of this agent holds the lock.
    AskingHolder {
        holder: S,
    },
    AwaitingReadable,
    Checking,
    Creating {
        begun: Duration,
    },
    /// The session is not needed any more.
    Destroying {
        next: AfterDestroy,
    },
    /// The session of a former life is destroyed.
    DestroyingFormer,
    Ending {
        session: S,
    },
    Jittering,
    Leading {
        session: S,
        /// The start of the last successful renewal: the session exists for a TTL from then on at least.
        renewed: Duration,
        renew_at: Duration,
        /// The start of the renewal under way.
        asked: Option<Duration>,
    },
    Pausing,
    Reading,
    Releasing {
        session: S,
    },
    Watching,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterDestroy {
    Pause(Duration),
    Watch,
}

/// A candidate, with or without the lock.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<S> {
    /// The node's name: what its agent writes into the lock.
    name: String,
    consul_node: String,
    /// Whether the lock was looked at in this life.
    has_looked: bool,
    stage: Stage<S>,
}

impl<S: Clone> Candidate<S> {
    pub(crate) const fn new(name: String, consul_node: String) -> Self {
        Self { name, consul_node, has_looked: false, stage: Stage::Watching }
    }

    pub(crate) fn begin(&mut self) -> Vec<Step<S>> {
        self.watch()
    }

    /// Whether it waits for the watch.
    pub(crate) const fn is_watching(&self) -> bool {
        matches!(self.stage, Stage::Watching)
    }

    /// Whether the agent may end: no session of this candidate is left behind.
    pub(crate) const fn is_idle(&self) -> bool {
        match self.stage {
            Stage::AskingHolder { .. }
            | Stage::AwaitingReadable
            | Stage::Checking
            | Stage::Jittering
            | Stage::Pausing
            | Stage::Reading
            | Stage::Watching => true,
            Stage::Acquiring { .. }
            | Stage::Creating { .. }
            | Stage::Destroying { .. }
            | Stage::DestroyingFormer
            | Stage::Ending { .. }
            | Stage::Leading { .. }
            | Stage::Releasing { .. } => false,
        }
    }

    pub(crate) fn on(&mut self, moment: Moment, event: Event<S>) -> Vec<Step<S>> {
        let now = moment.since_start;
        let stage = std::mem::replace(&mut self.stage, Stage::Watching);
        match (stage, event) {
            (Stage::Watching, Event::Watched(lock)) => self.watched(moment, lock),
            (Stage::AskingHolder { holder }, Event::HolderIs(Some(node))) if node == self.consul_node => {
                self.go(Stage::DestroyingFormer, Step::DestroyFormer(holder))
            }
            // Another agent that uses this node's name is for presence to find.
            (Stage::AskingHolder { .. }, Event::HolderIs(_) | Event::Failed(_))
            | (Stage::DestroyingFormer, Event::Done | Event::Failed(_))
            // Not again in this life: the next look is at what the watch shows.
            | (Stage::Pausing, Event::Waited)
            | (Stage::AwaitingReadable, Event::Readable) => self.watch(),
            (Stage::Jittering, Event::Waited) => self.go(Stage::Reading, Step::ReadLock),
            (Stage::Reading, Event::Read(Some(Lock { holder: Some(_), .. }))) => self.watch(),
            (Stage::Reading, Event::Read(_)) => self.go(Stage::Checking, Step::FindNewer),
            (Stage::Checking, Event::Checked(Some(record))) => {
                self.go(Stage::AwaitingReadable, Step::AwaitReadable(record))
            }
            (Stage::Checking, Event::Checked(None)) => self.go(Stage::Creating { begun: now }, Step::Create),
            (Stage::Creating { begun }, Event::Created(session)) => {
                self.go(Stage::Acquiring { session: session.clone(), created: begun }, Step::Acquire(session))
            }
            (Stage::Acquiring { session, created }, Event::Acquired) => {
                let lead = Step::Lead(session.clone());
                let steps = self.keep(now, session, created, now, None);
                [vec![lead], steps].concat()
            }
            (Stage::Acquiring { session, .. }, Event::Refused) => self.destroy(session, self.pause_after(moment, None)),
            // The lock may be this session's: without the session it is free again.
            (Stage::Acquiring { session, .. }, Event::Failed(failure)) => {
                self.destroy(session, self.pause_after(moment, Some(failure)))
            }
            (Stage::Leading { session, .. }, Event::Left) => self.leave(session, Leaving::Left),
            (Stage::Leading { session, .. }, Event::Gone) => self.leave(session, Leaving::SessionGone),
            (Stage::Leading { session, renew_at, asked: Some(asked), .. }, Event::Renewed) => {
                self.keep(now, session, asked, renew_at, None)
            }
            (Stage::Leading { session, renewed, renew_at, .. }, Event::RenewalFailed) => {
                self.keep(now, session, renewed, renew_at, None)
            }
            (Stage::Leading { session, renewed, renew_at, asked }, Event::Waited) => {
                self.keep(now, session, renewed, renew_at, asked)
            }
            (Stage::Ending { session }, Event::TermEnded) => {
                // Released, the lock is free at once. Without this, it is free at the end of the session.
                self.go(Stage::Releasing { session: session.clone() }, Step::Release(session))
            }
            (Stage::Releasing { session }, Event::Done | Event::Failed(_)) => self.destroy(session, AfterDestroy::Watch),
            (Stage::Destroying { next }, Event::Done) => self.after_destroy(next),
            (Stage::Destroying { .. } | Stage::Reading | Stage::Checking | Stage::Creating { .. }, Event::Failed(failure)) => {
                let pause = self.pause_after(moment, Some(failure));
                self.after_destroy(pause)
            }
            // Late, or not waited for in this stage.
            (
                stage,
                Event::Acquired
                | Event::Checked(_)
                | Event::Created(_)
                | Event::Done
                | Event::Failed(_)
                | Event::Gone
                | Event::HolderIs(_)
                | Event::Left
                | Event::Read(_)
                | Event::Readable
                | Event::Refused
                | Event::Renewed
                | Event::RenewalFailed
                | Event::TermEnded
                | Event::Waited
                | Event::Watched(_),
            ) => {
                self.stage = stage;
                Vec::new()
            }
        }
    }

    fn go(&mut self, stage: Stage<S>, step: Step<S>) -> Vec<Step<S>> {
        self.stage = stage;
        vec![step]
    }

    fn watch(&mut self) -> Vec<Step<S>> {
        self.go(Stage::Watching, Step::Watch)
    }

    fn watched(&mut self, moment: Moment, lock: Option<Lock<S>>) -> Vec<Step<S>> {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        match lock {
            // This agent has not coordinated in this life, so this may be a former life of it that was killed. Its session
            // is destroyed now, instead of ending by itself after up to twice its TTL.
            Some(Lock { holder: Some(holder), value }) if is_first && value == self.name.as_bytes() => {
                self.go(Stage::AskingHolder { holder: holder.clone() }, Step::AskHolder(holder))
            }
            Some(Lock { holder: Some(_), .. }) => {
                self.stage = Stage::Watching;
                Vec::new()
            }
            Some(Lock { holder: None, .. }) | None => self.go(Stage::Jittering, Step::Wait(moment.within(JITTER))),
        }
    }

    /// Goes on leading: renews when that is due, and gives up when too much time has passed since the last renewal.
    fn keep(
        &mut self,
        now: Duration,
        session: S,
        renewed: Duration,
        renew_at: Duration,
        asked: Option<Duration>,
    ) -> Vec<Step<S>> {
        let doubt_at = renewed.saturating_add(IN_DOUBT_AFTER);
        if now >= doubt_at {
            return self.leave(session, Leaving::InDoubt);
        }
        let mut steps = Vec::new();
        let (mut renew_at, mut asked) = (renew_at, asked);
        if asked.is_none() && now >= renew_at {
            steps.push(Step::Renew(session.clone()));
            renew_at = now.saturating_add(RENEW_EVERY);
            asked = Some(now);
        }
        let next = if asked.is_some() { doubt_at } else { doubt_at.min(renew_at) };
        steps.push(Step::Wait(next.saturating_sub(now).max(LEAST_WAIT)));
        self.stage = Stage::Leading { session, renewed, renew_at, asked };
        steps
    }

    fn leave(&mut self, session: S, leaving: Leaving) -> Vec<Step<S>> {
        self.go(Stage::Ending { session }, Step::EndTerm(leaving))
    }

    fn destroy(&mut self, session: S, next: AfterDestroy) -> Vec<Step<S>> {
        self.go(Stage::Destroying { next }, Step::Destroy(session))
    }

    fn pause_after(&self, moment: Moment, failure: Option<Failure>) -> AfterDestroy {
        let pause = match failure {
            Some(Failure::Forbidden) => AFTER_REFUSAL,
            Some(Failure::Unanswered) | None => AFTER_FAILURE,
        };
        // Between half and one and a half of it: candidates that failed together do not try again together.
        AfterDestroy::Pause((pause / 2).saturating_add(moment.within(pause)))
    }

    fn after_destroy(&mut self, next: AfterDestroy) -> Vec<Step<S>> {
        match next {
            AfterDestroy::Pause(pause) => self.go(Stage::Pausing, Step::Wait(pause)),
            AfterDestroy::Watch if holds(Rule::StandsAgain) => self.watch(),
            AfterDestroy::Watch => {
                self.stage = Stage::Pausing;
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::FORMAT;

    const fn at(secs: u64) -> Moment {
        Moment { since_start: Duration::from_secs(secs), chance: 0.5 }
    }

    /// A candidate that was given these events at second 0, and its last steps.
    fn candidate(events: impl IntoIterator<Item = Event<u32>>) -> (Candidate<u32>, Vec<Step<u32>>) {
        let mut candidate = Candidate::new("n1".to_owned(), "c1".to_owned());
        let mut steps = candidate.begin();
        for event in events {
            steps = candidate.on(at(0), event);
        }
        (candidate, steps)
    }

    /// To the check for newer records.
    fn looks() -> [Event<u32>; 3] {
        [Event::Watched(None), Event::Waited, Event::Read(None)]
    }

    /// To the lock of session 1.
    fn leads() -> impl Iterator<Item = Event<u32>> {
        looks().into_iter().chain([Event::Checked(None), Event::Created(1), Event::Acquired])
    }

    #[test]
    fn a_candidate_does_not_stand_while_a_newer_record_is_there() {
        let record = RecordError::Newer { key: "barrier".to_owned(), found: 2, readable: FORMAT };
        let (mut candidate, steps) = candidate(looks().into_iter().chain([Event::Checked(Some(record.clone()))]));
        assert_eq!(steps, [Step::AwaitReadable(record)]);
        assert!(candidate.is_idle());
        assert_eq!(candidate.on(at(60), Event::Readable), [Step::Watch]);
    }

    #[test]
    fn a_lock_that_another_session_holds_is_not_acquired() {
        let held = |holder| Some(Lock { holder: Some(holder), value: b"n2".to_vec() });
        let (mut candidate, steps) = candidate([Event::Watched(held(7))]);
        assert!(steps.is_empty() && candidate.is_watching());
        candidate.on(at(1), Event::Watched(None));
        candidate.on(at(1), Event::Waited);
        assert_eq!(candidate.on(at(1), Event::Read(held(8))), [Step::Watch], "another was faster");
    }

    #[test]
    fn only_the_first_look_finds_a_former_life_of_this_agent() {
        let own = || Event::Watched(Some(Lock { holder: Some(7), value: b"n1".to_vec() }));
        let (mut former, steps) = candidate([own()]);
        assert_eq!(steps, [Step::AskHolder(7)]);
        assert_eq!(former.on(at(0), Event::HolderIs(Some("c1".to_owned()))), [Step::DestroyFormer(7)]);
        assert_eq!(former.on(at(0), Event::Done), [Step::Watch]);
        assert_eq!(former.on(at(0), own()), []);
        let (mut other, _) = candidate([own()]);
        assert_eq!(other.on(at(0), Event::HolderIs(Some("c2".to_owned()))), [Step::Watch], "another agent's");
    }

    #[test]
    fn an_acquire_without_an_answer_destroys_its_session_before_the_pause() {
        let (mut candidate, _) = candidate(leads().take(5));
        assert_eq!(candidate.on(at(1), Event::Failed(Failure::Unanswered)), [Step::Destroy(1)]);
        assert!(!candidate.is_idle(), "the session would be left behind");
        assert_eq!(candidate.on(at(1), Event::Done), [Step::Wait(AFTER_FAILURE)]);
        assert_eq!(candidate.on(at(2), Event::Waited), [Step::Watch]);
    }

    #[test]
    fn a_forbidden_attempt_is_followed_by_a_long_pause() {
        let (_, steps) = candidate([Event::Watched(None), Event::Waited, Event::Failed(Failure::Forbidden)]);
        assert_eq!(steps, [Step::Wait(AFTER_REFUSAL)]);
    }

    #[test]
    fn a_coordinator_that_cannot_renew_leaves_before_its_session_can_end() {
        let (mut candidate, steps) = candidate(leads());
        assert_eq!(steps, [Step::Lead(1), Step::Renew(1), Step::Wait(IN_DOUBT_AFTER)]);
        assert_eq!(candidate.on(at(2), Event::Renewed), [Step::Wait(Duration::from_secs(1))]);
        let steps = candidate.on(at(3), Event::Waited);
        assert_eq!(steps, [Step::Renew(1), Step::Wait(Duration::from_secs(5))], "8 s after the first renewal began");
        assert_eq!(candidate.on(at(7), Event::RenewalFailed).first(), Some(&Step::Renew(1)));
        assert_eq!(candidate.on(at(8), Event::Waited), [Step::EndTerm(Leaving::InDoubt)]);
        assert_eq!(candidate.on(at(9), Event::Renewed), [], "too late");
        assert_eq!(candidate.on(at(9), Event::TermEnded), [Step::Release(1)]);
        assert_eq!(candidate.on(at(9), Event::Failed(Failure::Unanswered)), [Step::Destroy(1)]);
        assert_eq!(candidate.on(at(9), Event::Done), [Step::Watch]);
    }
}
