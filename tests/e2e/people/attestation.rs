//! Who asked: what an agent vouches for is verified, and everything else is a claim.

use std::sync::Arc;

use cutover::api::attest::attester_of;
use cutover::api::stream::Hub;
use cutover::api::{Api, Host, Parts};
use cutover::config;
use cutover::consul::{Client, Settings};
use cutover::control::{PlannedWrite, Scope};
use cutover::metrics::Metrics;
use cutover::protocol::ids::Unit;
use cutover::protocol::keys::Keys;
use cutover::protocol::record::{Identity, Means};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fleet::consul::Consul;
use crate::fleet::web::Web;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::people::policies;

/// Vouches for a request as an agent does, with whatever token `consul` has; the status of the answer.
fn vouch(consul: &Consul, node: &str, id: &str, bytes: &str) -> u16 {
    vouch_at(consul, node, id, &format!("{PREFIX}deploy"), bytes)
}

/// The same for `bytes` in `key`.
pub(crate) fn vouch_at(consul: &Consul, node: &str, id: &str, key: &str, bytes: &str) -> u16 {
    let identity = json!({"name": "ann", "means": "token", "accessor": "4ca6b4ab", "token": "ann of operations"});
    let digest = hex::encode(Sha256::digest(bytes));
    let at = Timestamp::now().to_string();
    let record = json!({"format": 1, "key": key, "sha256": digest, "identity": identity, "node": node, "at": at});
    let path = format!("kv/{PREFIX}attests/{node}/{id}");
    consul.call("PUT", &path, record.to_string().as_bytes()).unwrap().status
}

fn request(build: &str, id: &str) -> String {
    json!({"ref": build, "by": "ann", "via": "api", "id": id, "again": true}).to_string()
}

fn attested(fleet: &Fleet) -> Vec<String> {
    let (_, entries) = fleet.consul.keys(&format!("{PREFIX}attests/"), "recurse&consistent").unwrap();
    entries.into_iter().map(|entry| entry.key.trim_start_matches(PREFIX).to_owned()).collect()
}

#[test]
fn an_attestation_verifies_the_author_of_exactly_its_bytes_and_only_once() {
    let fleet = policies::fleet();
    let build = fleet.deployed("one").artifact;
    let [first, second, third] = [0, 1, 2].map(|index| fleet.nodes[index].name.clone());
    let as_whom = |token: String| Consul { token: Some(token), ..fleet.consul.clone() };
    let of_node = |index: usize| as_whom(std::fs::read_to_string(fleet.nodes[index].dir.join("token")).unwrap());
    let bytes = request(&build, "a1");

    for policy in ["deployer", "operator", "viewer", "publisher"] {
        let caller = as_whom(policies::token(&fleet, policy, "any"));
        assert_eq!(vouch(&caller, &second, "a1", &bytes), 403, "a {policy} vouches");
    }
    assert_eq!(vouch(&of_node(1), &third, "a1", &bytes), 403, "a node vouches in another's name");
    assert_eq!(attested(&fleet), [] as [String; 0]);

    // Other bytes, and another mark.
    assert_eq!(vouch(&of_node(1), &second, "a1", &request(&build, "a2")), 200);
    assert_eq!(vouch(&of_node(1), &second, "a3", &bytes), 200);
    let record = fleet.put_deploy(&bytes);
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["verified"], Value::Null, "{record:#}");
    assert_eq!(record["by"], "ann", "the claim is kept as one: {record:#}");
    assert_eq!(attested(&fleet).len(), 2, "what did not match is not used up");

    // The very bytes, by two nodes: the first by name speaks, and both are used up.
    let bytes = request(&build, "a4");
    assert_eq!(vouch(&of_node(2), &third, "a4", &bytes), 200);
    assert_eq!(vouch(&of_node(0), &first, "a4", &bytes), 200);
    let record = fleet.put_deploy(&bytes);
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["verified"]["name"], "ann", "{record:#}");
    assert_eq!(attested(&fleet).len(), 2, "what vouched is used up");

    // The same bytes again are nobody's word.
    let record = fleet.put_deploy(&bytes);
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["verified"], Value::Null, "{record:#}");

    // Refused, it is used up all the same.
    let bytes = request("nothing", "a5");
    assert_eq!(vouch(&of_node(1), &second, "a5", &bytes), 200);
    let record = fleet.put_deploy(&bytes);
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert_eq!(record["verified"]["name"], "ann", "{record:#}");
    assert_eq!(attested(&fleet).len(), 2);

    let text = fleet.cutover(&["history", UNIT]);
    assert!(text.stdout.contains("ann ✓") && text.stdout.contains("ann  "), "{text}");
}

