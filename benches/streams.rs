//! How much 500 open streams slow a deploy: rounds with them and without alternate on one fleet of three nodes, in one
//! run, so that whatever else the machine does falls on both alike.
//!
//! A round is one deploy of a build that every node has staged, from the request to the last switched link. Before a
//! round with streams, 500 of them are opened, spread over the agents of the fleet, and each has its snapshot when the
//! clock starts; after it every one must have been sent the deploy's end, or the benchmark fails: streams that fell
//! behind, or were left out, would cost little. Then they are closed, and the round without follows.
//!
//! It is done twice. A deploy without hooks is over before the agents have gathered its changes, so its streams cost
//! what open streams cost, and what is sent comes after the clock has stopped. With a `prepare` hook of 0.4 s the streams
//! are sent documents while the deploy is under way.
//!
//! What is fair: the readers are one process with one thread, which only reads, and keeps the newest event of each
//! stream as bytes. In life they are browsers on other machines, whose work no node feels; here they share the cores of
//! the machine with three agents and four Consuls, and what they need counts as a cost of the streams. On two cores this
//! is the harder case, since no fleet has all its nodes on one machine.
//!
//! `make bench-streams`, or `cargo bench --bench streams`. Ends with exit code 0 whatever it measures: it is no test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]
#![allow(dead_code, reason = "the fleet is the end-to-end tests', which use more of it")]

#[path = "../tests/e2e/fleet/mod.rs"]
mod fleet;
#[path = "shared/readers.rs"]
mod readers;
#[path = "shared/timed.rs"]
mod timed;

use std::time::Duration;

use fleet::{Fleet, FleetSpec};
use readers::Readers;
use timed::{deploy, report};

/// Streams in all; the number.
const STREAMS: usize = 500;
/// How often each is measured; the median counts.
const ROUNDS: usize = 30;
/// Rounds before that, for connections, caches, and the first of everything.
const WARM_UP: usize = 2;
/// A unit whose nodes prepare for longer than the agents gather changes: the streams are sent some while it is under way.
const HOOK: &str = "prefetch = [\"master\"]\n[deploy.\"shop/production\".hooks]\n\
                    prepare = { command = [\"sleep\", \"0.4\"], timeout = \"10s\" }\n";

fn main() {
    if let Some(addresses) = readers::asked_for() {
        return readers::serve(&addresses);
    }
    compare("no hooks", &FleetSpec::default());
    compare("a hook of 0.4 s", &FleetSpec { settings: |_, _| HOOK.to_owned(), ..FleetSpec::default() });
}

/// Measures one fleet with streams and without.
fn compare(what: &str, spec: &FleetSpec) {
    let fleet = Fleet::start(spec);
    let builds = [fleet.publish_and_stage("one"), fleet.publish_and_stage("two")];
    let addresses: Vec<&str> = fleet.nodes.iter().map(|node| node.api.as_str()).collect();
    let mut readers = Readers::start(&addresses);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut documents = 0;
    for round in 0..2 * (WARM_UP + ROUNDS) {
        let artifact = &builds[round % 2].artifact;
        // Without, with, with, without: neither has one build, or the place after the other, to itself.
        if matches!(round % 4, 0 | 3) {
            without.push(deploy(&fleet, artifact));
            continue;
        }
        readers.open(STREAMS);
        with.push(deploy(&fleet, artifact));
        let received = readers.wait_for_end_of(fleet.newest_epoch());
        documents += if with.len() <= WARM_UP { 0 } else { received };
        readers.close();
    }
    let measured = |times: Vec<Duration>| times.into_iter().skip(WARM_UP).collect::<Vec<_>>();
    println!("{what}");
    let without = report("no streams", measured(without));
    let with = report("500 streams", measured(with));
    println!("ratio        {:.3}", with.as_secs_f64() / without.as_secs_f64());
    println!("events       {documents} in all beside the snapshots, {STREAMS} streams in {ROUNDS} rounds");
}
