//! Requests that come to nothing, with a reason.

use serde_json::Value;

use crate::fleet::{Fleet, FleetSpec, UNIT};

fn reason(record: &Value) -> &str {
    record["fault"]["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_request_for_an_unknown_build_is_refused_by_name_and_changes_nothing() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let build = fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    // Two commits of the same first digits.
    for tail in ["1", "2"] {
        let commit = format!("abcdef0{tail}{}", "0".repeat(32));
        let tree = fleet.dir.path().join("build/one");
        let arguments = ["publish", "--app", "shop", "--branch", "twins", "--commit", &commit, tree.to_str().unwrap()];
        let output = fleet.cutover(&arguments);
        assert_eq!(output.code, 0, "{output}");
    }
    let refused = |value: &str, step: &str, words: &str| {
        let record = fleet.put_deploy(value);
        assert_eq!(record["outcome"], "refused", "{value}: {record:#}");
        assert_eq!(record["fault"]["step"], step, "{value}: {record:#}");
        assert!(reason(&record).contains(words), "{value}: {:?}", reason(&record));
        let status = fleet.json("status").unwrap();
        assert_eq!(status["last"]["outcome"], "refused");
        assert_eq!(status["last"]["reason"], record["fault"]["reason"]);
        assert_eq!(status["current"]["artifact"], build.artifact);
        assert_eq!(fleet.assert_all_run("one"), release);
    };
    refused("nonesuch", "not_found", "nonesuch");
    refused("artifact:master-00000000", "not_found", "master-00000000");
    refused("commit:1234567", "not_found", "1234567");
    refused("commit:abcdef0", "request", "ambiguous");
    refused("rm -rf /", "request", "rm -rf /");
    refused("{\"ref\":\"master\",\"forse\":true}", "request", "forse");
    refused("{}", "request", "ref");
    // What is refused is taken: the key is empty, and the next request runs.
    assert_eq!(fleet.entry("deploy").unwrap().value, b"");
    let record = fleet.put_deploy(" {\"ref\":\"master\",\"by\":\"bob\",\"via\":\"chat\",\"again\":true}\n");
    assert_eq!(record["outcome"], "done");
    assert_eq!(record["by"], "bob");
    assert_eq!(record["via"], "chat");
    assert_ne!(fleet.assert_all_run("one"), release);
}

#[test]
fn exit_codes_tell_why_a_deploy_did_not_happen() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let build = fleet.deployed("one");
    let release = fleet.assert_all_run("one");
    let code = |arguments: &[&str]| {
        let output = fleet.cutover(arguments);
        assert!(output.code == 0 || !output.stderr.is_empty() || !output.stdout.is_empty(), "{output}");
        output.code
    };
    assert_eq!(code(&["deploy", UNIT, "nonesuch"]), 3);
    assert_eq!(code(&["deploy", UNIT, "artifact:master-00000000"]), 3);
    assert_eq!(code(&["deploy", "shop/nowhere", "master"]), 3);
    assert_eq!(code(&["rollback", UNIT]), 3, "there is nothing to go back to");
    assert_eq!(code(&["deploy", UNIT, "commit:xyz"]), 2);
    assert_eq!(code(&["deploy", UNIT, "two words"]), 2);
    assert_eq!(code(&["deploy", UNIT, &build.artifact]), 0, "it runs already");
    // Frozen, by hand.
    fleet.consul(&["kv", "put", "cutover/shop/production/freeze", "db migration"]);
    fleet.publish_and_stage("two");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 10, "{output}");
    assert!(format!("{output}").contains("db migration"), "{output}");
    assert_eq!(fleet.assert_all_run("one"), release);
    fleet.consul(&["kv", "put", "cutover/shop/production/freeze", ""]);
    assert_eq!(code(&["deploy", UNIT, "master"]), 0);
    fleet.assert_all_run("two");
    let mut away = std::process::Command::new(env!("CARGO_BIN_EXE_cutover"));
    away.args(["deploy", UNIT, "master", "--http-addr", "127.0.0.1:1"]);
    assert_eq!(crate::fleet::run::Running::begin(away, fleet.dir.path()).finish().code, 8);
}
