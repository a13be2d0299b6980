//! A real agent that is killed at a system call of a deploy, or whose system call fails.
//!
//! One node, a store in a directory, a build of four files. First, undisturbed deploys count the calls ([`sweep`]): those that
//! read or change the disk below the fleet's directory, send something, or make a descriptor. Then one deploy is disturbed at
//! each of them ([`kills`], [`errors`]). The test fails if the agent, started again where it ended, does not come to rest as the
//! protocol says, if something is left on its disk, if the next deploy does not work, or if no run made the call ([`lane`]).
//!
//! There are two scenarios: a deploy that is done (prepare, switch, prune), and one whose check hook fails (revert, prune).
//!
//! `cargo test` disturbs some calls; `make crash-sweep` all, or those that `CALLS` names, for example
//! `make crash-sweep CALLS='renameat(web-1/srv/current)'`.
#![cfg(all(target_arch = "x86_64", target_env = "gnu"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod calls;
mod errors;
mod kills;
mod lane;
mod sweep;
mod tracer;

#[path = "../e2e/fleet/mod.rs"]
#[allow(dead_code, reason = "this test has its own ways to ask and to wait")]
mod fleet;
