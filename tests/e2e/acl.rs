//! ACLs on, default deny, and no more rights than `consul/policies/` gives.

use std::path::Path;

use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

/// A token with one of the policies that we ship, its placeholders filled in.
pub(crate) fn token(fleet: &Fleet, policy: &str, node: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("consul/policies/{policy}.hcl"));
    let rules = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rules = rules.replace("{{app}}", "shop").replace("{{group}}", "production").replace("{{node}}", node);
    assert!(
        !rules.contains("{{") || rules.lines().all(|line| !line.contains("{{") || line.starts_with('#')),
        "{rules}"
    );
    fleet.token(&format!("{policy}-{node}"), &rules)
}

/// A fleet whose first node coordinates, each agent with its own token.
fn fleet() -> Fleet {
    let settings = |index: usize, _: &Path| if index == 0 { String::new() } else { "coordinate = false\n".to_owned() };
    let fleet = Fleet::start(&FleetSpec { acl: true, late: &[0, 1, 2], settings, ..FleetSpec::default() });
    for (index, node) in fleet.nodes.iter().enumerate() {
        let policy = if index == 0 { "coordinator" } else { "agent" };
        node.set_token(&token(&fleet, policy, &node.name));
        fleet.start_agent(index);
    }
    fleet.wait_for_presence(&[0, 1, 2]);
    fleet
}

#[test]
fn the_shipped_policies_suffice_for_the_whole_road_and_for_nothing_else() {
    let fleet = fleet();
    let [publisher, deployer, viewer] = ["publisher", "deployer", "viewer"].map(|policy| token(&fleet, policy, "any"));
    let tree = fleet.dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let tree_text = tree.to_str().unwrap();
    let publish = |token: &str, version: &str, commit: &str| {
        std::fs::write(tree.join("version"), version).unwrap();
        let arguments = ["publish", "--app", "shop", "--branch", "master", "--commit", commit, tree_text];
        fleet.cutover_as(token, &arguments)
    };
    let output = publish(&deployer, "zero", &"0".repeat(40));
    assert_eq!(output.code, 7, "the deployer's token publishes: {output}");
    let output = publish(&publisher, "one", &"1".repeat(40));
    assert_eq!(output.code, 0, "{output}");
    for node in &fleet.nodes {
        wait_until(LIMIT, "it is prefetched", || {
            fleet.json(&format!("nodes/{}", node.name))?["staged"].to_string().contains("master-11111111").then_some(())
        });
    }
    for token in [&publisher, &viewer] {
        let output = fleet.cutover_as(token, &["deploy", UNIT, "master"]);
        assert_eq!(output.code, 7, "{output}");
    }
    assert_eq!(fleet.newest_epoch(), 0, "nobody has asked");
    let output = fleet.cutover_as(&deployer, &["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");

    let output = publish(&publisher, "two", &"2".repeat(40));
    assert_eq!(output.code, 0, "{output}");
    let record = fleet.outcome_of(|| {
        fleet.consul(&["kv", "put", "-token", &deployer, &format!("{PREFIX}deploy"), "master"]);
    });
    assert_eq!(record["outcome"], "done", "{record:#}");
    fleet.assert_all_run("two");
    let output = fleet.cutover_as(&deployer, &["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
    let output = fleet.cutover_as(&viewer, &["status", UNIT, "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(output.json()["current"]["artifact"], "master-11111111");
}

#[test]
fn a_nodes_token_speaks_for_no_other_node_and_decides_nothing() {
    let fleet = fleet();
    let own = std::fs::read_to_string(fleet.nodes[1].dir.join("token")).unwrap();
    let as_node = crate::http::Consul { token: Some(own), ..fleet.consul.clone() };
    let other = &fleet.nodes[2].name;
    let keys = ["barrier", "deploy", "abort", "freeze", "status", "coordinator", "history/1", "members/1"];
    for key in keys.map(str::to_owned).into_iter().chain([format!("acks/{other}"), format!("nodes/{other}")]) {
        let reply = as_node.call("PUT", &format!("kv/{PREFIX}{key}"), b"mine").unwrap();
        assert_eq!(reply.status, 403, "{key} can be written with the token of {}", fleet.nodes[1].name);
    }
}

#[test]
fn the_operators_policy_suffices_to_recover_and_the_deployers_does_not() {
    let fleet = fleet();
    fleet.deployed("one");
    let [deployer, operator] = ["deployer", "operator"].map(|policy| token(&fleet, policy, "any"));
    fleet.consul(&["kv", "delete", "-recurse", PREFIX]);
    for index in 0..3 {
        fleet.wait_alarm(index, "barrier is gone");
    }
    let output = fleet.cutover_as(&deployer, &["recover", UNIT, "--yes"]);
    assert_eq!(output.code, 7, "{output}");
    for key in ["barrier", "deploy", "abort", "freeze", "status"] {
        assert!(fleet.entry(key).is_none(), "never a part of it: {key}");
    }
    let output = fleet.cutover_as(&operator, &["recover", UNIT, "--yes"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.deploys_again("two");
}
