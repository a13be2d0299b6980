//! Loss of power at every moment of a deploy: a real agent on a file system that forgets what was not synced.
//!
//! [`disk`] says what is durable, [`server`] serves it to the kernel by FUSE, and [`power`] fails after a chosen operation.
//! [`machine`] is a node whose deploy directory and cache lie there, [`promise`] compares the disk after the loss with what the
//! node has answered in Consul, and [`sweep`] goes through the moments.
//!
//! `cargo test` takes every so many moments; `make power-sweep` takes all. Needs root, to mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod disk;
mod forgets;
mod machine;
mod power;
mod promise;
mod server;
mod sweep;

#[path = "../e2e/fleet/mod.rs"]
#[allow(dead_code, reason = "one agent that only deploys needs little of it")]
mod fleet;
