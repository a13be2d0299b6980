//! The rounds of a coordinator: read, decide, write, and read again.
//!
//! Pure: an [`Event`] goes in, [`Step`]s come out, and the caller carries them out in order. The machine holds every rule
//! of a round: what is read and when, what follows a write, and how long to wait. [`Coordinator::decide`] makes the
//! decision of a round.
//!
//! ```text
//!           ┌─────────────── Changed, or the moment has come ─────────────┐
//!           ▼                                                             │
//!  read: small ─► full and catalog ─► history ─► decide ──► rest ─────────┘
//!           ▲                                     │    └──► write ─► Lost: leave
//!           │                                     ▼           │
//!           ├──────────────────────────────── resolve         ├─► Applied ──────────┐
//!           └───── pause ◄── whatever failed, or whose ───────┴─► Conflict          │
//!           ▲                outcome is not known                                   │
//!           └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The caller must
//!
//! 1. give the first event, [`Event::Due`], once its session holds the lock, and drop the machine when it may not;
//! 2. answer each read, [`Step::Resolve`] and [`Step::Write`] with the round that they carry, or with [`Event::Failed`];
//! 3. keep the newest [`Step::Wake`] only.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::coordinator::{Coordinator, Decision, Now, Resolved, Snapshot};
use super::super::ids::Epoch;
use super::super::keys::UnitKeys;
use super::super::record::{Barrier, Fault, RecordError, Request};
use super::super::rule::{Rule, holds};
use super::super::transition::Transition;
use super::look::{Extent, add_history};
use super::reads::{Answer, Progress, Reads};
use crate::backoff::Backoff;

/// The first pause after a read or a write that failed.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest such pause. A write that always fails, for a missing right or its size, must not become a storm of reads.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a conflict: the changed key is read again soon, but not in a tight loop.
const AFTER_CONFLICT: Duration = Duration::from_millis(20);
/// The least time between two reads while many nodes answer: each read transfers every answer.
const PACE_OF_MANY: Duration = Duration::from_millis(100);
/// The number of nodes above which answers are read at that pace: below, each read is a few kilobytes.
const MANY: usize = 50;
/// Without any change, everything is read again after this long: the most that a change missed by the watches costs.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// The moment of an event, as the coordinator's own node sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    /// The monotonic part never goes back.
    pub(crate) now: Now,
    /// The newest record that this node has followed.
    pub(crate) followed: Option<&'a Barrier>,
    /// A random number from 0 to 1, new for each event: it spreads pauses.
    pub(crate) chance: f64,
}

/// The outcome of a write under the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The transaction applied.
    Applied,
    /// Nothing was written: a key was not as it was read.
    Conflict,
    /// Nothing was written: this coordinator no longer holds the lock.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A watched key has changed.
    Changed,
    /// The moment of the newest [`Step::Wake`] has come.
    Due,
    /// The answer to [`Step::ReadKeys`].
    Keys {
        round: u64,
        /// Without catalog, floor and history.
        keys: Box<Snapshot>,
    },
    /// The answer to [`Step::ReadCatalog`].
    Catalog { round: u64, nodes: BTreeSet<String> },
    /// The answer to [`Step::ReadHistory`].
    History {
        round: u64,
        /// None: the key is absent.
        value: Option<Vec<u8>>,
    },
    /// The answer to [`Step::Resolve`].
    Resolved { round: u64, result: Box<Result<Resolved, Fault>> },
    /// The answer to [`Step::Write`].
    Written { round: u64, outcome: Outcome },
    /// A read or write failed, or its answer was lost: a write may have applied, or may yet apply.
    Failed { round: u64 },
}

