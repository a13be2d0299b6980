//! The page as a person has it: Debian's Chromium, driven by Playwright, against a real fleet.
//!
//! Each test starts Consul with ACLs, three nodes with hooks that can be held, and agents without units (*page agents*) that
//! serve the page behind a proxy; then `scenarios/<name>.py` plays a person, and asks this side for what a page cannot
//! do: hold a hook, kill a page agent. What a scenario looks for are roles, labels and words, as they are read to somebody who
//! does not see the page; no class and no id of the page's stands in one.
//!
//! A scenario that fails leaves a picture of each page, and what the browser said, below `target/browser/`.
//! `make bench-page` and `make screenshots` run what is ignored here, as neither can fail for what it finds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod interaction;
mod page_agent;
mod pages;
mod rig;
mod sample_rig;
mod scenario;
mod scenario_requests;
mod thousand_nodes;

#[path = "../e2e/fleet/mod.rs"]
#[allow(dead_code, reason = "people at a page type fewer commands")]
mod fleet;
#[path = "../store/proxy.rs"]
#[allow(dead_code, reason = "only turning to another server is needed here")]
mod proxy;
