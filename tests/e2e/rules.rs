//! Freeze and bad mark bind every way to ask; `force` is stronger, and the history says so.

use serde_json::Value;

use crate::fleet::{Fleet, FleetSpec, PREFIX, UNIT};

fn assert_refused(record: &Value, step: &str, words: &str) {
    assert_eq!((&record["outcome"], &record["fault"]["step"]), (&"refused".into(), &step.into()), "{record:#}");
    assert!(record["fault"]["reason"].as_str().unwrap().contains(words), "{record:#}");
}

/// What the history notes beside a deploy that was done.
fn notes(record: &Value) -> String {
    assert_eq!(record["outcome"], "done", "{record:#}");
    record["notes"].to_string()
}

#[test]
fn a_freeze_and_a_bad_mark_bind_every_way_to_ask_and_force_overrides_them_by_name() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    let two = fleet.publish_and_stage("two");
    let freeze = |text: &str| fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), text]);
    let mark = |text: &str| fleet.consul(&["kv", "put", &format!("cutover/shop/bad/{}", two.artifact), text]);
    let json = format!("{{\"ref\":\"{}\",\"by\":\"bob\",\"via\":\"chat\"}}", two.artifact);
    let ways = ["master", two.artifact.as_str(), "branch:master", &format!("commit:{}", two.commit), &json];

    freeze("sale weekend");
    for way in ways {
        assert_refused(&fleet.put_deploy(way), "freeze", "sale weekend");
    }
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 10, "{output}");
    // One that is over holds nobody.
    freeze("{\"by\":\"ann\",\"reason\":\"over\",\"until\":\"2020-01-01T00:00:00Z\"}");
    mark("leaks memory");
    for way in ways {
        assert_refused(&fleet.put_deploy(way), "bad_mark", "leaks memory");
    }
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 10, "{output}");
    assert_eq!(fleet.assert_all_run("one"), release);

    freeze("sale weekend");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--force", "--reason", "the fix", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let record = &output.json()["record"];
    let notes = notes(record);
    assert!(notes.contains("sale weekend") && notes.contains("leaks memory"), "{record:#}");
    assert_eq!((&record["why"], &record["by"]), (&"the fix".into(), &"ann".into()), "{record:#}");
    fleet.assert_all_run("two");
    let record = fleet.put_deploy("{\"ref\":\"master\",\"again\":true,\"force\":true,\"reason\":\"once more\"}");
    assert!(self::notes(&record).contains("sale weekend"), "{record:#}");
    assert_eq!(record["why"], "once more", "{record:#}");
}
