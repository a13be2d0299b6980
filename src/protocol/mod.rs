//! The barrier: pure state machines and the records that they read and write.
#![doc = ""]
#![doc = include_str!("PROTOCOL.md")]
// A new phase, event or duty does not compile until each decision names it.
#![warn(clippy::as_conversions, clippy::match_wildcard_for_single_variants, clippy::wildcard_enum_match_arm)]

pub(crate) mod barrier;
pub(crate) mod comparison;
pub(crate) mod coordinator;
mod effect;
mod event;
pub(crate) mod floor;
pub(crate) mod git_ref;
pub mod ids;
pub mod journal;
pub mod keys;
pub(crate) mod newest;
pub(crate) mod participant;
pub mod record;
pub(crate) mod recovery;
pub(crate) mod resolve;
mod revert;
pub(crate) mod rule;
pub(crate) mod shell;
pub(crate) mod snapshot;
mod start;
pub(crate) mod transition;
