//! The commands of whoever looks after groups and builds: freeze, marks, CI's word, a group's build for another group,
//! and a link that was moved by hand.

use std::path::Path;

use serde_json::{Value, json};

use crate::fleet::web::Web;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// A commit of 40 digits, and the artifact's name that follows from it.
const COMMIT: &str = "abcdef0123456789abcdef0123456789abcdef01";
const ARTIFACT: &str = "master-abcdef01";

fn build<'a>(document: &'a Value, artifact: &str) -> &'a Value {
    let builds = document["builds"].as_array().unwrap();
    builds.iter().find(|row| row["artifact"] == artifact).unwrap_or_else(|| panic!("no {artifact} in {document:#}"))
}

#[test]
fn a_freeze_and_a_bad_mark_stop_deploys_until_they_are_lifted() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let one = fleet.publish_and_stage("one");
    let output = fleet.cutover(&["freeze", UNIT, "--reason", "sale", "--until", "1h", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let freeze = &output.json()["freeze"];
    assert_eq!(freeze["by"], "ann");
    assert_eq!(freeze["reason"], "sale");
    assert_eq!(freeze["via"], "cli");
    assert!(freeze["until"].is_string());
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 10, "{output}");
    assert!(output.stdout.contains("sale"), "{output}");
    assert_eq!(fleet.cutover(&["unfreeze", UNIT]).code, 0);
    let again = fleet.cutover(&["unfreeze", UNIT, "--output", "json"]);
    assert_eq!(again.code, 0);
    assert_eq!(again.json()["lifted"], false);

    let output = fleet.cutover(&["build", "mark-bad", "shop", &one.artifact, "--reason", "leaks"]);
    assert_eq!(output.code, 0, "{output}");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 10, "{output}");
    assert!(output.stdout.contains("leaks"), "{output}");
    let builds = fleet.cutover(&["builds", "shop", "--output", "json"]).json();
    assert_eq!(build(&builds, &one.artifact)["bad"]["by"], "ann", "{builds:#}");
    assert_eq!(fleet.cutover(&["build", "mark-good", "shop", &one.artifact]).code, 0);
    assert_eq!(fleet.cutover(&["build", "mark-good", "shop", "master-00000000"]).code, 3, "there is no such build");
    // A mark whose build is gone can be lifted, once.
    fleet.consul(&["kv", "put", "cutover/shop/bad/master-00000000", "leaks"]);
    assert_eq!(fleet.cutover(&["build", "mark-good", "shop", "master-00000000"]).code, 0);
    assert_eq!(fleet.cutover(&["build", "mark-good", "shop", "master-00000000"]).code, 3);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
    assert_eq!(fleet.cutover(&["build", "mark-bad", "shop", "master-00000000"]).code, 3);
    assert_eq!(fleet.cutover(&["freeze", "shop/nowhere"]).code, 3);
    assert_eq!(fleet.cutover(&["freeze", UNIT, "--until", "2020-01-01T00:00:00Z"]).code, 2);
}

