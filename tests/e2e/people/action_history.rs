//! What is done besides deploys stands in the history: who, when, and once.

use serde_json::{Value, json};

use crate::fleet::consul::Entry;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::people::attestation::vouch_at;

/// Every action that is recorded, in the order in which it was done.
fn actions(fleet: &Fleet) -> Vec<Value> {
    let (_, entries) = fleet.consul.keys(&format!("{PREFIX}actions/"), "recurse&consistent").unwrap();
    let mut actions: Vec<Value> = entries.iter().filter_map(Entry::json).collect();
    actions.sort_by_key(|action| action["epoch"].as_u64());
    actions
}

/// Puts a key, and waits until that is the newest action.
fn put(fleet: &Fleet, key: &str, value: &str, kind: &str) -> Value {
    fleet.consul(&["kv", "put", key, value]);
    let index = fleet.consul.key(key).unwrap().unwrap().modify_index;
    wait_for(fleet, kind, index)
}

fn wait_for(fleet: &Fleet, kind: &str, index: u64) -> Value {
    wait_until(LIMIT, &format!("{kind} at {index} is recorded"), || {
        actions(fleet).into_iter().find(|action| action["epoch"] == index && action["action"] == kind)
    })
}

fn started(spec: &FleetSpec) -> Fleet {
    let fleet = Fleet::start(spec);
    wait_until(LIMIT, "the recorder has begun", || fleet.entry("seen"));
    fleet
}

#[test]
fn every_action_is_in_the_history_with_its_author_in_the_order_in_which_it_was_done() {
    let fleet = started(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    let build = fleet.publish_and_stage("one");
    let freeze = format!("{PREFIX}freeze");
    put(&fleet, &freeze, "sale weekend", "freeze");
    put(&fleet, &freeze, "", "unfreeze");
    let by = |more: &str| format!("{{\"by\":\"bob\",\"via\":\"ui\",\"reason\":\"stocktaking\"{more}}}");
    let until =
        put(&fleet, &freeze, &by(",\"until\":\"2030-01-01T00:00:00Z\",\"at\":\"2026-11-23T09:00:00Z\""), "freeze");
    assert_eq!(until["by"], "bob");
    assert_eq!(until["via"], "ui");
    assert_eq!(until["why"], "stocktaking");
    assert_eq!(until["until"], "2030-01-01T00:00:00Z");
    assert_eq!(until["at"], "2026-11-23T09:00:00Z");
    put(&fleet, &freeze, &by(",\"lifted\":true"), "unfreeze");
    let bad = format!("cutover/shop/bad/{}", build.artifact);
    assert_eq!(put(&fleet, &bad, "leaks", "mark_bad")["subject"], build.artifact.as_str());
    put(&fleet, &bad, &by(",\"lifted\":true"), "mark_good");
    // For this one an agent vouches.
    let marked = by(",\"id\":\"m1\"");
    assert_eq!(vouch_at(&fleet.consul, "web-1", "m1", &bad, &marked), 200);
    assert_eq!(put(&fleet, &bad, &marked, "mark_bad")["verified"]["name"], "ann");
    assert!(fleet.entry("attests/web-1/m1").is_none(), "it is used up");
    // The same bytes for another build are not what it has vouched for.
    let other = "cutover/shop/bad/other-00000000";
    assert_eq!(vouch_at(&fleet.consul, "web-1", "m1", &bad, &marked), 200);
    assert!(put(&fleet, other, &marked, "mark_bad")["verified"].is_null());
    fleet.consul(&["kv", "delete", &format!("{PREFIX}attests/web-1/m1")]);
    fleet.consul(&["kv", "delete", &bad]);
    wait_until(LIMIT, "the deletion is recorded", || {
        (actions(&fleet).iter().filter(|action| action["action"] == "mark_good").count() == 2).then_some(())
    });
    let question = json!({"format":1,"id":"q","ask":{"kind":"repair","node":"web-2"},"by":"bob","via":"cli","at":"2026-11-23T09:00:00Z"});
    assert_eq!(put(&fleet, &format!("{PREFIX}question"), &question.to_string(), "repair")["subject"], "web-2");
    let question =
        json!({"format":1,"id":"r","ask":{"kind":"doctor"},"by":"bob","via":"cli","at":"2026-11-23T09:00:00Z"});
    fleet.consul(&["kv", "put", &format!("{PREFIX}question"), &question.to_string()]);
    fleet.nodes[0].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, &build.artifact]);
    fleet.wait_phase("prepare");
    let epoch = fleet.json("barrier").unwrap()["epoch"].to_string();
    let output = fleet.cutover(&["abort", UNIT, "--reason", "wrong build"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.nodes[0].release("prepare");
    assert_eq!(deploy.finish().code, 4);
    let index = fleet.entry("abort").unwrap().modify_index;
    let abort = wait_for(&fleet, "abort", index);
    assert_eq!(abort["subject"], epoch.as_str(), "{abort:#}");
    assert_eq!(abort["why"], "wrong build", "{abort:#}");

    let document = fleet.cutover(&["history", UNIT, "--output", "json"]).json();
    let entries = document["entries"].as_array().unwrap();
    let kinds: Vec<&str> = entries.iter().rev().map(|entry| entry["kind"].as_str().unwrap()).collect();
    let expected = [
        "publish",
        "freeze",
        "unfreeze",
        "freeze",
        "unfreeze",
        "mark_bad",
        "mark_good",
        "mark_bad",
        "mark_bad",
        "mark_good",
        "repair",
        "deploy",
        "abort",
    ];
    assert_eq!(kinds, expected, "{document:#}");
    assert_eq!(document["requests"].as_array().unwrap().len(), 1, "requests are what they were");
    let text = fleet.cutover(&["history", UNIT]);
    assert!(text.stdout.contains("stocktaking") && text.stdout.contains("ann ✓ (as bob)"), "{text}");
}

#[test]
fn no_action_is_recorded_twice_when_coordinators_die() {
    let fleet = started(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let mut indexes = Vec::new();
    for round in 0..3 {
        let coordinator = fleet.coordinator();
        fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), &format!("round {round}")]);
        fleet.kill(coordinator);
        indexes.push(fleet.entry("freeze").unwrap().modify_index);
        fleet.consul(&["kv", "put", &format!("cutover/shop/bad/master-0000000{round}"), "leaks"]);
        fleet.start_agent(coordinator);
        wait_for(&fleet, "freeze", *indexes.last().unwrap());
        wait_until(LIMIT, "the mark is recorded", || {
            (actions(&fleet).iter().filter(|action| action["action"] == "mark_bad").count() > round).then_some(())
        });
    }
    let recorded = actions(&fleet);
    let of = |kind: &str| recorded.iter().filter(|action| action["action"] == kind).count();
    assert_eq!(of("freeze"), 3, "{recorded:#?}");
    assert_eq!(of("mark_bad"), 3, "{recorded:#?}");
    assert_eq!(recorded.len(), 6, "{recorded:#?}");
    let epochs: Vec<u64> = recorded.iter().map(|action| action["epoch"].as_u64().unwrap()).collect();
    assert!(indexes.iter().all(|index| epochs.contains(index)), "{epochs:?} has not all of {indexes:?}");
}

