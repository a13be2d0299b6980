//! Freeze and bad mark bind every way to ask; `force` is stronger, and the history says so. `branches` and
//! `require_profile` bind every way to ask, and nothing is stronger.

use serde_json::{Value, json};

use crate::fleet::web::Web;
use crate::fleet::{Build, Fleet, FleetSpec, PREFIX, UNIT, commit_of};

fn assert_refused(record: &Value, step: &str, words: &str) {
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert_eq!(record["fault"]["step"], step, "{record:#}");
    assert!(record["fault"]["reason"].as_str().unwrap().contains(words), "{record:#}");
}

/// What the history notes beside a deploy that was done.
fn notes(record: &Value) -> String {
    assert_eq!(record["outcome"], "done", "{record:#}");
    record["notes"].to_string()
}

#[test]
fn a_freeze_and_a_bad_mark_block_every_kind_of_request_unless_forced() {
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
    assert_eq!(record["why"], "the fix", "{record:#}");
    assert_eq!(record["by"], "ann", "{record:#}");
    fleet.assert_all_run("two");
    let record = fleet.put_deploy("{\"ref\":\"master\",\"again\":true,\"force\":true,\"reason\":\"once more\"}");
    assert!(self::notes(&record).contains("sale weekend"), "{record:#}");
    assert_eq!(record["why"], "once more", "{record:#}");
}

/// Publishes a build of `branch`, of the profile `release` or of none.
fn publish(fleet: &Fleet, branch: &str, version: &str, is_release: bool) -> Build {
    let tree = fleet.dir.path().join("build").join(version);
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("version"), version).unwrap();
    let commit = commit_of(version);
    let mut arguments = vec!["publish", "--app", "shop", "--branch", branch, "--commit", &commit];
    arguments.extend(if is_release { ["--profile", "release"].as_slice() } else { &[] });
    arguments.push(tree.to_str().unwrap());
    let output = fleet.cutover(&arguments);
    assert_eq!(output.code, 0, "{output}");
    Build { artifact: format!("{branch}-{}", &commit[..8]), commit }
}

/// Fails unless every way to ask for `build`, and to go back to it, is refused by a setting that is named.
fn assert_no_way(fleet: &Fleet, build: &Build, setting: &str) {
    let artifact = build.artifact.as_str();
    let commit = format!("commit:{}", build.commit);
    let words = format!("or change {setting} on every node that may coordinate");
    let before = fleet.nodes[0].current();
    let json = json!({"ref": artifact, "force": true, "by": "bob", "via": "chat"}).to_string();
    let to = json!({"ref": artifact, "rollback": true}).to_string();
    for value in [artifact, &commit, &json, "{\"rollback\":true}", &to] {
        assert_refused(&fleet.put_deploy(value), "request", &words);
    }
    for arguments in [
        ["deploy", UNIT, artifact].as_slice(),
        &["deploy", UNIT, &commit, "--force"],
        &["rollback", UNIT],
        &["rollback", UNIT, "--to", artifact],
        &["rollback", UNIT, "--dry-run"],
    ] {
        let output = fleet.cutover(arguments);
        assert!(output.code == 4 && output.stdout.contains(&words), "{arguments:?}: {output}");
    }
    let web = Web::of(&fleet.nodes[0]);
    let at = format!("/v1/deploys/{UNIT}");
    for (rest, body) in [
        ("", json!({"ref": artifact})),
        ("", json!({"ref": artifact, "force": true})),
        ("/rollback", json!({})),
        ("/rollback", json!({"to": artifact})),
    ] {
        let record = fleet.outcome_of(|| {
            web.post(&format!("{at}{rest}"), &body).expect(202);
        });
        assert_eq!(record["via"], "api", "{record:#}");
        assert_refused(&record, "request", &words);
    }
    assert_eq!(fleet.nodes[0].current(), before);
}

#[test]
fn branches_and_require_profile_block_every_request_but_no_revert() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, hooks: true, ..FleetSpec::default() });
    let wild = publish(&fleet, "wild", "one", true);
    let plain = publish(&fleet, "master", "two", false);
    for build in [&wild, &plain] {
        let output = fleet.cutover(&["deploy", UNIT, &build.artifact]);
        assert_eq!(output.code, 0, "{output}");
    }
    let release = fleet.assert_all_run("two");

    // Both have run here, and would not be allowed now.
    let rules = format!("[deploy.\"{UNIT}\"]\nbranches = [\"master\"]\nrequire_profile = \"release\"\n");
    std::fs::create_dir(fleet.nodes[0].dir.join("conf.d")).unwrap();
    std::fs::write(fleet.nodes[0].dir.join("conf.d/rules.toml"), rules).unwrap();
    fleet.term(0);
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    assert_no_way(&fleet, &wild, "branches");

    // What is undone is undone, whatever the rules say of what ran.
    publish(&fleet, "master", "three", true);
    fleet.nodes[0].fail("check", "no");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 9, "{output}");
    assert_eq!(fleet.assert_all_run("two"), release);
    fleet.nodes[0].mend("check");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("three");

    // The release before is of the right branch, and not of the profile.
    assert_no_way(&fleet, &plain, "require_profile");
    publish(&fleet, "master", "four", true);
    for (arguments, version) in [(vec!["deploy", UNIT, "master"], "four"), (vec!["rollback", UNIT], "three")] {
        let output = fleet.cutover(&arguments);
        assert_eq!(output.code, 0, "{output}");
        fleet.assert_all_run(version);
    }
}
