//! The barrier: pure state machines and the records that they read and write.
#![doc = ""]
#![doc = include_str!("PROTOCOL.md")]
// A new phase, event or duty does not compile until each decision names it.
#![warn(clippy::as_conversions, clippy::match_wildcard_for_single_variants, clippy::wildcard_enum_match_arm)]

pub mod barrier;
pub mod coordinator;
mod effect;
mod event;
pub mod floor;
pub mod ids;
pub mod invariant;
pub mod journal;
pub mod keys;
pub mod participant;
pub mod record;
pub mod recovery;
pub mod resolve;
mod revert;
pub mod rule;
pub(crate) mod shell;
pub mod snapshot;
mod start;
pub mod transition;
