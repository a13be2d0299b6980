//! Measures a deploy of a prefetched build on three real nodes, from the request to the last switched link. Compares it with
//! the Consul writes and wake-ups that every such deploy needs, made by a minimal client in the same run.
//!
//! The bare round: a put makes the request; the coordinator wakes and writes prepare; each node wakes and acknowledges; the
//! coordinator wakes, has all answers, and writes commit; each node wakes. No sessions, no checks, no disk.
//!
//! `make bench-deploy`, or `cargo bench --bench deploy`. Always ends with exit code 0, because it is not a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]
#![allow(dead_code, reason = "the fleet is the end-to-end tests', which use more of it")]

#[path = "../tests/e2e/fleet/mod.rs"]
mod fleet;
#[path = "shared/timed.rs"]
mod timed;

use std::time::{Duration, Instant};

use fleet::consul::Consul;
use fleet::{Fleet, FleetSpec, LIMIT, wait_until};
use timed::{deploy, report};

/// How often each is measured; the median counts.
const ROUNDS: usize = 20;
/// Warm-up rounds, for connections and caches.
const WARM_UP: usize = 2;

fn main() {
    let fleet = Fleet::start(&FleetSpec::default());
    let builds = [fleet.publish_and_stage("one"), fleet.publish_and_stage("two")];
    let deploys: Vec<Duration> =
        (0..WARM_UP + ROUNDS).map(|round| deploy(&fleet, &builds[round % 2].artifact)).skip(WARM_UP).collect();
    let agents: Vec<Consul> = (0..fleet.nodes.len()).map(|index| fleet.local_consul(index)).collect();
    let bare: Vec<Duration> =
        (0..WARM_UP + ROUNDS).map(|round| bare_round(&fleet.consul, &agents, round)).skip(WARM_UP).collect();
    let (deploy, bare) = (report("deploy", deploys), report("bare Consul", bare));
    println!("ratio        {:.2}", deploy.as_secs_f64() / bare.as_secs_f64());
}

/// Blocks until `key` holds `wanted`.
fn wait_for(consul: &Consul, key: &str, wanted: &str) {
    let mut index = 0;
    loop {
        let (next, entries) = consul.keys(key, &format!("stale&index={index}&wait=30s")).unwrap();
        if entries.first().is_some_and(|entry| entry.value == wanted.as_bytes()) {
            return;
        }
        index = next;
    }
}

fn put(consul: &Consul, key: &str, value: &str) {
    assert_eq!(consul.call("PUT", &format!("kv/{key}"), value.as_bytes()).unwrap().status, 200);
}

/// The same steps with Consul alone.
fn bare_round(server: &Consul, agents: &[Consul], round: usize) -> Duration {
    let [asked, prepare, commit] = ["asked", "prepare", "commit"].map(|phase| format!("{phase} {round}"));
    std::thread::scope(|scope| {
        let nodes: Vec<_> = agents
            .iter()
            .enumerate()
            .map(|(number, agent)| {
                let (prepare, commit) = (&prepare, &commit);
                scope.spawn(move || {
                    wait_for(agent, "bare/barrier", prepare);
                    put(agent, &format!("bare/acks/{number}"), prepare);
                    wait_for(agent, "bare/barrier", commit);
                    Instant::now()
                })
            })
            .collect();
        scope.spawn(|| {
            wait_for(&agents[0], "bare/deploy", &asked);
            put(&agents[0], "bare/barrier", &prepare);
            let mut index = 0;
            loop {
                let (next, acks) = agents[0].keys("bare/acks/", &format!("recurse&index={index}&wait=30s")).unwrap();
                if acks.iter().filter(|ack| ack.value == prepare.as_bytes()).count() == agents.len() {
                    break;
                }
                index = next;
            }
            put(&agents[0], "bare/barrier", &commit);
        });
        // All clients wait before the clock starts, because the first answers of blocking queries are not part of a deploy.
        let since = Instant::now();
        wait_until(LIMIT, "everyone waits", || (since.elapsed() > Duration::from_millis(100)).then_some(()));
        let begun = Instant::now();
        put(server, "bare/deploy", &asked);
        nodes.into_iter().map(|node| node.join().unwrap()).max().unwrap() - begun
    })
}
