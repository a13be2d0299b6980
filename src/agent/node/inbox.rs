//! What an owner is told by the tasks that report to it, and its queue.

use tokio::sync::{mpsc, oneshot};

use crate::protocol::participant::Event;
use crate::protocol::record::{Fetching, Finding};

/// The length of the owner's queue: one watch, one work, two reads and a retry can send at once. Senders wait while it
/// is full.
const INPUTS: usize = 16;

#[derive(Debug)]
pub(crate) enum Input {
    Event(Event),
    /// The download that a deploy waits for.
    Fetching(Option<Fetching>),
    /// Asks whether the owner is alive, for the watchdog.
    Ping(oneshot::Sender<()>),
    /// Read the disk again, because staged builds or `current` have changed.
    Look,
    /// Remove old releases, if it is time to.
    Prune,
    /// Point `current` back to the release of the journal, and return the finding.
    Repair(oneshot::Sender<Finding>),
}

/// The owner's queue. Each task that reports to the owner holds a clone of `sender`.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) sender: mpsc::Sender<Input>,
    pub(crate) inputs: mpsc::Receiver<Input>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        let (sender, inputs) = mpsc::channel(INPUTS);
        Self { sender, inputs }
    }
}
