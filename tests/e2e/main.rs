//! The whole road: real Consul agents, real `cutover agent` processes, real disks, and the commands that users have.
//!
//! Without a Consul binary these tests fail and say what to do; two need root, and say so. `fleet/judge.rs` shares nothing
//! with the product.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod deploy;
mod failure;
mod fleet;
mod http;
mod limits;
mod people;
mod restart;
mod signing;