#[test]
fn an_unused_attestation_is_removed() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    wait_until(LIMIT, "the recorder has begun", || fleet.entry("seen"));
    let old = json!({"format": 1, "key": "x", "sha256": "0".repeat(64), "node": "web-1", "at": "2026-01-01T00:00:00Z",
        "identity": {"name": "ann", "means": "token", "accessor": null}});
    fleet.consul(&["kv", "put", &format!("{PREFIX}attests/web-1/old"), &old.to_string()]);
    assert_eq!(vouch(&fleet.consul, "web-1", "new", "bytes"), 200);
    // Anything that is done has the recorder look.
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "look"]);
    wait_until(LIMIT, "the old one goes", || (attested(&fleet) == ["attests/web-1/new"]).then_some(()));
}

/// An agent that nobody asks anything.
#[derive(Debug)]
struct Silent;

impl Host for Silent {
    fn ring(&self) {}

    fn units(&self) -> Vec<Unit> {
        Vec::new()
    }

    fn waiting(&self) -> Vec<Unit> {
        Vec::new()
    }
}

/// The API of the first node, as its agent would serve it.
fn api_of(fleet: &Fleet) -> Arc<Api> {
    let settings = config::Settings::load(&fleet.nodes[0].dir.join("cutover.toml"), |_| None).unwrap();
    let consul = Settings { address: fleet.local_consul(0).address, ..Settings::default() };
    let tasks = TaskTracker::new();
    Arc::new(Api::new(Parts {
        own: Client::new(&consul).unwrap(),
        keys: Keys::default(),
        store: None,
        settings: settings.api,
        node: fleet.nodes[0].name.parse().unwrap(),
        host: Box::new(Silent),
        chat: None,
        hub: Hub::new(CancellationToken::new(), tasks.clone()),
        metrics: Arc::new(Metrics::new("test", "test")),
        tasks,
    }))
}

#[test]
fn a_duplicate_request_keeps_the_attestation_of_the_first() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let api = api_of(&fleet);
    // Nobody takes up what is written, so that it can be looked at.
    fleet.kill(0);
    let runtime = Runtime::new().unwrap();
    let (name, token) = ("ann".to_owned(), "ann of operations".to_owned());
    let identity = Identity { name, means: Means::Token, accessor: None, token };
    let (unit, key, bytes) = (UNIT.parse().unwrap(), format!("{PREFIX}deploy"), request("master", "twice"));
    let planned = PlannedWrite { scope: Scope::Unit(&unit), key: &key, id: "twice", value: &bytes };
    let [first, second] = [(); 2].map(|()| attester_of(&api, identity.clone()));
    runtime.block_on(first.before(planned)).unwrap();
    runtime.block_on(second.before(planned)).unwrap();
    // The second one's write comes first, and the first one's is lost.
    fleet.consul(&["kv", "put", &key, &bytes]);
    runtime.block_on(first.not_written());
    assert_eq!(attested(&fleet), ["attests/web-1/twice"]);
    // What nobody has written is vouched for no longer.
    fleet.consul(&["kv", "put", &key, ""]);
    let alone = attester_of(&api, identity);
    runtime.block_on(alone.before(PlannedWrite { id: "alone", ..planned })).unwrap();
    assert_eq!(attested(&fleet), ["attests/web-1/alone", "attests/web-1/twice"]);
    runtime.block_on(alone.not_written());
    assert_eq!(attested(&fleet), ["attests/web-1/twice"]);
}

