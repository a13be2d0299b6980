//! The coordinator's side of a unit: stand for the lock, lead deploys, and the duties that come with the lock (recorded
//! actions, archive, notifications, sweep of the store).

pub(crate) mod archiving;
pub(crate) mod attests;
pub(crate) mod candidate;
pub(crate) mod gap;
pub(crate) mod leading;
pub(crate) mod lease;
pub(crate) mod lookup;
pub(crate) mod metering;
pub(crate) mod news;
pub(crate) mod notifying;
pub(crate) mod recording;
pub(crate) mod resolve;
mod sentence;
pub(crate) mod sweeping;
pub(crate) mod untold;
mod wake;
