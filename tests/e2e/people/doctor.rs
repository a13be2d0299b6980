//! `cutover doctor`: what is wrong is found, on the node where it is, with a way to mend it.

use std::path::Path;

use cutover::release::Confinement;
use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};
use crate::people::policies;

fn findings<'a>(document: &'a Value, node: &str) -> &'a Vec<Value> {
    let nodes = document["units"][0]["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|it| it["node"] == node).unwrap_or_else(|| panic!("no {node} in {document:#}"));
    node["findings"].as_array().unwrap()
}

/// The bad ones of a node, by what they are about.
fn bad<'a>(document: &'a Value, node: &str) -> Vec<&'a str> {
    let bad = findings(document, node).iter().filter(|finding| finding["mark"] == "bad");
    bad.map(|finding| finding["about"].as_str().unwrap()).collect()
}

#[test]
fn doctor_finds_nothing_on_a_healthy_fleet() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, watches: true, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let output = fleet.cutover(&["doctor", UNIT, "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let document = output.json();
    assert_eq!(document["well"], true, "{document:#}");
    for node in &fleet.nodes {
        for about in ["consul", "store", "disk", "clock", "session", "watch", "version"] {
            let found = findings(&document, &node.name).iter().find(|it| it["about"] == about);
            let mark = &found.unwrap_or_else(|| panic!("no {about} in {document:#}"))["mark"];
            assert!(mark == "good" || mark == "note", "{document:#}");
        }
        let unpack = findings(&document, &node.name).iter().find(|it| it["about"] == "unpack").unwrap();
        let expected = match Confinement::of_this_process() {
            Confinement::On(_) => ("good", ""),
            Confinement::Off(why) => ("warn", why.remedy()),
        };
        let found = (unpack["mark"].as_str().unwrap(), unpack["mend"].as_str().unwrap_or_default());
        assert_eq!(found, expected, "{unpack}");
    }
    let text = fleet.cutover(&["doctor"]);
    assert_eq!(text.code, 0, "{text}");
    assert!(text.stdout.starts_with("healthy: 1 group, 2 nodes"), "{text}");
}

#[test]
fn doctor_reports_each_problem_on_its_node_with_a_fix() {
    let settings = |index: usize, _: &Path| match index {
        0 => "linked_files = [\".env\"]\n".to_owned(),
        _ => String::new(),
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 3, settings, ..FleetSpec::default() });
    std::fs::write(fleet.nodes[0].deploy_to.join("shared/.env"), "").unwrap();
    fleet.deployed("one");
    std::fs::remove_file(fleet.nodes[0].deploy_to.join("shared/.env")).unwrap();
    let link = fleet.nodes[1].deploy_to.join("current");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("releases/nowhere", &link).unwrap();
    fleet.term(2);
    fleet.end_session(&fleet.entry("nodes/web-3").unwrap().session.unwrap());
    // The node sees by itself that the link was moved; asked for, it looks.
    assert_eq!(fleet.cutover(&["publish", "--app", "shop", "--help"]).code, 0);
    fleet.publish_and_stage("two");
    let document = wait_until(LIMIT, "the node has seen that current was moved", || {
        let output = fleet.cutover(&["doctor", UNIT, "--output", "json"]);
        assert_eq!(output.code, 1, "{output}");
        Some(output.json()).filter(|document| bad(document, "web-2").contains(&"current"))
    });
    assert_eq!(bad(&document, "web-1"), ["shared"], "{document:#}");
    assert_eq!(bad(&document, "web-2"), ["current"], "{document:#}");
    let moved = findings(&document, "web-2").iter().find(|it| it["about"] == "current").unwrap();
    assert_eq!(moved["mend"], "`cutover node repair web-2 shop/production` restores it");
    let away = document["units"][0]["nodes"].as_array().unwrap().iter().find(|it| it["node"] == "web-3").unwrap();
    assert_eq!(away["heard"], "away", "{document:#}");

    fleet.hide_store();
    let output = fleet.cutover(&["doctor", UNIT]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stdout.contains("problems found") && output.stdout.contains("no answer (agent away)"), "{output}");
    assert!(output.stdout.contains("fix: check that the store is up"), "{output}");
}