#[test]
fn ci_reports_a_builds_state_and_a_late_report_does_not_undo_publishing() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.deployed("one");
    let say = |what: &str, more: &[&str]| {
        let mut arguments = vec!["build", what, "shop", "--branch", "master", "--commit", COMMIT, "--output", "json"];
        arguments.extend(more);
        let output = fleet.cutover(&arguments);
        assert_eq!(output.code, 0, "{output}");
        output.json()["record"].clone()
    };
    let begun = say("start", &["--url", "https://ci.example.com/7"]);
    assert_eq!(begun["state"], "building");
    assert!(begun["begun_at"].is_string() && begun["lost_at"].is_string(), "{begun:#}");
    // A deploy of the branch would not be what its newest commit says.
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stdout.contains("is still being built"), "{output}");
    let failed = say("fail", &["--reason", "tests"]);
    assert_eq!(failed["state"], "failed");
    assert_eq!(failed["begun_at"], begun["begun_at"]);
    assert_eq!(failed["url"], begun["url"]);
    assert_eq!(failed["reason"], "tests");
    let begun = say("start", &[]);
    let tree = fleet.dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("version"), "two").unwrap();
    let publish = ["publish", "--app", "shop", "--branch", "master", "--commit", COMMIT, tree.to_str().unwrap()];
    let output = fleet.cutover(&publish);
    assert_eq!(output.code, 0, "{output}");
    for late in ["start", "fail", "cancel"] {
        let record = say(late, &[]);
        assert_eq!(record["state"], "published", "{late}");
        assert_eq!(record["begun_at"], begun["begun_at"], "{late}");
    }
    let builds = fleet.cutover(&["builds", "shop", "--output", "json"]).json();
    assert_eq!(build(&builds, ARTIFACT)["state"], "published");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_deploy_from_another_group_takes_exactly_its_build_if_it_succeeded_there() {
    let settings = |index: usize, dir: &Path| {
        let canary = dir.join(format!("canary-{index}"));
        let hook = "check = { command = [\"sh\", \"-c\", \"! grep -q broken version\"] }";
        format!(
            "[deploy.\"shop/canary\"]\ndeploy_to = \"{}\"\nprefetch = []\n[deploy.\"shop/canary\".hooks]\n{hook}\n",
            canary.display()
        )
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    wait_until(LIMIT, "the canary's first keys", || fleet.consul.key("cutover/shop/canary/barrier").unwrap());
    let output = fleet.cutover(&["deploy", UNIT, "--from", "shop/canary"]);
    assert_eq!(output.code, 3, "{output}");
    fleet.publish("one");
    assert_eq!(fleet.cutover(&["deploy", "shop/canary", "master"]).code, 0);
    fleet.publish("two");
    let output = fleet.cutover(&["deploy", UNIT, "--from", "shop/canary"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
    fleet.publish("broken");
    let output = fleet.cutover(&["deploy", "shop/canary", "master"]);
    assert_eq!(output.code, 9, "{output}");
    let output = fleet.cutover(&["deploy", UNIT, "--from", "shop/canary"]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stderr.contains("was rolled back after the switch"), "{output}");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "--from", "blog/canary"]).code, 2);
    fleet.assert_all_run("one");
}

#[test]
fn a_link_that_was_moved_by_hand_is_put_back_by_its_node_and_no_hook_runs() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    let hooks = fleet.nodes[0].hooks_run();
    let move_away = || {
        let link = fleet.nodes[0].deploy_to.join("current");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("releases/nowhere", &link).unwrap();
    };
    move_away();
    let output = fleet.cutover(&["node", "repair", "web-1", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.json()["headline"].as_str().unwrap().contains("it was releases/nowhere"), "{output}");
    assert_eq!(fleet.assert_all_run("one"), release);
    assert_eq!(fleet.nodes[0].hooks_run(), hooks, "it is the same release");
    let output = fleet.cutover(&["node", "repair", "web-1", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("already"), "{output}");
    assert!(fleet.entry("answers/web-2").is_none(), "only the node that is meant answers");

    // While a deploy is unfinished the barrier says what current is to be.
    fleet.publish_and_stage("two");
    fleet.nodes[1].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[1].wait_hook("prepare");
    wait_until(LIMIT, "web-1 is prepared", || fleet.json("acks/web-1").filter(|ack| ack["answer"] == "prepared"));
    move_away();
    let output = fleet.cutover(&["node", "repair", "web-1"]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stdout.contains("a deploy is under way"), "{output}");
    assert_eq!(fleet.nodes[0].current().as_deref(), Some("releases/nowhere"), "nothing was touched");
    fleet.nodes[1].release("prepare");
    assert_eq!(deploy.finish().code, 0);
    fleet.assert_all_run("two");
    assert_eq!(fleet.cutover(&["node", "repair", "web-9"]).code, 3);
}

#[test]
fn a_question_is_answered_once_also_by_an_agent_that_was_restarted() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.deployed("one");
    assert_eq!(fleet.cutover(&["node", "repair", "web-1"]).code, 0);
    let before = fleet.entry("answers/web-1").unwrap().modify_index;
    let link = fleet.nodes[0].deploy_to.join("current");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("releases/nowhere", &link).unwrap();
    fleet.term(0);
    fleet.start_agent(0);
    // The coordinator stands, and a new question is answered: the old one was passed over by then.
    fleet.wait_for_presence(&[0]);
    let output = wait_until(LIMIT, "the agent answers", || {
        Some(fleet.cutover(&["doctor", UNIT, "--output", "json"]))
            .filter(|output| output.json()["units"][0]["nodes"][0]["heard"] == "answered")
    });
    assert!(fleet.entry("answers/web-1").unwrap().modify_index > before, "{output}");
    assert_eq!(fleet.nodes[0].current().as_deref(), Some("releases/nowhere"), "the old question was not obeyed again");
}