/// Work for the caller, to be done in this order. The answer to a step repeats its `round`.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// No deploy runs or waits: answers need no watch, and the coordinator may do its other duties.
    AtRest,
    /// The coordinator does nothing until a person has acted. Repeated when the reason changes.
    Halted {
        /// Why, and how to fix it.
        reason: String,
    },
    /// This coordinator may no longer write: release the lock.
    Leave,
    /// Read Consul's own node names.
    ReadCatalog { round: u64 },
    /// Read the record of the barrier's epoch, consistently.
    ReadHistory { round: u64, key: String },
    /// Read keys consistently, at one place in Consul's log.
    ReadKeys { round: u64, extent: Extent },
    /// Find the build that the request means.
    Resolve { round: u64, epoch: Epoch, request: Box<Request> },
    /// The reason for [`Step::Halted`] is gone.
    Resumed,
    /// Only a newer agent can coordinate while this record stands; [`Step::Leave`] follows.
    StandDown {
        /// The record that a newer program wrote.
        record: RecordError,
    },
    /// Give [`Event::Due`] at this moment, and at no earlier one that was named before.
    Wake {
        /// By the coordinator's monotonic time.
        at: Duration,
    },
    /// Watch answers and nodes, and read them no more often than this.
    WatchAnswers {
        /// The least time between two reads of the watches.
        pace: Duration,
    },
    /// Write this in one transaction.
    Write { round: u64, transition: Box<Transition> },
}

/// The progress of a round.
#[derive(Clone, Debug)]
enum State {
    /// This coordinator no longer leads.
    Left,
    /// Until this moment, whatever changes: after a failure or a conflict.
    Pausing {
        until: Duration,
    },
    /// Reading the keys and, for a full round, the catalog.
    Reading(Reads),
    /// Reading the history of the barrier's epoch.
    ReadingHistory {
        floor: Option<Barrier>,
        keys: Box<Snapshot>,
        key: String,
    },
    /// Looking for the build that the request means.
    Resolving {
        epoch: Epoch,
    },
    /// Until this moment, or a change.
    Resting {
        until: Duration,
    },
    Writing,
}

/// The coordinator of a unit while it holds the lock.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    coordinator: Coordinator,
    at: UnitKeys,
    state: State,
    /// Counts the rounds. An answer to an older round is late.
    round: u64,
    /// When the newest round began.
    read_at: Duration,
    /// A watched key has changed since then.
    has_changed: bool,
    extent: Extent,
    /// The least time between two rounds.
    pace: Duration,
    is_watching_answers: bool,
    halted: Option<String>,
    backoff: Backoff,
}

impl Lead {
    /// A coordinator that has just got the lock.
    #[must_use]
    pub(crate) const fn new(coordinator: Coordinator, at: UnitKeys) -> Self {
        Self {
            coordinator,
            at,
            state: State::Resting { until: Duration::ZERO },
            round: 0,
            read_at: Duration::ZERO,
            has_changed: false,
            extent: Extent::Small,
            pace: Duration::ZERO,
            is_watching_answers: false,
            halted: None,
            backoff: Backoff::new(PAUSE, LONGEST_PAUSE),
        }
    }

    /// Takes an event, and returns the work that follows from it.
    pub(crate) fn on(&mut self, moment: &Moment<'_>, event: Event) -> Vec<Step> {
        match event {
            Event::Changed => self.changed(moment),
            Event::Due => self.due(moment),
            Event::Keys { round, keys } if round == self.round => self.answered(moment, Answer::Keys(keys)),
            Event::Catalog { round, nodes } if round == self.round => self.answered(moment, Answer::Catalog(nodes)),
            Event::History { round, value } if round == self.round => self.history(moment, value.as_deref()),
            Event::Resolved { round, result } if round == self.round => self.resolved(moment, *result),
            Event::Written { round, outcome } if round == self.round => self.written(moment, outcome),
            Event::Failed { round } if round == self.round => self.failed(moment),
            // Late: its round was given up when another part of it failed.
            Event::Keys { .. }
            | Event::Catalog { .. }
            | Event::History { .. }
            | Event::Resolved { .. }
            | Event::Written { .. }
            | Event::Failed { .. } => Vec::new(),
        }
    }

    fn changed(&mut self, moment: &Moment<'_>) -> Vec<Step> {
        match self.state {
            State::Resting { .. } => self.wake_at(moment, self.read_at.saturating_add(self.pace)),
            // The reads of the round under way may miss this change.
            State::Reading(_)
            | State::ReadingHistory { .. }
            | State::Resolving { .. }
            | State::Writing
            | State::Pausing { .. } => {
                self.has_changed = true;
                Vec::new()
            }
            State::Left => Vec::new(),
        }
    }

