//! The effects that a participant asks for, and the journal that must be durable before any of them.

use super::ids::{Epoch, ModifyIndex};
use super::journal::{Journal, Target};
use super::record::{Answer, Fault, Release};

/// Which way a switch goes; it decides the hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// Away from a release that was reverted: the reverted hook.
    Back,
    /// To what is committed: the switched and check hooks.
    Forward,
}

/// Proof that a journal is on disk and survives a loss of power.
///
/// The ledger of `release` has the product's receipt, with a constructor that only the ledger can call; the proofs have
/// theirs beside their simulated disks. `tests/layering` refuses any other.
pub(crate) trait Receipt {}

/// An answer to a record, for `acks/<node>`. The journal that it follows from is durable.
///
/// Only [`Effects::publish`] makes one, and it needs a [`Receipt`] for that (P3, I6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::manual_non_exhaustive, reason = "the field keeps this crate's other modules out, not other crates")]
pub(crate) struct Acknowledgement {
    /// ModifyIndex of the record that is answered.
    pub(crate) index: ModifyIndex,
    pub(crate) epoch: Epoch,
    pub(crate) answer: Answer,
    pub(crate) fault: Option<Fault>,
    /// Keeps other modules from making an answer without a receipt.
    _durable: (),
}

#[cfg(test)]
impl Acknowledgement {
    /// An answer without a fault, for tests of the outbox.
    pub(in crate::protocol) const fn in_test(index: ModifyIndex, epoch: Epoch, answer: Answer) -> Self {
        Self { index, epoch, answer, fault: None, _durable: () }
    }
}

/// Work for the caller. Effects are carried out in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// Write `acks/<node>`, fenced by the record's index and the node's own session, until it is written or the record
    /// is another.
    Acknowledge(Acknowledgement),
    /// Remove the release directory that `epoch` made; answer [`Event::Discarded`](super::event::Event::Discarded).
    Discard { release: Release },
    /// Stop preparing; [`Event::PrepareEnded`](super::event::Event::PrepareEnded) still comes.
    HaltPrepare,
    /// Stop the hooks of the switch; [`Event::SwitchEnded`](super::event::Event::SwitchEnded) still comes.
    HaltSwitch,
    /// Make the release and the way back complete and durable; answer [`Event::PrepareEnded`](super::event::Event::PrepareEnded).
    Prepare {
        release: Release,
        /// Made present too, so that a revert needs no store; none: nothing was committed before.
        from: Option<Release>,
    },
    /// Read `history/<epoch>` consistently, and retry until that works; answer [`Event::History`](super::event::Event::History).
    ReadHistory { epoch: Epoch },
    /// Read `members/<epoch>` consistently, and retry until that works; answer [`Event::Members`](super::event::Event::Members).
    ReadMembers { epoch: Epoch },
    /// Send [`Event::Retry`](super::event::Event::Retry) after a while.
    RetryLater,
    /// Make the target present, switch `current` to it durably, and run the hooks; answer [`Event::SwitchEnded`](super::event::Event::SwitchEnded).
    Switch { to: Target, way: Way },
}

/// An effect as the participant plans it: an answer without a receipt is no [`Effect`] yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Planned {
    Answer { index: ModifyIndex, epoch: Epoch, answer: Answer, fault: Option<Fault> },
    Effect(Effect),
}

/// Effects, and the journal that must be durable before any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Effects {
    journal: Journal,
    is_new: bool,
    run: Vec<Planned>,
}

impl Effects {
    /// Effects after a journal that is on disk already.
    pub(super) const fn under(journal: Journal, run: Vec<Planned>) -> Self {
        Self { journal, is_new: false, run }
    }

    /// Effects that follow from a changed journal.
    pub(super) const fn after(journal: Journal, run: Vec<Planned>) -> Self {
        Self { journal, is_new: true, run }
    }

    /// Whether there is nothing to write and nothing to do. The model check leaves such steps out.
    #[cfg(feature = "removable-rules")]
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        !self.is_new && self.run.is_empty()
    }

    /// Writes the journal where it has changed, or where `held` has no receipt of this life yet, and hands the effects
    /// out only then. `held` keeps the newest receipt.
    ///
    /// # Errors
    ///
    /// The error of `store`. The effects are lost, as after a crash in this moment; the caller must not go on.
    pub(crate) fn publish<R: Receipt, E>(
        self,
        held: &mut Option<R>,
        store: impl FnOnce(&Journal) -> Result<R, E>,
    ) -> Result<Vec<Effect>, E> {
        if self.is_new || held.is_none() {
            // A failed write must not leave the receipt of the former journal behind.
            *held = None;
            *held = Some(store(&self.journal)?);
        }
        let durable = |planned| match planned {
            Planned::Answer { index, epoch, answer, fault } => {
                Effect::Acknowledge(Acknowledgement { index, epoch, answer, fault, _durable: () })
            }
            Planned::Effect(effect) => effect,
        };
        Ok(self.run.into_iter().map(durable).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Written;

    impl Receipt for Written {}

    /// Reference: P3, I6. The first publication of a life writes the journal, a changed journal is written, and nothing
    /// else is.
    #[test]
    fn nothing_is_published_before_its_journal_is_written() {
        let (mut held, mut writes) = (None, 0);
        let mut publish = |effects: Effects| {
            effects.publish(&mut held, |_| -> Result<Written, ()> {
                writes += 1;
                Ok(Written)
            })
        };
        let run = || vec![Planned::Effect(Effect::RetryLater)];
        publish(Effects::under(Journal::default(), run())).unwrap();
        publish(Effects::under(Journal::default(), run())).unwrap();
        publish(Effects::after(Journal::default(), run())).unwrap();
        assert_eq!(writes, 2);
    }

    #[test]
    fn a_failed_write_publishes_nothing_and_takes_the_receipt_away() {
        let mut held = Some(Written);
        let effects = Effects::after(Journal::default(), vec![Planned::Effect(Effect::RetryLater)]);
        effects.publish(&mut held, |_| Err("no space left")).unwrap_err();
        assert!(held.is_none());
    }
}