#[test]
fn another_users_question_is_not_replaced_before_it_is_answered() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.term(0);
    // Nobody answers it: no agent lives, and the presence is made to look alive by a session of ours.
    let session = fleet.consul.call("PUT", "session/create", b"{\"TTL\":\"60s\"}").unwrap();
    let session: Value = serde_json::from_slice(&session.body).unwrap();
    let record = fleet.entry("nodes/web-1").unwrap();
    // An agent that is told to stop keeps its session, for a restart.
    fleet.end_session(record.session.as_ref().unwrap());
    let key = format!("kv/cutover/shop/production/nodes/web-1?acquire={}", session["ID"].as_str().unwrap());
    assert_eq!(fleet.consul.call("PUT", &key, &record.value).unwrap().body, b"true");
    let now = String::from_utf8(
        std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap().stdout,
    );
    let now = now.unwrap().trim().to_owned();
    let question = format!(
        "{{\"format\":1,\"id\":\"x\",\"ask\":{{\"kind\":\"doctor\"}},\"by\":\"bob\",\"via\":\"cli\",\"at\":\"{now}\"}}"
    );
    fleet.consul(&["kv", "put", "cutover/shop/production/question", &question]);
    let output = fleet.cutover(&["node", "repair", "web-1", "--timeout", "1s"]);
    assert_eq!(output.code, 6, "{output}");
    assert!(output.stderr.contains("bob is querying the nodes"), "{output}");
}

#[test]
fn a_canceled_build_is_listed_as_canceled_and_blocks_no_deploy() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    for what in ["start", "cancel"] {
        let output = fleet.cutover(&["build", what, "shop", "--branch", "master", "--commit", COMMIT]);
        assert_eq!(output.code, 0, "{output}");
    }
    let web = Web::of(&fleet.nodes[0]);
    let other = "c".repeat(40);
    let say = |state: &str| {
        let run = json!({"state": state, "branch": "master", "commit": other, "reason": "a newer push"});
        web.post("/v1/builds/shop", &run).expect(200)["run"].clone()
    };
    assert_eq!(say("building")["state"], "building");
    assert_eq!(say("canceled")["state"], "canceled");

    let document = fleet.cutover(&["builds", "shop", "--output", "json"]).json();
    let (by_cli, by_api) = (build(&document, ARTIFACT), build(&document, "master-cccccccc"));
    for row in [by_cli, by_api] {
        assert_eq!(row["state"], "canceled", "{row:#}");
        assert_eq!(row["deployable"], false, "{row:#}");
        assert!(row["begun_at"].is_string() && row["ended_at"].is_string(), "{row:#}");
    }
    assert_eq!(by_api["reason"], "a newer push", "{by_api:#}");
    let listed = web.get("/v1/builds/shop?state=canceled").expect(200);
    assert_eq!(listed["builds"].as_array().unwrap().len(), 2, "{listed:#}");
    let text = fleet.cutover(&["builds", "shop"]);
    for artifact in [ARTIFACT, "master-cccccccc"] {
        let line = text.stdout.lines().find(|line| line.contains(artifact));
        assert!(line.is_some_and(|line| line.contains("canceled")), "{text}");
    }
    // Newer commits of the branch, and nobody wished an artifact of them.
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
}
