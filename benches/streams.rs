//! Measures how much 500 open streams slow down a deploy. Rounds with and without streams alternate on one fleet of three
//! nodes, so that other load on the machine affects both equally.
//!
//! A round is one deploy of a build that every node has staged, from the request to the last switched link. Before a
//! round with streams, 500 streams are opened, spread over the agents, and each has its snapshot when the clock starts. After
//! the round every stream must have received the end of the deploy, or the benchmark fails, because streams that are behind
//! cost little. Then the streams are closed, and a round without streams follows.
//!
//! There are two measurements. A deploy without hooks ends before the agents have collected its changes, so it shows the cost
//! of idle streams. With a `prepare` hook of 0.4 s, documents are sent during the deploy.
//!
//! Fairness: the reader is one process with one thread, which keeps the newest event of each stream as bytes. Real readers are
//! browsers on other machines. Here the reader shares the cores with three agents and four Consul processes, and its work
//! counts as a cost of the streams. This is harder than reality, where the nodes are different machines.
//!
//! `make bench-streams`, or `cargo bench --bench streams`. Always ends with exit code 0, because it is not a test.
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

/// The number of streams.
const STREAMS: usize = 500;
/// How often each is measured; the median counts.
const ROUNDS: usize = 30;
/// Warm-up rounds, for connections and caches.
const WARM_UP: usize = 2;
/// Settings of a group whose nodes prepare for longer than the agents collect changes, so that streams are sent changes
/// during the deploy.
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
        // The order without, with, with, without balances builds and positions.
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
