//! What reaches an agent from Consul's watches, or pretends to: it changes nothing but when the agent looks.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::consul::{Consul, Reply};
use crate::fleet::counters::{self, Counters, rest};
use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, PREFIX};

/// Events in one storm.
const STORM: usize = 300;
/// Who sends them at the same time.
const SENDERS: usize = 10;
/// The least time between two reads of one watch because it was rung for, in milliseconds (`src/consul/watch.rs`).
const PACE_MS: u64 = 100;
/// The largest body that an agent takes, in bytes (docs/http.md).
const MOST_BYTES: usize = 1024 * 1024;
/// What each unit's agent has read anew when it is rung for: `barrier`, `latest` and `question`.
const RUNG: u64 = 3;
/// What a coordinator reads to look over its unit, rung for or not: `src/agent/coordinator/recording.rs`.
const LOOK: u64 = 4;

/// A fleet that runs `one`, and whose Consul agents run watches and count.
fn fleet() -> Fleet {
    let fleet = Fleet::start(&FleetSpec {
        nodes: 2,
        watches: true,
        consul: vec![counters::settings()],
        ..FleetSpec::default()
    });
    fleet.deployed("one");
    rest(&fleet);
    fleet
}

/// Everything that a payload must not change: each key and where it stands in the log, and each node's disk.
fn state(fleet: &Fleet) -> impl PartialEq + std::fmt::Debug {
    let (_, keys) = fleet.consul.keys("cutover/", "recurse&consistent").unwrap();
    let keys: Vec<_> = keys.into_iter().map(|entry| (entry.key, entry.modify_index, entry.session)).collect();
    let disk = |node: &Node| (node.current(), node.list("releases"), node.list(".cutover/staged"), node.is_running());
    (keys, fleet.nodes.iter().map(disk).collect::<Vec<_>>())
}

/// Does something to the fleet, and fails if anything has changed by it once it is at rest, or it works no longer.
fn changes_nothing(fleet: &Fleet, act: impl FnOnce()) {
    let before = state(fleet);
    act();
    rest(fleet);
    assert_eq!(state(fleet), before);
    assert!(fleet.nodes.iter().all(Node::is_running));
    fleet.deployed("two");
    fleet.assert_all_run("two");
}

fn post(node: &Node, body: &[u8]) -> Reply {
    let agent = Consul { address: node.api.clone(), token: None };
    agent.call("POST", "watch", body).unwrap()
}

/// Fails unless the answer has the form that every error has.
fn assert_says_why(reply: &Reply) {
    let error: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let told = |name: &str| error["error"][name].as_str().is_some_and(|text| !text.is_empty());
    assert!(told("kind") && told("message") && told("hint"), "{reply:?}: {:?}", String::from_utf8_lossy(&reply.body));
}

fn captured(kind: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/limits/watch_payloads");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named = files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path));
    let found: Vec<_> = named
        .filter(|(name, _)| name.starts_with(kind))
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect();
    assert!(found.len() >= 9, "{kind}: {} payloads", found.len());
    found
}

#[test]
fn every_captured_consul_payload_wakes_the_agent_and_changes_nothing() {
    let fleet = fleet();
    changes_nothing(&fleet, || {
        for node in &fleet.nodes {
            for (name, recorded) in captured("http-") {
                let request: Value = serde_json::from_slice(&recorded).unwrap();
                // As it came, and again: Consul replays.
                for _ in 0..2 {
                    let reply = post(node, request["body"].as_str().unwrap().as_bytes());
                    assert_eq!(reply.status, 204, "{name}: {reply:?}");
                }
            }
            for (name, payload) in captured("script-") {
                let agent = format!("http://{}", node.api);
                let output = fleet.cutover_with_input(&["watch-handler", "--agent", &agent], &payload);
                assert_eq!(output.code, 0, "{name}: {output}");
                assert_eq!(output.stdout.as_str(), "", "{name}: {output}");
            }
        }
    });
}

