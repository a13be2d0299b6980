//! A thousand nodes that exist in Consul alone: their records are put there as agents would, for a unit of their own.
//!
//! One session holds the presence of all, and the coordinator's lock; nobody acts on any of it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::fleet::consul::Consul;

/// How many nodes.
pub(crate) const NODES: usize = 1000;
/// Their unit.
pub(crate) const UNIT: &str = "crowd/production";
/// The deploy that they are in.
pub(crate) const EPOCH: u64 = 100;
/// Consul takes up to 64 operations in one transaction; so many arrive at the page at once.
const BATCH: usize = 50;

const AT: &str = "2026-11-23T22:13:16Z";
const COMMIT: &str = "c148bddd8eeb7cfb11ebd3353e8f112cc35d3ac4";
const DIGEST: &str = "5242525cac1ff92922754bbf698f62a0f491f8f65ad11e38b7c9295c848a64ef";

/// Puts everything there: a deploy in prepare, and nobody has answered yet.
pub(crate) fn gather(consul: &Consul) {
    let session = session(consul);
    let (from, to) = releases();
    let node = |name: &str| {
        json!({
            "format": 1, "node": name, "consul_node": name, "version": env!("CARGO_PKG_VERSION"),
            "config_digest": "9e19f9c9eb3e3cfe", "floor": {"era": 0, "epoch": from["epoch"]}, "astray": false,
            "runs": from, "current": from["release"], "previous": null, "staged": [to["artifact"]],
            "newest_release": from["release"], "free_bytes": 63_350_767_616_u64, "alarm": null, "at": AT,
        })
    };
    let build = json!({
        "artifact": to["artifact"], "branch": "master", "commit": COMMIT, "sha256": DIGEST, "packed_bytes": 229_711,
        "unpacked_bytes": 416_548, "entries": 72, "format": "tar.gz", "by": "ci", "at": AT,
    });
    let history = json!({
        "format": 1, "era": 0, "epoch": EPOCH, "unit": UNIT, "request": "master", "by": "ann", "via": "cli",
        "why": "a thousand at once", "rollback": false, "artifact": to["artifact"], "branch": "master",
        "commit": COMMIT, "release": to["release"], "from": from, "outcome": null, "nodes": {}, "coordinator": name(0),
        "started_at": AT,
    });
    let members: Value = (0..NODES).map(name).collect();
    let mut operations = vec![
        set(&format!("cutover/crowd/builds/{}", to["artifact"].as_str().unwrap()), &build.to_string()),
        set(&key(&format!("members/{EPOCH}")), &members.to_string()),
        set(&key(&format!("history/{EPOCH}")), &history.to_string()),
        held(&key("coordinator"), &name(0), &session),
    ];
    for name in (0..NODES).map(name) {
        operations.push(held(&key(&format!("nodes/{name}")), &node(&name).to_string(), &session));
    }
    for some in operations.chunks(BATCH) {
        apply(consul, some);
    }
    advance(consul, "prepare");
}

/// Brings the deploy to a phase.
pub(crate) fn advance(consul: &Consul, phase: &str) {
    let (from, to) = releases();
    let policy = json!({
        "prepare_timeout_secs": 600, "switch_timeout_secs": 120, "revert_timeout_secs": 30, "absence_grace_secs": 15,
        "absent_nodes": "fail", "min_nodes": 1,
    });
    let committed = if phase == "prepare" { &from } else { &to };
    let barrier = json!({
        "format": 1, "era": 0, "epoch": EPOCH, "phase": phase, "artifact": to["artifact"], "sha256": DIGEST,
        "release": to["release"], "policy": policy, "from": from, "committed": committed,
    });
    let running = json!({"era": 0, "epoch": EPOCH, "phase": phase, "artifact": to["artifact"], "by": "ann"});
    let status = json!({
        "app": "crowd", "group": "production", "current": committed, "running": running, "last": null,
    });
    apply(consul, &[set(&key("barrier"), &barrier.to_string()), set(&key("status"), &status.to_string())]);
}

/// Every node answers, one batch after another, evenly over this time.
pub(crate) fn answer_all(consul: &Consul, answer: &str, over: Duration) {
    let took = match answer {
        "prepared" => json!({"prepare_ms": 42}),
        _ => json!({"prepare_ms": 42, "switch_ms": 9}),
    };
    let ack = json!({"format": 1, "era": 0, "epoch": EPOCH, "answer": answer, "took": took, "at": AT}).to_string();
    let names: Vec<String> = (0..NODES).map(name).collect();
    let step = over / u32::try_from(NODES.div_ceil(BATCH)).unwrap();
    let mut due = Instant::now();
    for batch in names.chunks(BATCH) {
        let acks: Vec<Value> = batch.iter().map(|name| set(&key(&format!("acks/{name}")), &ack)).collect();
        apply(consul, &acks);
        due += step;
        // Load that comes at its time is what is measured; nothing is waited for.
        sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// What they run, and what they are to run.
fn releases() -> (Value, Value) {
    let release = |epoch: u64, artifact: &str, release: &str| json!({"era": 0, "epoch": epoch, "artifact": artifact, "sha256": DIGEST, "release": release});
    (release(51, "master-796fe89a", "20261123221315"), release(EPOCH, "master-c148bddd", "20261123221316"))
}

fn name(number: usize) -> String {
    format!("web-{number:04}")
}

fn key(rest: &str) -> String {
    format!("cutover/{UNIT}/{rest}")
}

fn session(consul: &Consul) -> String {
    let reply = consul.call("PUT", "session/create", br#"{"Name": "crowd", "Checks": []}"#).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_slice::<Value>(&reply.body).unwrap()["ID"].as_str().unwrap().to_owned()
}

fn set(key: &str, value: &str) -> Value {
    json!({"KV": {"Verb": "set", "Key": key, "Value": base64::engine::general_purpose::STANDARD.encode(value)}})
}

fn held(key: &str, value: &str, session: &str) -> Value {
    let mut operation = set(key, value);
    operation["KV"]["Verb"] = json!("lock");
    operation["KV"]["Session"] = json!(session);
    operation
}

fn apply(consul: &Consul, operations: &[Value]) {
    let reply = consul.call("PUT", "txn", json!(operations).to_string().as_bytes()).unwrap();
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
}
