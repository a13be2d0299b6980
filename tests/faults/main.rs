//! The fault matrix: 3 Consul servers, 5 nodes with real agents, each in a network namespace of its own, and every
//! fault in every phase of a deploy.
//!
//! A cell of the matrix is one deploy of a new build. [`phase`] brings the deploy to its phase and holds it there with
//! gates, [`fault`] does the damage and mends it, [`cell`] puts the two together, proves from Consul and the gates that
//! the fault hit its phase, and waits for the end; the judge of `tests/e2e`, which shares nothing with the product, has
//! the last word. One rig serves many cells; a failed cell costs its rig, and the matrix goes on with a new one.
//!
//! `cargo test` runs the most telling cells; `make faults` runs all of them (`matrix.rs` says how to choose). Needs
//! root, for the namespaces, and fails without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod cell;
mod fault;
mod matrix;
mod network;
mod phase;
mod results;
mod rig;
mod settled;
mod timings;

#[path = "../e2e/fleet/mod.rs"]
#[allow(dead_code, reason = "this test has its own ways to ask and to wait")]
mod fleet;
#[path = "../store/proxy.rs"]
#[allow(dead_code, reason = "only holding is needed here")]
mod proxy;