#[test]
fn doctor_names_the_setting_of_a_file_that_the_agent_cannot_read() {
    let settings = |_: usize, dir: &Path| {
        let dir = dir.display();
        format!(
            "prefetch = [\"master\"]\n[notify.ops]\nkind = \"slack\"\nurl_file = \"{dir}/ops-url\"\n[notify.elsewhere]\nkind = \"slack\"\nurl_file = \
             \"{dir}/no-url\"\nunits = [\"blog/*\"]\n[chat]\nsigning_secret_file = \"{dir}/chat-secret\"\n[chat.users.U1]\nname = \
             \"ann\"\ntoken_file = \"{dir}/ann-token\"\n[api.users.bob]\ntoken_file = \"{dir}/bob-token\"\n"
        )
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    let file = |name: &str, text: &str| std::fs::write(fleet.dir.path().join(name), text).unwrap();
    file("ops-url", "no-url-and-not-to-be-shown");
    file("ann-token", " ");
    let output = fleet.cutover(&["doctor", UNIT, "--output", "json"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(!output.stdout.contains("not-to-be-shown"), "{output}");
    let document = output.json();
    assert_eq!(bad(&document, "web-1"), ["files"; 4], "{document:#}");
    let named =
        ["[notify.ops]", "[chat] signing_secret_file", "[chat.users.U1] token_file", "[api.users.bob] token_file"];
    for (found, setting) in findings(&document, "web-1").iter().filter(|it| it["about"] == "files").zip(named) {
        assert!(found["says"].as_str().unwrap().starts_with(setting), "{found:#}");
        assert!(found["mend"].as_str().unwrap().contains("readable for the agent's user"), "{found:#}");
    }
    file("ops-url", "http://127.0.0.1:1/x");
    for name in ["chat-secret", "ann-token", "bob-token"] {
        file(name, "secret");
    }
    let output = fleet.cutover(&["doctor", UNIT]);
    assert_eq!(output.code, 0, "{output}");
}

#[test]
fn concurrent_doctor_calls_under_one_name_all_get_answers() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let begun: Vec<_> = (0..5).map(|_| fleet.begin(&["doctor", UNIT, "--timeout", "60s"])).collect();
    for asked in begun {
        let output = asked.finish();
        assert_eq!(output.code, 0, "{output}");
    }
}

#[test]
fn a_recent_question_under_the_same_name_is_kept_and_the_command_says_busy() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.deployed("one");
    // The agent does not answer, and its session lives on.
    fleet.nodes[0].signal(Signal::STOP);
    let first = fleet.begin(&["doctor", UNIT, "--timeout", "60s"]);
    let asked = wait_until(LIMIT, "it is asked", || fleet.entry("question"));
    let output = fleet.cutover(&["doctor", UNIT, "--timeout", "1s"]);
    assert_eq!(output.code, 6, "{output}");
    assert_eq!(fleet.entry("question").unwrap().modify_index, asked.modify_index, "it stands as it was");
    fleet.nodes[0].signal(Signal::CONT);
    assert_eq!(first.finish().code, 0);
}

#[test]
fn without_consul_doctor_reports_that_consul_is_unreachable() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let output = fleet.cutover(&["doctor", "--http-addr", "127.0.0.1:1", "--output", "json"]);
    assert_eq!(output.code, 1, "{output}");
    let document = output.json();
    assert_eq!(document["here"][0]["about"], "consul");
    assert_eq!(document["here"][0]["mark"], "bad");
}

#[test]
fn a_coordinator_with_an_outdated_policy_names_its_missing_rights() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, acl: true, late: &[0], ..FleetSpec::default() });
    let name = fleet.nodes[0].name.clone();
    let mut rules = policies::rules("coordinator", &name);
    for key in ["actions/", "told/"] {
        let rule = format!("key_prefix \"cutover/shop/production/{key}\" {{\n  policy = \"write\"\n}}\n");
        assert!(rules.contains(&rule), "{rules}");
        rules = rules.replace(&rule, "");
    }
    fleet.nodes[0].set_token(&fleet.token("older", &rules));
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    let output = fleet.cutover(&["doctor", UNIT, "--output", "json"]);
    assert_eq!(output.code, 1, "{output}");
    let document = output.json();
    assert_eq!(bad(&document, &name), ["consul"], "{document:#}");
    let found = findings(&document, &name).iter().find(|it| it["about"] == "consul").unwrap();
    let says = found["says"].as_str().unwrap();
    let [actions, told] = ["actions/0", "told/x"].map(|key| format!("key \"cutover/shop/production/{key}\" write"));
    assert_eq!(says, format!("the agent's token lacks {actions}, {told}"), "{document:#}");
    let mend = found["mend"].as_str().unwrap();
    assert!(mend.contains(&format!("acl-policy coordinator --unit {UNIT} --node {name}")), "{document:#}");

    // With the policy that we ship now, and the same agent, nothing is lacking.
    fleet.term(0);
    fleet.nodes[0].set_token(&policies::token(&fleet, "coordinator", &name));
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    let output = fleet.cutover(&["doctor", UNIT, "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
}