#[test]
fn forged_huge_and_broken_payloads_change_nothing() {
    let fleet = fleet();
    let event = |payload: &str| {
        use base64::Engine as _;
        let payload = base64::engine::general_purpose::STANDARD.encode(payload);
        format!(
            r#"[{{"ID":"ca0e510c-e974-5d14-3cf4-ae8333fc2beb","Name":"cutover-build","Payload":"{payload}","LTime":7}}]"#
        )
    };
    let key = |key: &str, value: &str| {
        format!(
            r#"{{"Key":"{key}","CreateIndex":1,"ModifyIndex":18446744073709551615,"Flags":0,"Value":"{value}","Session":""}}"#
        )
    };
    let of_size = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2)).into_bytes();
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let rings: Vec<Vec<u8>> = vec![
        event("other/master-00000000").into(),
        event("shop/../../../../etc/passwd").into(),
        event("").into(),
        event("\u{0}\u{1b}[31m$(reboot)").into(),
        // "master", as if somebody had asked for a deploy; and an end of everything.
        key(&format!("{PREFIX}deploy"), "bWFzdGVy").into(),
        key(&format!("{PREFIX}barrier"), "").into(),
        key("other/app/deploy", "not base64!").into(),
        b"{}".to_vec(),
        b"0".to_vec(),
        b"\"shop\"".to_vec(),
        of_size(MOST_BYTES),
        deep,
        b"\"\xff\xfe\"".to_vec(),
    ];
    let refused: Vec<(u16, Vec<u8>)> = vec![
        (400, b"".to_vec()),
        (400, b"nonsense".to_vec()),
        (400, b"[{\"ID\":".to_vec()),
        (400, b"[]]".to_vec()),
        (400, b"\0\0\0\0".to_vec()),
        (413, of_size(MOST_BYTES + 1)),
    ];
    changes_nothing(&fleet, || {
        let agent = format!("http://{}", fleet.nodes[0].api);
        let hand = |body: &[u8]| fleet.cutover_with_input(&["watch-handler", "--agent", &agent], body);
        for body in &rings {
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
            assert_eq!(post(&fleet.nodes[0], body).status, 204, "{shown}");
            assert_eq!(hand(body).code, 0, "{shown}");
        }
        for (status, body) in &refused {
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
            let reply = post(&fleet.nodes[0], body);
            assert_eq!(reply.status, *status, "{shown}");
            assert_says_why(&reply);
            let output = hand(body);
            assert_eq!(output.code, 1, "{shown}: {output}");
            assert!(output.stderr.contains("hint: "), "{output}");
        }
        for (method, path, status) in [("GET", "watch", 405), ("POST", "health/live", 405), ("POST", "nowhere", 404)] {
            let agent = Consul { address: fleet.nodes[0].api.clone(), token: None };
            let reply = agent.call(method, path, b"[]").unwrap();
            assert_eq!(reply.status, status, "{method} {path}");
            assert_says_why(&reply);
        }
    });
}

/// Calls `send` [`STORM`] times, from several threads at once.
fn at_once(send: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < STORM);
                std::iter::from_fn(take).for_each(&send);
            });
        }
    });
}

/// The most reads that ringing for so long may cost: each watch at its pace, one that was under way, one at the end;
/// and each watch once for the query that rests, which is sent anew each minute. Besides, a coordinator looks over its
/// unit once a minute.
fn most_reads(time: Duration) -> u64 {
    RUNG * (u64::try_from(time.as_millis()).unwrap() / PACE_MS + 3) + LOOK
}

#[test]
fn a_storm_of_events_costs_a_bounded_number_of_reads_and_changes_nothing() {
    let fleet = fleet();
    let reads = |index: usize| {
        let counters = Counters::of(&fleet.local_consul(index));
        counters.requests("GET", "v1_kv") + counters.requests("PUT", "v1_txn")
    };
    changes_nothing(&fleet, || {
        // Straight to an agent: every call arrives.
        let (before, begun) = (reads(0), Instant::now());
        at_once(|_| assert_eq!(post(&fleet.nodes[0], b"[]").status, 204));
        let sent = begun.elapsed();
        rest(&fleet);
        let read = reads(0) - before;
        eprintln!("{STORM} calls in {sent:?}: {read} reads");
        assert!((RUNG..=most_reads(sent)).contains(&read), "{read} reads for {STORM} calls in {sent:?}");
        // Through Consul, to every node: it spreads them, joins some, and calls for as long as it likes.
        let (before, begun) = ([reads(0), reads(1)], Instant::now());
        at_once(|number| {
            // Some come twice.
            let payload = format!("shop/master-{:08x}", number / 2);
            let reply = fleet.consul.call("PUT", "event/fire/cutover-build", payload.as_bytes()).unwrap();
            assert_eq!(reply.status, 200, "{reply:?}");
        });
        let sent = begun.elapsed();
        rest(&fleet);
        for (index, before) in before.iter().enumerate() {
            let read = reads(index) - before;
            eprintln!("{STORM} events in {sent:?}: {read} reads on {}", fleet.nodes[index].name);
            assert!((RUNG..=most_reads(begun.elapsed())).contains(&read), "{read} reads");
        }
    });
}
