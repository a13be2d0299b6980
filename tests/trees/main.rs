//! Trees and archives that other tools make: published by `cutover publish` into a store, deployed by an agent, and started in
//! the directory that `current` points to.
//!
//! Every tree comes from its real tool: pip, npm, Bundler, GNU tar, bsdtar, and so on. Their packages lie in `fixtures/`, and
//! nothing is fetched while a test runs. One agent serves all tests with a few units. A release must equal what was
//! published: a directory itself, or what the archive's own tool extracts. The directory is deleted before the program is started,
//! so that a path into it cannot help.
//!
//! `scripts/setup tests` installs the tools; a test whose tool is missing fails and says so. `refusals.rs` has what `publish`
//! refuses, with each message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

mod app;
mod archives;
mod compression;
mod ecosystems;
mod labels;
mod refusals;
mod sample;
mod snapshot;
mod tool;

#[path = "../release/archive.rs"]
#[allow(dead_code, reason = "nothing is unpacked here without an agent")]
mod archive;
#[path = "../e2e/fleet/mod.rs"]
#[allow(dead_code, reason = "one agent that only deploys needs little of it")]
mod fleet;