    fn due(&mut self, moment: &Moment<'_>) -> Vec<Step> {
        match self.state {
            State::Resting { until } => self.wake_at(moment, until),
            State::Pausing { until } if until > moment.now.monotonic => vec![Step::Wake { at: until }],
            State::Pausing { .. } => self.begin(moment),
            // A wake that came after a change.
            State::Reading(_)
            | State::ReadingHistory { .. }
            | State::Resolving { .. }
            | State::Writing
            | State::Left => Vec::new(),
        }
    }

    /// Rests until `at`; begins a round where that has come.
    fn wake_at(&mut self, moment: &Moment<'_>, at: Duration) -> Vec<Step> {
        if at <= moment.now.monotonic {
            return self.begin(moment);
        }
        self.state = State::Resting { until: at };
        vec![Step::Wake { at }]
    }

    fn begin(&mut self, moment: &Moment<'_>) -> Vec<Step> {
        self.round = self.round.saturating_add(1);
        self.read_at = moment.now.monotonic;
        // The reads are consistent: they show whatever has changed before them.
        self.has_changed = false;
        // Before the keys: a record that this node follows while they are read must not make them look old.
        self.read(moment.followed.cloned(), self.extent)
    }

    fn read(&mut self, floor: Option<Barrier>, extent: Extent) -> Vec<Step> {
        self.state = State::Reading(Reads::new(floor, extent));
        let round = self.round;
        let keys = Step::ReadKeys { round, extent };
        match extent {
            Extent::Small => vec![keys],
            Extent::Full => vec![keys, Step::ReadCatalog { round }],
        }
    }

    /// Takes the keys or the catalog, and goes on once nothing is missing.
    fn answered(&mut self, moment: &Moment<'_>, answer: Answer) -> Vec<Step> {
        let progress = match &mut self.state {
            State::Reading(reads) => reads.add(answer),
            // Given up: the other read of the round has failed.
            State::Pausing { .. } => return Vec::new(),
            State::ReadingHistory { .. }
            | State::Resolving { .. }
            | State::Resting { .. }
            | State::Writing
            | State::Left => return Vec::new(),
        };
        match progress {
            Progress::Busy { floor } => self.read(floor, Extent::Full),
            Progress::Complete { floor, keys } => self.read_history(moment, floor, keys),
            Progress::Idle { floor, keys } => self.decide(moment, floor, keys),
            Progress::Incomplete => Vec::new(),
        }
    }

    fn read_history(&mut self, moment: &Moment<'_>, floor: Option<Barrier>, keys: Box<Snapshot>) -> Vec<Step> {
        let Some(epoch) = keys.epoch() else { return self.decide(moment, floor, keys) };
        // Only coordinators write the history, together with the barrier, so a separate read is as good.
        let key = self.at.history(epoch);
        self.state = State::ReadingHistory { floor, keys, key: key.clone() };
        vec![Step::ReadHistory { round: self.round, key }]
    }

    fn history(&mut self, moment: &Moment<'_>, value: Option<&[u8]>) -> Vec<Step> {
        let round = std::mem::replace(&mut self.state, State::Resting { until: Duration::ZERO });
        match round {
            State::ReadingHistory { floor, mut keys, key } => {
                add_history(&mut keys, &key, value);
                self.decide(moment, floor, keys)
            }
            other @ (State::Reading(_)
            | State::Pausing { .. }
            | State::Resolving { .. }
            | State::Resting { .. }
            | State::Writing
            | State::Left) => {
                self.state = other;
                Vec::new()
            }
        }
    }

