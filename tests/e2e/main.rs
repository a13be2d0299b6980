//! The whole road: real Consul agents, real `cutover agent` processes, real disks, and the commands that users have.
//!
//! Without a Consul binary these tests fail and say what to do; two need root, and say so. `judge.rs` shares nothing
//! with the product.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod acl;
mod actions;
mod apart;
mod api;
mod api_rights;
mod api_safety;
mod archived;
mod attested;
mod barrier;
mod builds;
mod catches_up;
mod chat;
mod coordinators;
mod cost;
mod counters;
mod disk;
mod doctor;
mod dry_run;
mod fail_static;
mod fleet;
mod forget;
mod gives_up;
mod goes_back;
mod http;
mod judge;
mod judge_test;
mod lives;
mod metrics;
mod node;
mod notify;
mod operating;
mod own_state;
mod payloads;
mod receiver;
mod recover;
mod refusals;
mod rights;
mod road;
mod rules;
mod run;
mod says_no;
mod sse;
mod stream;
mod terminal;
mod ways_back;
mod web;
