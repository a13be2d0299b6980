//! The history in Consul is bounded, and nothing of it is lost.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fleet::receiver::{Mode, Receiver};
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::people::notifications::webhook;

/// Requests and actions that stand there before, each.
const OLD: u64 = 260;
/// What may stand in Consul of each when all is archived: the newest 200, and less than a batch.
const BOUND: usize = 240;

/// The names under a prefix.
fn names(fleet: &Fleet, prefix: &str) -> BTreeSet<String> {
    let (_, entries) = fleet.consul.keys(&format!("{PREFIX}{prefix}"), "recurse&consistent").unwrap();
    entries.into_iter().map(|entry| entry.key.trim_start_matches(PREFIX).to_owned()).collect()
}

/// A long past, by hand, above `base`: every other is a request. The first has never ended; all others end at `at`.
fn write_past(fleet: &Fleet, base: u64, at: &str) {
    let put = |key: &str, value: &Value| {
        let reply = fleet.consul.call("PUT", &format!("kv/{PREFIX}{key}"), value.to_string().as_bytes()).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    for number in 1..=OLD {
        let (request, action) = (base + 2 * number, base + 2 * number + 1);
        let outcome = if number == 1 { Value::Null } else { "refused".into() };
        let ended = if number == 1 { Value::Null } else { at.into() };
        put(
            &format!("history/{request}"),
            &json!({"format":1,"era":0,"epoch":request,"unit":UNIT,"request":"master","by":"ann","via":"cli","artifact":null,
                "branch":null,"commit":null,"release":null,"from":null,"outcome":outcome,"coordinator":"web-1",
                "started_at":"2026-01-01T00:00:00Z","ended_at":ended}),
        );
        put(
            &format!("actions/{action}"),
            &json!({"format":1,"era":0,"epoch":action,"unit":UNIT,"action":"freeze","by":"ann","via":"cli","why":"x",
                "at":at}),
        );
    }
}

/// The number of the fleet's first action, once it is recorded.
fn first_action(fleet: &Fleet) -> u64 {
    wait_until(LIMIT, "the build is recorded", || {
        names(fleet, "actions/").first()?.trim_start_matches("actions/").parse::<u64>().ok()
    })
}

#[test]
fn history_with_pending_notifications_is_not_archived() {
    let settings = |_: usize, dir: &Path| webhook(dir);
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    wait_until(LIMIT, "it is noted where it begins", || fleet.entry("told/audit"));
    fleet.publish_and_stage("one");
    let base = first_action(&fleet);
    audit.wait_taken("build.published", 0);
    audit.set(Mode::Answer(500));
    let kept = names(&fleet, "actions/").len();
    write_past(&fleet, base, &Timestamp::now().to_string());
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "look"]);
    let says = "older history is not archived before its notifications are sent";
    wait_until(LIMIT, "it waits", || (fleet.nodes[0].logged(says) > 0).then_some(()));
    assert!(
        names(&fleet, "actions/").len() > usize::try_from(OLD).unwrap() + kept - 1 && fleet.entry("archive").is_none()
    );
    audit.set(Mode::Answer(200));
    audit.wait("the newest is told", |call| call.is_taken && call.event().1 == base + 2 * OLD + 1);
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "look again"]);
    wait_until(LIMIT, "the older part is archived once it is told", || {
        (names(&fleet, "actions/").len() <= BOUND).then_some(())
    });
    let numbers: BTreeSet<u64> = audit.taken().iter().map(|call| call.event().1).collect();
    assert!((1..=OLD).all(|number| numbers.contains(&(base + 2 * number + 1))), "each freeze was told: {numbers:?}");
}

#[test]
fn older_history_is_archived_and_readable_and_survives_a_store_outage() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    wait_until(LIMIT, "the recorder has begun", || fleet.entry("seen"));
    let build = fleet.publish_and_stage("one");
    // Where nothing of the fleet's own stands: above its only action, and below all that is written from now on.
    let base = first_action(&fleet);
    fleet.unmount_store();
    write_past(&fleet, base, "2026-01-01T00:00:01Z");
    let record = fleet.put_deploy(&build.artifact);
    assert_eq!(record["outcome"], "done", "a store that is away holds up no deploy: {record:#}");
    let deployed = record["epoch"].as_u64().unwrap();
    wait_until(LIMIT, "it is said", || (fleet.nodes[0].logged("older history is not archived") > 0).then_some(()));
    assert_eq!(names(&fleet, "history/").len(), usize::try_from(OLD).unwrap() + 1, "nothing is removed");
    assert!(fleet.entry("archive").is_none());

    fleet.mount_store();
    wait_until(LIMIT, "the older part is archived", || {
        (names(&fleet, "history/").len() <= BOUND && names(&fleet, "actions/").len() <= BOUND).then_some(())
    });
    let kept = names(&fleet, "history/");
    assert!(kept.contains(&format!("history/{}", base + 2)), "a request that has not ended stays");
    let epochs: Vec<u64> = kept.iter().map(|key| key.trim_start_matches("history/").parse().unwrap()).collect();
    // The deploy is the newest of the 200.
    assert!((0..199).all(|back| epochs.contains(&(base + 2 * (OLD - back)))), "the newest stay: {epochs:?}");

    let output = fleet.cutover(&["history", UNIT, "-n", "1000", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let document = output.json();
    let shown: Vec<u64> =
        document["entries"].as_array().unwrap().iter().map(|entry| entry["epoch"].as_u64().unwrap()).collect();
    let mut expected: BTreeSet<u64> = (base + 2..=base + 2 * OLD + 1).collect();
    expected.extend([base, deployed]);
    assert!(shown.is_sorted_by(|a, b| a > b), "newest first, and each once: {shown:?}");
    assert!(expected.is_subset(&shown.iter().copied().collect()), "{shown:?}");
    assert_eq!(document["incomplete"], false);
    assert!(document["archived"].as_u64().unwrap() >= 60);

    // The newest need no store; the others say where to name it, and believe no other bytes.
    let away = "dir:///nonexistent";
    assert_eq!(fleet.cutover(&["history", UNIT, "-n", "100", "--store", away]).code, 0);
    assert_ne!(fleet.cutover(&["history", UNIT, "-n", "1000", "--store", away]).code, 0);
    let archive = fleet.json("archive").unwrap();
    let object = fleet.store.join(archive["segments"][0]["object"].as_str().unwrap());
    let text = std::fs::read_to_string(&object).unwrap();
    assert_eq!(text.lines().count(), usize::try_from(archive["segments"][0]["records"].as_u64().unwrap()).unwrap());
    std::fs::write(&object, text.replacen("ann", "bob", 1)).unwrap();
    let output = fleet.cutover(&["history", UNIT, "-n", "1000"]);
    assert!(output.code == 1 && output.stderr.contains("digest"), "{output}");

    // A record that is in use is there, however old: going back still works.
    fleet.deployed("two");
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
}
