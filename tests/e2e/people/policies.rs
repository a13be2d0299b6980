//! ACLs on, default deny, and no more rights than `consul/policies/` gives.

use std::path::Path;

use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

/// A token with one of the policies that we ship, its placeholders filled in.
pub(crate) fn token(fleet: &Fleet, policy: &str, node: &str) -> String {
    fleet.token(&format!("{policy}-{node}"), &rules(policy, node))
}

/// One of the policies that we ship, its placeholders filled in.
pub(crate) fn rules(policy: &str, node: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("consul/policies/{policy}.hcl"));
    let rules = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rules = rules.replace("{{app}}", "shop").replace("{{group}}", "production").replace("{{node}}", node);
    assert!(
        !rules.contains("{{") || rules.lines().all(|line| !line.contains("{{") || line.starts_with('#')),
        "{rules}"
    );
    rules
}

/// A fleet whose first node coordinates, each agent with its own token.
pub(crate) fn fleet() -> Fleet {
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
fn the_shipped_policies_suffice_for_publishing_and_deploying_and_nothing_else() {
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
fn a_nodes_token_can_write_no_other_nodes_answer_and_no_barrier() {
    let fleet = fleet();
    let token = std::fs::read_to_string(fleet.nodes[1].dir.join("token")).unwrap();
    let as_node = crate::fleet::consul::Consul { token: Some(token), ..fleet.consul.clone() };
    let [own, other] = [&fleet.nodes[1].name, &fleet.nodes[2].name];
    let put = |key: &str, value: &[u8]| as_node.call("PUT", &format!("kv/{PREFIX}{key}"), value).unwrap().status;
    let decides =
        ["barrier", "deploy", "abort", "freeze", "status", "coordinator", "history/1", "members/1", "question"];
    let records = ["actions/1", "seen", "archive", "store", "told/audit", "forgotten/web-9", "attests/x"];
    let of_another = ["acks/{other}", "nodes/{other}", "answers/{other}", "attests/{other}/1", "forgotten/{other}"];
    let of_another = of_another.map(|key| key.replace("{other}", other));
    for key in decides.iter().chain(&records).copied().chain(of_another.iter().map(String::as_str)) {
        assert_eq!(put(key, b"mine"), 403, "{key} can be written with the token of {own}");
    }
    let of_the_app = ["builds/x", "runs/x", "bad/x", "latest"].map(|key| format!("kv/cutover/shop/{key}"));
    for path in of_the_app {
        assert_eq!(as_node.call("PUT", &path, b"mine").unwrap().status, 403, "{path}");
    }
    // Its own words, as they stand: nothing changes for whoever reads them.
    for key in [format!("acks/{own}"), format!("nodes/{own}"), format!("answers/{own}"), format!("attests/{own}/1")] {
        let value = fleet.entry(&key).map(|entry| entry.value).unwrap_or_default();
        assert_eq!(put(&key, &value), 200, "{key} cannot be written with the token of {own}");
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

#[test]
fn a_publisher_removes_old_builds_and_a_token_that_sees_less_than_the_app_removes_nothing() {
    let fleet = fleet();
    let [one, two] = ["one", "two"].map(|version| fleet.publish_and_stage(version));
    let mark = format!("cutover/shop/bad/{}", one.artifact);
    fleet.consul(&["kv", "put", &mark, "leaks"]);
    let blind = "key_prefix \"cutover/shop/builds/\" { policy = \"write\" }\nkey_prefix \"cutover/shop/runs/\" { policy = \
                 \"write\" }\nkey_prefix \"cutover/shop/bad/\" { policy = \"write\" }\nkey \"cutover/shop/latest\" { \
                 policy = \"write\" }";
    let [publisher, deployer] = ["publisher", "deployer"].map(|policy| token(&fleet, policy, "any"));
    let prune = ["build", "prune", "shop", "--keep", "1"];
    let narrow = format!(
        "{blind}\nkey_prefix \"cutover/shop/\" {{ policy = \"read\" }}\nkey_prefix \"cutover/shop/production/nodes/\" {{ \
         policy = \"deny\" }}"
    );
    for (name, rules) in [("blind", blind), ("narrow", &narrow)] {
        let output = fleet.cutover_as(&fleet.token(name, rules), &prune);
        assert_eq!(output.code, 7, "{name}: {output}");
        assert!(fleet.archive(&one).exists(), "what needs it was not seen");
    }
    wait_until(LIMIT, "only the newest is staged", || {
        let staged = |name: &str| Some(fleet.json(&format!("nodes/{name}"))?["staged"].as_array()?.len());
        fleet.nodes.iter().all(|node| staged(&node.name) == Some(1)).then_some(())
    });
    // Who reads everything may ask; who may remove is another matter.
    let output = fleet.cutover_as(&deployer, &["build", "prune", "shop", "--keep", "1", "--dry-run"]);
    assert_eq!(output.code, 0, "{output}");
    // The mark is a person's, and CI's token lifts none.
    let output = fleet.cutover_as(&publisher, &prune);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stdout.contains(&format!("may not remove {mark}")), "{output}");
    assert!(fleet.archive(&one).exists(), "it is said before anything is removed");
    let with_marks = rules("publisher", "any").replace("\n#key_prefix", "\nkey_prefix");
    let with_marks = with_marks.replace("\n#  policy", "\n  policy").replace("\n#}", "\n}");
    let output = fleet.cutover_as(&fleet.token("publisher-with-marks", &with_marks), &prune);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains(&one.artifact) && !output.stdout.contains(&two.artifact), "{output}");
    for key in ["builds", "runs", "bad"] {
        let key = format!("cutover/shop/{key}/{}", one.artifact);
        assert!(fleet.consul.key(&key).unwrap().is_none(), "{key}");
    }
}

#[test]
fn the_coordinators_policy_suffices_for_the_sweep_and_the_agents_does_not() {
    let settings = |index: usize, _: &Path| if index == 0 { String::new() } else { "coordinate = false\n".to_owned() };
    let store = "sweep_every = \"1s\"\n";
    let fleet = Fleet::start(&FleetSpec { acl: true, late: &[0, 1, 2], settings, store, ..FleetSpec::default() });
    for (index, node) in fleet.nodes.iter().enumerate() {
        let policy = if index == 0 { "coordinator" } else { "agent" };
        node.set_token(&token(&fleet, policy, &node.name));
        fleet.start_agent(index);
    }
    fleet.wait_for_presence(&[0, 1, 2]);
    let one = fleet.publish_and_stage("one");
    std::fs::remove_file(fleet.archive(&one)).unwrap();
    wait_until(LIMIT, "the sweep is written", || {
        fleet.json("store")?["gone"].to_string().contains(&one.artifact).then_some(())
    });
    let own = std::fs::read_to_string(fleet.nodes[1].dir.join("token")).unwrap();
    let as_node = crate::fleet::consul::Consul { token: Some(own), ..fleet.consul.clone() };
    assert_eq!(as_node.call("PUT", &format!("kv/{PREFIX}store"), b"{}").unwrap().status, 403);
}

#[test]
fn the_shipped_policies_suffice_for_questions_to_nodes_except_the_viewers() {
    let fleet = fleet();
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let [deployer, viewer] = ["deployer", "viewer"].map(|policy| token(&fleet, policy, "any"));
    let output = fleet.cutover_as(&deployer, &["deploy", UNIT, "master", "--dry-run"]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.cutover_as(&viewer, &["deploy", UNIT, "master", "--dry-run"]).code, 7);
    let output = fleet.cutover_as(&deployer, &["doctor", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("the token has every right it needs"), "{output}");
    assert_eq!(output.stdout.matches("the agent's token has every right it needs").count(), 3, "{output}");
    let output = fleet.cutover_as(&viewer, &["doctor", UNIT]);
    assert_eq!(output.code, 1, "{output}");
    let lacks = "the token lacks key \"cutover/shop/production/deploy\" write";
    assert!(output.stdout.contains(lacks) && output.stdout.contains("acl-policy deployer"), "{output}");
    let output = fleet.cutover_as(&deployer, &["node", "repair", &fleet.nodes[1].name]);
    assert_eq!(output.code, 0, "{output}");
    for (who, command, code) in
        [(&viewer, "freeze", 7), (&deployer, "freeze", 0), (&viewer, "unfreeze", 7), (&deployer, "unfreeze", 0)]
    {
        let output = fleet.cutover_as(who, &[command, UNIT]);
        assert_eq!(output.code, code, "{command}: {output}");
    }
}

#[test]
fn a_node_whose_token_lacks_a_right_names_it() {
    let fleet = fleet();
    fleet.deployed("one");
    let name = fleet.nodes[1].name.clone();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("consul/policies/agent.hcl");
    let rules = std::fs::read_to_string(path).unwrap().replace("{{app}}", "shop").replace("{{group}}", "production");
    let rules = rules.replace("{{node}}", &name);
    let right = "event \"cutover-build\" {\n  policy = \"read\"\n}";
    assert!(rules.contains(right), "{rules}");
    fleet.term(1);
    fleet.nodes[1].set_token(&fleet.token("less", &rules.replace(right, "")));
    fleet.start_agent(1);
    fleet.wait_for_presence(&[1]);
    let output = fleet.cutover(&["doctor", UNIT]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stdout.contains("the agent's token lacks event \"cutover-build\" read"), "{output}");
    assert!(output.stdout.contains(&format!("acl-policy agent --unit shop/production --node {name}")), "{output}");
}