#[test]
fn with_required_attribution_unattested_requests_are_refused() {
    let settings = |_: usize, _: &std::path::Path| "require_attribution = true\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let one = fleet.publish_and_stage("one");
    let asked = |bytes: &str, id: &str| {
        assert_eq!(vouch(&fleet.consul, "web-2", id, bytes), 200);
        let record = fleet.put_deploy(bytes);
        assert_eq!(record["outcome"], "done", "{record:#}");
        assert_eq!(record["verified"]["name"], "ann", "{record:#}");
    };
    asked(&request(&one.artifact, "a1"), "a1");
    let two = fleet.publish_and_stage("two");
    asked(&request(&two.artifact, "a2"), "a2");
    fleet.assert_all_run("two");

    let rollback = json!({"rollback": true, "by": "ann", "via": "api", "id": "a3"}).to_string();
    let forced = json!({"ref": one.artifact, "by": "ann", "force": true, "id": "a4"}).to_string();
    for bytes in [one.artifact.as_str(), "master", &request(&one.artifact, "a1"), &rollback, &forced] {
        let record = fleet.put_deploy(bytes);
        assert_eq!(record["outcome"], "refused", "{record:#}");
        assert_eq!(record["fault"]["step"], "request", "{record:#}");
        let reason = record["fault"]["reason"].as_str().unwrap();
        assert!(["require_attribution", "API", "page", "chat"].iter().all(|word| reason.contains(word)), "{reason}");
    }
    for arguments in [vec!["deploy", UNIT, "master"], vec!["rollback", UNIT], vec!["deploy", UNIT, "master", "--force"]]
    {
        // A dry run says so before.
        for more in [&["--dry-run"][..], &[]] {
            let output = fleet.cutover(&[&arguments[..], more].concat());
            assert_eq!(output.code, 4, "{output}");
            assert!(output.stdout.contains("the request has no verified author"), "{output}");
        }
    }
    fleet.assert_all_run("two");
    asked(&rollback, "a3");
    fleet.assert_all_run("one");
}

#[test]
fn with_required_attribution_an_api_deploy_is_accepted_and_shows_its_author() {
    let settings = |_: usize, _: &std::path::Path| "require_attribution = true\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, acl: true, late: &[0], settings, ..FleetSpec::default() });
    let node = &fleet.nodes[0];
    node.set_token(&policies::token(&fleet, "coordinator", &node.name));
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    let one = fleet.publish_and_stage("one");
    let deployer = policies::token(&fleet, "deployer", "any");
    let put = |value: &str| {
        let caller = Consul { token: Some(deployer.clone()), ..fleet.consul.clone() };
        fleet.outcome_of(|| {
            assert_eq!(caller.call("PUT", &format!("kv/{PREFIX}deploy"), value.as_bytes()).unwrap().status, 200);
        })
    };
    // The same token, by Consul's own API: anybody could have written that.
    for value in [one.artifact.as_str(), &request(&one.artifact, "a1")] {
        let record = put(value);
        assert_eq!(record["outcome"], "refused", "{record:#}");
        assert_eq!(record["verified"], Value::Null, "{record:#}");
        assert!(record["fault"]["reason"].as_str().unwrap().contains("require_attribution"), "{record:#}");
    }
    assert_eq!(node.current(), None);

    let web = Web::of(node).token(&deployer);
    let at = format!("/v1/deploys/{UNIT}");
    // What it says of itself stays a claim, beside who it was.
    let record = fleet.outcome_of(|| {
        web.post(&at, &json!({"ref": one.artifact, "by": "eve"})).expect(202);
    });
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["verified"]["means"], "token", "{record:#}");
    assert_eq!(record["verified"]["token"], "deployer-any", "{record:#}");
    fleet.assert_all_run("one");
    let listed = fleet.cutover(&["history", UNIT, "--output", "json"]).json();
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries[0]["verified"], record["verified"], "{listed:#}");
    assert!(entries[1..].iter().all(|entry| entry["verified"].is_null()), "{listed:#}");
    let text = fleet.cutover(&["history", UNIT]);
    assert_eq!(text.stdout.matches('✓').count(), 1, "{text}");
    let name = record["verified"]["name"].as_str().unwrap();
    assert!(text.stdout.contains(&format!("{name} ✓ (as eve)")), "{text}");
}
