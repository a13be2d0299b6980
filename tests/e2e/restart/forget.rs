//! A node that will not come back is forgotten, and one that comes back all the same is a node as any other.

use std::path::Path;

use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::people::policies;

/// Ends the session of a node whose agent is gone, as its TTL would.
fn end_session_of(fleet: &Fleet, name: &str) {
    let entry = fleet.entry(&format!("nodes/{name}")).unwrap();
    fleet.end_session(&entry.session.unwrap());
}

#[test]
fn a_forgotten_node_delays_no_deploy_and_is_a_member_again_when_it_returns() {
    let settings = |_: usize, _: &Path| "absence_grace = \"1s\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { settings, ..FleetSpec::default() });
    fleet.deployed("one");
    let output = fleet.cutover(&["node", "forget", "web-3"]);
    assert_eq!(output.code, 4, "it is alive: {output}");
    let output = fleet.cutover(&["node", "forget", "web-9"]);
    assert_eq!(output.code, 3, "{output}");

    assert!(fleet.term(2).success());
    end_session_of(&fleet, "web-3");
    let two = fleet.publish_and_stage("two");
    let record = fleet.put_deploy(&two.artifact);
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert_eq!(record["node"], "web-3", "{record:#}");

    let output = fleet.cutover(&["node", "forget", "web-3", UNIT, "--reason", "burnt"]);
    assert_eq!(output.code, 0, "{output}");
    for key in ["nodes/web-3", "acks/web-3"] {
        assert!(fleet.entry(key).is_none(), "{key} is there");
    }
    assert_eq!(fleet.json("forgotten/web-3").unwrap()["reason"], "burnt");
    let record = fleet.put_deploy(&two.artifact);
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["nodes"].as_object().unwrap().len(), 2, "{record:#}");
    wait_until(LIMIT, "it is in the history", || {
        let document = fleet.cutover(&["history", UNIT, "--output", "json"]).json();
        let entries = document["entries"].as_array()?.clone();
        entries.into_iter().find(|entry| entry["kind"] == "forget" && entry["what"] == "web-3")
    });

    fleet.start_agent(2);
    fleet.wait_for_presence(&[2]);
    wait_until(LIMIT, "it follows", || (fleet.nodes[2].read("current/version")? == "two").then_some(()));
    // It is gone again, and nobody has forgotten it since: it is missed, with the mark or without.
    fleet.kill(2);
    end_session_of(&fleet, "web-3");
    let record = fleet.put_deploy("{\"ref\":\"master\",\"again\":true}");
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert_eq!(record["node"], "web-3", "{record:#}");
    // Anything that is done has the recorder look.
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "look"]);
    wait_until(LIMIT, "the mark is removed", || fleet.entry("forgotten/web-3").is_none().then_some(()));
}

#[test]
fn the_operators_policy_suffices_to_forget_and_the_deployers_does_not() {
    let fleet = policies::fleet();
    fleet.deployed("one");
    let gone = fleet.nodes[2].name.clone();
    fleet.kill(2);
    end_session_of(&fleet, &gone);
    // Deleted by hand it is a member that is hidden, which refuses every deploy.
    fleet.consul(&["kv", "delete", &format!("{PREFIX}nodes/{gone}")]);
    let two = fleet.publish("two");
    let record = fleet.put_deploy(&two.artifact);
    assert!(record["fault"]["reason"].as_str().unwrap().contains("cutover node forget"), "{record:#}");
    let [deployer, operator] = ["deployer", "operator"].map(|policy| policies::token(&fleet, policy, "any"));
    let output = fleet.cutover_as(&deployer, &["node", "forget", &gone]);
    assert_eq!(output.code, 7, "{output}");
    assert!(fleet.entry(&format!("forgotten/{gone}")).is_none(), "never a part of it");
    let output = fleet.cutover_as(&operator, &["node", "forget", &gone]);
    assert_eq!(output.code, 0, "{output}");
    let record = fleet.put_deploy(&two.artifact);
    assert_eq!(record["outcome"], "done", "{record:#}");
}
