//! The page as a person has it: Debian's Chromium, driven by Playwright, against a real fleet.
//!
//! Each test starts Consul with ACLs, three nodes with hooks that can be held, and agents without units (*desks*) that
//! serve the page behind a proxy; then `scenarios/<name>.py` plays a person, and asks this side for what a page cannot
//! do: hold a hook, kill a desk. What a scenario looks for are roles, labels and words, as they are read to somebody who
//! does not see the page; no class and no id of the page's stands in one.
//!
//! A scenario that fails leaves a picture of each page, and what the browser said, below `target/browser/`.
//! `make bench-page` and `make screenshots` run what is ignored here, as neither can fail for what it finds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod asked;
mod crowd;
mod desk;
mod driven;
mod furnished;
mod looked_at;
mod play;
mod rig;

#[path = "../e2e/fleet.rs"]
#[allow(dead_code, reason = "people at a page type fewer commands")]
mod fleet;
#[path = "../e2e/http.rs"]
mod http;
#[path = "../e2e/judge.rs"]
#[allow(dead_code, reason = "the verdict's counts are for tests whose judge misses nothing")]
mod judge;
#[path = "../e2e/node.rs"]
#[allow(dead_code, reason = "a page shows less of a node")]
mod node;
#[path = "../store/proxy.rs"]
#[allow(dead_code, reason = "only turning to another server is needed here")]
mod proxy;
#[path = "../e2e/run.rs"]
#[allow(dead_code, reason = "people at a page type fewer commands")]
mod run;
#[path = "../e2e/web.rs"]
#[allow(dead_code, reason = "the browser asks for itself")]
mod web;
