//! Measures the failure paths on a real fleet of three nodes: to a new coordinator after a kill or a clean stop, from a node's
//! refusal to the end of the deploy, from the decision to revert to the last reverted link.
//!
//! `make bench-ways`, or `cargo bench --bench ways`. It takes a quarter of an hour, since a killed coordinator's session
//! lasts twice its TTL. Always ends with exit code 0, because it is not a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]
#![allow(dead_code, reason = "the fleet is the end-to-end tests', which use more of it")]

#[path = "../tests/e2e/fleet/mod.rs"]
mod fleet;

use std::time::Duration;

use fleet::consul::Entry;
use fleet::node::Node;
use fleet::{Fleet, FleetSpec, LIMIT, PREFIX, wait_until};
use jiff::Timestamp;
use serde_json::Value;

/// How often each is measured.
const ROUNDS: usize = 20;
/// The polling interval for a link.
const LOOK: Duration = Duration::from_micros(100);
/// A deploy of the last build, with a new release each time.
const AGAIN: &str = "{\"ref\":\"master\",\"again\":true}";

fn main() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let times =
        |measure: fn(&Fleet) -> Vec<Duration>| -> Vec<Vec<Duration>> { (0..ROUNDS).map(|_| measure(&fleet)).collect() };
    report(&["SIGTERM of the coordinator to the next lock"], &times(goodbye));
    report(&["a refusal to the record that says aborted", "the same, to the last node that knows it"], &times(refusal));
    report(&["the verdict to the last link that is back"], &times(revert));
    report(
        &["kill -9 of the coordinator to the next lock", "the same, to the next one's first decision"],
        &times(death),
    );
}

fn report(names: &[&str], rounds: &[Vec<Duration>]) {
    for (column, name) in names.iter().enumerate() {
        let mut times: Vec<Duration> = rounds.iter().map(|round| round[column]).collect();
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (median, worst) = (ms(times[times.len() / 2]), ms(times[times.len() - 1]));
        println!("{name:45} median {median:9.1} ms   worst {worst:9.1} ms   {} rounds, 3 nodes", times.len());
    }
}

/// Between two moments of this machine's clock; agents, Consul and this program share it.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn moment(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// Blocks until a key of the group matches, and returns the time when that was seen.
fn seen(fleet: &Fleet, key: &str, is_wanted: impl Fn(&Entry) -> bool) -> Timestamp {
    let mut index = 0;
    loop {
        let query = format!("index={index}&wait=30s");
        let (next, entries) = fleet.consul.keys(&format!("{PREFIX}{key}"), &query).unwrap();
        if entries.first().is_some_and(&is_wanted) {
            return Timestamp::now();
        }
        index = next;
    }
}

fn held_by_another(former: &str) -> impl Fn(&Entry) -> bool {
    move |entry| entry.session.as_deref().is_some_and(|session| session != former)
}

fn lock(fleet: &Fleet) -> String {
    wait_until(LIMIT, "somebody coordinates", || fleet.entry("coordinator")?.session)
}

/// Restarts a stopped agent, and waits until the fleet is complete.
fn return_of(fleet: &Fleet, index: usize) {
    fleet.start_agent(index);
    fleet.wait_for_presence(&[0, 1, 2]);
}

fn ask(fleet: &Fleet) {
    let reply = fleet.consul.call("PUT", &format!("kv/{PREFIX}deploy"), AGAIN.as_bytes()).unwrap();
    assert_eq!(reply.status, 200);
}

fn goodbye(fleet: &Fleet) -> Vec<Duration> {
    let (first, former) = (fleet.coordinator(), lock(fleet));
    let asked = Timestamp::now();
    fleet.nodes[first].signal(rustix::process::Signal::TERM);
    let taken = seen(fleet, "coordinator", held_by_another(&former));
    fleet.term(first);
    return_of(fleet, first);
    vec![between(asked, taken)]
}

/// The coordinator is killed while one node still prepares, and restarted at once, as systemd does. The node answers meanwhile,
/// so that the next coordinator can decide immediately.
fn death(fleet: &Fleet) -> Vec<Duration> {
    let (first, former) = (fleet.coordinator(), lock(fleet));
    let held = &fleet.nodes[(first + 1) % 3];
    held.hold("prepare");
    let mut times = Vec::new();
    fleet.outcome_of(|| {
        ask(fleet);
        held.wait_hook("prepare");
        let killed = Timestamp::now();
        fleet.kill(first);
        fleet.start_agent(first);
        held.release("prepare");
        times.push(between(killed, seen(fleet, "coordinator", held_by_another(&former))));
        times.push(between(killed, seen(fleet, "barrier", is_beyond_prepare)));
    });
    fleet.wait_for_presence(&[0, 1, 2]);
    times
}

fn is_beyond_prepare(entry: &Entry) -> bool {
    entry.json().is_some_and(|barrier| barrier["phase"] != "prepare")
}

/// Measures from the time when a node writes its refusal.
fn refusal(fleet: &Fleet) -> Vec<Duration> {
    let node = &fleet.nodes[1];
    node.fail("prepare", "not here");
    let words = "phase=\"aborted\"";
    let before: Vec<usize> = fleet.nodes.iter().map(|node| node.logged(words)).collect();
    let mut aborted = Timestamp::MIN;
    let record = fleet.outcome_of(|| {
        let epoch = fleet.newest_epoch();
        ask(fleet);
        aborted = seen(fleet, "barrier", |entry| {
            let barrier = entry.json().unwrap_or_default();
            barrier["phase"] == "aborted" && barrier["epoch"].as_u64() > Some(epoch)
        });
    });
    let refused = moment(&fleet.json(&format!("acks/{}", node.name)).unwrap()["at"]);
    let known = fleet.nodes.iter().zip(before).map(|(node, before)| {
        wait_until(LIMIT, "it knows", || (node.logged(words) > before).then(|| last_logged(node, words)))
    });
    let known = known.max().unwrap();
    node.mend("prepare");
    assert_eq!(record["outcome"], "aborted", "{record:#}");
    vec![between(refused, aborted), between(refused, known)]
}

/// The time of the last log message that contains `words`.
fn last_logged(node: &Node, words: &str) -> Timestamp {
    let log = std::fs::read_to_string(node.dir.join("log")).unwrap();
    let line = log.lines().rfind(|line| line.contains(words)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Measures from the coordinator's decision, by its own clock, to the last reverted link.
fn revert(fleet: &Fleet) -> Vec<Duration> {
    let before = fleet.nodes[0].current();
    fleet.nodes[1].fail("check", "not here");
    let mut back = Vec::new();
    let record = fleet.outcome_of(|| {
        back = std::thread::scope(|scope| {
            let watches: Vec<_> =
                fleet.nodes.iter().map(|node| scope.spawn(|| away_and_back(node, before.as_ref()))).collect();
            ask(fleet);
            watches.into_iter().map(|watch| watch.join().unwrap()).collect()
        });
    });
    fleet.nodes[1].mend("check");
    assert_eq!(record["outcome"], "reverted", "{record:#}");
    vec![between(moment(&record["reverted_at"]), back.into_iter().max().unwrap())]
}

fn away_and_back(node: &Node, link: Option<&String>) -> Timestamp {
    for is_back in [false, true] {
        while (node.current().as_ref() == link) != is_back {
            std::thread::sleep(LOOK);
        }
    }
    Timestamp::now()
}
