//! The coordinator's side of a unit: acquire the lock, lead deploys, and carry out the other duties of the lock's holder
//! (record actions, archive the history, send notifications, sweep the store).

pub(crate) mod actions;
pub(crate) mod archiving;
pub(crate) mod attestations;
pub(crate) mod candidate;
pub(crate) mod leading;
pub(crate) mod lease;
pub(crate) mod lookup;
pub(crate) mod metering;
pub(crate) mod missing_coordinator;
pub(crate) mod notifying;
pub(crate) mod recording;
pub(crate) mod resolve;
mod sentence;
pub(crate) mod sweeping;
pub(crate) mod unsent;
mod wake;