#[test]
fn a_freeze_with_a_long_reason_is_recorded_and_allows_rollbacks() {
    let fleet = started(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.deployed("two");
    let long = "y".repeat(450_000);
    let put = |key: &str, value: &Value| {
        let reply = fleet.consul.call("PUT", &format!("kv/{key}"), value.to_string().as_bytes()).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        fleet.consul.key(key).unwrap().unwrap().modify_index
    };
    let index = put(&format!("{PREFIX}freeze"), &json!({"by": "bob", "reason": long}));
    assert_eq!(wait_for(&fleet, "freeze", index)["why"], "y".repeat(512));
    let index = put("cutover/shop/bad/master-00000000", &json!({"by": long, "reason": "x"}));
    assert_eq!(wait_for(&fleet, "mark_bad", index)["by"], "y".repeat(256));
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
}

#[test]
fn a_missing_or_foreign_cursor_records_no_old_action_as_new() {
    let fleet = started(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    put(&fleet, &format!("{PREFIX}freeze"), "sale", "freeze");
    let before = actions(&fleet);
    assert_eq!(before.len(), 2, "{before:#?}");
    // As after an upgrade; and as after the keys were brought into a new cluster, whose indexes are lower.
    fleet.consul(&["kv", "delete", &format!("{PREFIX}seen")]);
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "unseen"]);
    wait_until(LIMIT, "the recorder begins again", || fleet.entry("seen"));
    assert_eq!(actions(&fleet), before, "what stood then is no news");
    let above = json!({"freeze": 1_000_000, "abort": 1_000_000, "builds": 1_000_000, "bad": 0, "forgotten": 0});
    let index = fleet.entry("seen").unwrap().modify_index;
    fleet.consul(&["kv", "put", &format!("{PREFIX}seen"), &above.to_string()]);
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "unseen again"]);
    wait_until(LIMIT, "the cursor is of this log again", || {
        (fleet.json("seen")?["builds"].as_u64()? < 1_000_000 && fleet.entry("seen")?.modify_index > index).then_some(())
    });
    assert_eq!(actions(&fleet), before, "what stood then is no news");
    put(&fleet, &format!("{PREFIX}freeze"), "sale again", "freeze");
}