    fn decide(&mut self, moment: &Moment<'_>, floor: Option<Barrier>, mut keys: Box<Snapshot>) -> Vec<Step> {
        keys.floor = if holds(Rule::FloorFirst) { floor } else { moment.followed.cloned() };
        let mut steps: Vec<Step> = self.watch(&keys).into_iter().collect();
        let decision = self.coordinator.decide(moment.now, &keys);
        steps.extend(self.say(&decision));
        let round = self.round;
        match decision {
            Decision::Halt { .. } => steps.extend(self.rest(moment, None)),
            Decision::Stay { until } => steps.extend(self.rest(moment, until)),
            Decision::StandDown { record } => {
                self.state = State::Left;
                steps.extend([Step::StandDown { record }, Step::Leave]);
            }
            Decision::Resolve { epoch, request } => {
                self.state = State::Resolving { epoch };
                steps.push(Step::Resolve { round, epoch, request });
            }
            Decision::Write(transition) => {
                self.state = State::Writing;
                steps.push(Step::Write { round, transition });
            }
        }
        steps
    }

    /// Chooses what to watch and read next: answers and absences matter only while a deploy runs.
    fn watch(&mut self, keys: &Snapshot) -> Option<Step> {
        self.pace = if keys.nodes.len() > MANY { PACE_OF_MANY } else { Duration::ZERO };
        let was_watching = std::mem::replace(&mut self.is_watching_answers, keys.is_busy());
        if keys.is_busy() {
            self.extent = Extent::Full;
            (!was_watching).then_some(Step::WatchAnswers { pace: self.pace })
        } else {
            self.extent = Extent::Small;
            Some(Step::AtRest)
        }
    }

    fn say(&mut self, decision: &Decision) -> Option<Step> {
        let now = match decision {
            Decision::Halt { reason } => Some(reason.clone()),
            Decision::Resolve { .. } | Decision::StandDown { .. } | Decision::Stay { .. } | Decision::Write(_) => None,
        };
        if self.halted == now {
            return None;
        }
        self.halted.clone_from(&now);
        Some(now.map_or(Step::Resumed, |reason| Step::Halted { reason }))
    }

    /// Ends the round. The next one begins at the deploy's deadline, or at once after a change that this round may have
    /// missed.
    fn rest(&mut self, moment: &Moment<'_>, deadline: Option<Duration>) -> Vec<Step> {
        self.backoff.succeeded();
        let latest = moment.now.monotonic.saturating_add(LOOK_AGAIN);
        let until = if self.has_changed { Duration::ZERO } else { deadline.map_or(latest, |it| it.min(latest)) };
        self.wake_at(moment, until.max(self.read_at.saturating_add(self.pace)))
    }

    fn resolved(&mut self, moment: &Moment<'_>, result: Result<Resolved, Fault>) -> Vec<Step> {
        match self.state {
            State::Resolving { epoch } => {
                self.backoff.succeeded();
                self.coordinator.resolved(epoch, result);
                self.begin(moment)
            }
            State::Reading(_)
            | State::ReadingHistory { .. }
            | State::Pausing { .. }
            | State::Resting { .. }
            | State::Writing
            | State::Left => Vec::new(),
        }
    }

    /// Whatever the outcome, everything is read again: nothing is assumed.
    fn written(&mut self, moment: &Moment<'_>, outcome: Outcome) -> Vec<Step> {
        self.backoff.succeeded();
        match outcome {
            Outcome::Applied => self.begin(moment),
            Outcome::Conflict => self.pause(moment, AFTER_CONFLICT),
            Outcome::Lost => {
                self.state = State::Left;
                vec![Step::Leave]
            }
        }
    }

    /// A read failed, or a write may have applied, or may yet apply. The next round reads the result.
    fn failed(&mut self, moment: &Moment<'_>) -> Vec<Step> {
        match self.state {
            State::Reading(_) | State::ReadingHistory { .. } | State::Resolving { .. } | State::Writing => {
                let pause = self.backoff.pause(moment.chance);
                self.pause(moment, pause)
            }
            // The other read of the round has failed before.
            State::Pausing { .. } | State::Resting { .. } | State::Left => Vec::new(),
        }
    }

    fn pause(&mut self, moment: &Moment<'_>, pause: Duration) -> Vec<Step> {
        let until = moment.now.monotonic.saturating_add(pause);
        self.state = State::Pausing { until };
        vec![Step::Wake { at: until }]
    }
}
