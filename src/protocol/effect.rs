//! What a participant wants done, and the journal that must be durable before any of it.

use super::ids::{Epoch, ModifyIndex};
use super::journal::{Journal, Target};
use super::record::{Answer, Fault, Release};

/// Which way a switch goes; it decides the hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Away from a release that was reverted: the reverted hook.
    Back,
    /// To what is committed: the switched and check hooks.
    Forward,
}

/// What the caller must do, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write `acks/<node>`, fenced by the record's index and the node's own session; until it is written, or the
    /// record is another.
    Acknowledge {
        /// The record that it answers.
        index: ModifyIndex,
        /// Its epoch.
        epoch: Epoch,
        /// Yes or no.
        answer: Answer,
        /// Why not.
        fault: Option<Fault>,
    },
    /// Remove the release directory that `epoch` made; answer [`Event::Discarded`](super::event::Event::Discarded).
    Discard {
        /// The release.
        release: Release,
    },
    /// Stop preparing; [`Event::PrepareEnded`](super::event::Event::PrepareEnded) still comes.
    HaltPrepare,
    /// Stop the hooks of the switch; [`Event::SwitchEnded`](super::event::Event::SwitchEnded) still comes.
    HaltSwitch,
    /// Make the release and the way back complete and durable; answer [`Event::PrepareEnded`](super::event::Event::PrepareEnded).
    Prepare {
        /// What is deployed.
        release: Release,
        /// What must be there to go back to.
        from: Option<Release>,
    },
    /// Read `history/<epoch>` consistently, until it is readable; answer [`Event::History`](super::event::Event::History).
    ReadHistory {
        /// The epoch.
        epoch: Epoch,
    },
    /// Read `members/<epoch>` consistently, until it is readable; answer [`Event::Members`](super::event::Event::Members).
    ReadMembers {
        /// The epoch.
        epoch: Epoch,
    },
    /// Send [`Event::Retry`](super::event::Event::Retry) after a while.
    RetryLater,
    /// Make the target present, switch `current` to it durably, and run the hooks; answer [`Event::SwitchEnded`](super::event::Event::SwitchEnded).
    Switch {
        /// Where to.
        to: Target,
        /// By which hooks.
        way: Way,
    },
}

/// Effects, and the journal that must be durable before any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    persist: Option<Journal>,
    run: Vec<Effect>,
}

impl Effects {
    pub(super) const fn after(persist: Option<Journal>, run: Vec<Effect>) -> Self {
        Self { persist, run }
    }

    /// Writes the journal if it has changed, and hands the effects out only then. `store` answers with whatever
    /// proves to it that the journal is durable.
    ///
    /// # Errors
    ///
    /// Whatever `store` answers. The effects are lost, as after a crash in this moment; the caller must not go on.
    pub fn publish<Receipt, E>(self, store: impl FnOnce(&Journal) -> Result<Receipt, E>) -> Result<Vec<Effect>, E> {
        let _receipt = self.persist.as_ref().map(store).transpose()?;
        Ok(self.run)
    }
}
