//! The Consul client against real agents, started here from the binary that `scripts/get-consul` finds.
//!
//! Without a Consul these tests fail and say what to do; they are never skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod acl;
mod failures;
mod fake;
mod kv;
mod services;
mod sessions;
mod support;
mod tls;
mod txn;
mod watch;
