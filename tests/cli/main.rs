//! The command as users and scripts see it: help, exit codes, output; against a real Consul where one is needed.
//!
//! Without a Consul those tests fail and say what to do; they are never skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod asking;
mod help;
mod manual;
mod newest;
mod publish;
mod publish_race;
mod ships;
mod support;
mod usage;
