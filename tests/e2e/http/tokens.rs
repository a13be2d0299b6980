//! Who may, and who did: only the caller's token acts, and the agent says whose it was.

use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::fleet::web::{Answer, Web};
use crate::fleet::{Build, Fleet, FleetSpec, LIMIT, PREFIX, wait_until};
use crate::people::policies::{rules, token};

/// The first node coordinates and may not vouch; the others may, and believe a proxy: the second one on this machine,
/// the third one elsewhere.
fn fleet() -> Fleet {
    let settings = |index: usize, dir: &Path| {
        let token = dir.join("ann").display().to_string();
        let proxy = |from: &str| {
            format!(
                "prefetch = [\"master\"]\ncoordinate = false\n[api.proxy]\nfrom = [\"{from}\"]\nuser_header = \"X-User\"\n\
                 [api.users.\"ann@example.com\"]\ntoken_file = \"{token}\"\n"
            )
        };
        match index {
            0 => String::new(),
            1 => proxy("127.0.0.1"),
            _ => proxy("127.0.0.9"),
        }
    };
    let fleet = Fleet::start(&FleetSpec {
        acl: true,
        hooks: true,
        env: &[("RUST_LOG", "trace")],
        late: &[0, 1, 2],
        settings,
        ..FleetSpec::default()
    });
    for (index, node) in fleet.nodes.iter().enumerate() {
        let policies: &[&str] = if index == 0 { &["coordinator"] } else { &["agent", "api"] };
        let mut all: Vec<_> =
            policies.iter().map(|policy| (format!("{policy}-{}", node.name), rules(policy, &node.name))).collect();
        if index == 0 {
            all.push((
                "mute".to_owned(),
                "key_prefix \"cutover/shop/production/attests/{}/\" { policy = \"deny\" }".replace("{}", &node.name),
            ));
        }
        node.set_token(&fleet.token_with(&format!("agent-{}", node.name), &all));
        fleet.start_agent(index);
    }
    fleet.wait_for_presence(&[0, 1, 2]);
    fleet
}

/// What agents vouch for, by the mark.
fn attests(fleet: &Fleet) -> Vec<(String, Value)> {
    let (_, entries) = fleet.consul.keys(&format!("{PREFIX}attests/"), "recurse&consistent").unwrap();
    entries.into_iter().map(|entry| (entry.key.clone(), entry.json().unwrap())).collect()
}

/// The digest of a key's value.
fn digest(fleet: &Fleet, key: &str) -> String {
    let entry = fleet.consul.key(key).unwrap().unwrap_or_else(|| panic!("{key} is gone"));
    hex::encode(Sha256::digest(&entry.value))
}

fn freeze(web: &Web, body: &Value) -> Answer {
    web.post("/v1/deploys/shop/production/freeze", body)
}

/// Every write, with a body that is in order.
fn writes(build: &Build) -> Vec<(&'static str, String, Value)> {
    let at = |rest: &str| format!("/v1/deploys/shop/production{rest}");
    let bad = format!("/v1/builds/shop/{}/bad", build.artifact);
    vec![
        ("POST", at(""), json!({"ref": build.artifact})),
        ("POST", at("/rollback"), json!({})),
        ("POST", at("/abort"), json!({})),
        ("POST", at("/freeze"), json!({})),
        ("POST", at("/unfreeze"), json!({})),
        ("POST", bad.clone(), json!({})),
        ("DELETE", bad, json!({})),
        ("POST", "/v1/builds/shop".to_owned(), json!({"state": "building", "branch": "x", "commit": "d".repeat(40)})),
    ]
}

#[test]
fn only_the_callers_token_acts() {
    let fleet = fleet();
    fleet.deployed("one");
    let two = fleet.publish_and_stage("two");
    let [deployer, viewer] = ["deployer", "viewer"].map(|policy| token(&fleet, policy, "any"));

    // Nobody, a viewer, and somebody unknown: the agent's own token would be allowed some of it, and does nothing. What
    // there is nothing to do about is prepared, so that each write is really tried.
    let web = Web::of(&fleet.nodes[1]);
    fleet.nodes[0].hold("prepare");
    let asked = web.token(&deployer).post("/v1/deploys/shop/production", &json!({"ref": two.artifact}));
    let asked = asked.expect(202)["epoch"]["epoch"].clone();
    fleet.nodes[0].wait_hook("prepare");
    let bad = format!("/v1/builds/shop/{}/bad", two.artifact);
    web.token(&deployer).post(&bad, &json!({"reason": "x"})).expect(200);
    freeze(&web.token(&deployer), &json!({"reason": "x"})).expect(200);
    let before = attests(&fleet);
    let unchanged = |key: &str| fleet.consul.key(key).unwrap().map(|entry| entry.modify_index);
    let keys = ["shop/production/abort", "shop/production/freeze", &format!("shop/bad/{}", two.artifact)]
        .map(|key| format!("cutover/{key}"));
    let stood = keys.clone().map(|key| unchanged(&key));
    for web in [web.clone(), web.token(&viewer), web.token("11111111-2222-3333-4444-555555555555")] {
        for (method, path, body) in writes(&two) {
            let is_ask = path.ends_with("production") || path.ends_with("rollback");
            let answer = web.ask(method, &path, Some(&body.to_string()));
            // A viewer is told that a deploy runs, before anything is tried.
            if !(is_ask && answer.status == 409) {
                answer.refused(403, "not_allowed");
            }
        }
    }
    assert_eq!(keys.map(|key| unchanged(&key)), stood);
    // The coordinator may have taken up some of what was there.
    let added: Vec<_> = attests(&fleet).into_iter().filter(|it| !before.contains(it)).collect();
    assert!(added.is_empty(), "what was not written is not vouched for: {added:?}");
    web.get("/v1/status/shop/production").refused(403, "not_allowed");
    assert_eq!(web.token(&viewer).get("/v1/status/shop/production").expect(200)["running"]["epoch"], asked);

    fleet.nodes[0].release("prepare");
    fleet.wait_phase("done");
    assert_eq!(fleet.newest_epoch(), asked.as_u64().unwrap());
}

#[test]
fn a_token_means_the_same_in_header_bearer_and_cookie() {
    let fleet = fleet();
    let [deployer, viewer] = ["deployer", "viewer"].map(|policy| token(&fleet, policy, "any"));
    let [coordinating, web] = [0, 1].map(|index| Web::of(&fleet.nodes[index]));
    let cookie = web.post("/v1/session", &json!({"token": deployer}));
    assert_eq!(cookie.expect(200)["identity"]["name"], "deployer-any");
    let set = cookie.header("set-cookie").unwrap().to_owned();
    assert!(set.contains("; HttpOnly") && set.contains("; SameSite=Strict") && set.contains("; Path=/"), "{set}");
    let cookie = web.with("Cookie", set.split(';').next().unwrap());
    freeze(&cookie, &json!({})).refused(403, "cross_site");
    let cookie = cookie.with("Origin", &format!("http://{}", web.address));
    let bearer = web.with("Authorization", &format!("Bearer {deployer}"));
    for web in [&cookie, &bearer, &web.token(&deployer)] {
        assert_eq!(web.get("/v1/session").expect(200)["identity"]["means"], "token");
        let frozen = freeze(web, &json!({"by": "deployer-any", "via": "ui"})).expect(200);
        assert_eq!(frozen["by"], json!("deployer-any"));
        assert_eq!(frozen["via"], json!("ui"));
    }
    // Another name is a claim, and stands beside the one that the agent vouches for.
    assert_eq!(freeze(&bearer, &json!({"by": "ann"})).expect(200)["by"], "ann");
    wait_until(LIMIT, "the history shows both", || {
        let history = fleet.cutover_as(&deployer, &["history", "shop/production"]);
        history.stdout.contains("deployer-any ✓ (as ann)").then_some(())
    });
    freeze(&bearer.token(&viewer), &json!({})).refused(400, "bad_request");
    freeze(&web.with("Authorization", "Basic eDp5"), &json!({})).refused(400, "bad_request");
    freeze(&bearer, &json!({"id": "a/b"})).refused(400, "bad_request");
    freeze(&bearer, &json!({"via": "kv"})).refused(400, "bad_request");
    web.post("/v1/session", &json!({"token": "nonsense"})).refused(403, "not_allowed");

    // An agent that may not write attestations still serves, and logs it once.
    assert_eq!(freeze(&coordinating.token(&deployer), &json!({})).expect(200)["by"], "deployer-any");
    freeze(&coordinating.token(&deployer), &json!({})).expect(200);
    assert!(!attests(&fleet).iter().any(|(key, _)| key.contains(&fleet.nodes[0].name)));
    assert_eq!(fleet.nodes[0].logged("requests continue with unverified authors: this agent's token may not"), 1);
}

#[test]
fn the_agent_attests_exactly_the_bytes_that_are_written() {
    let fleet = fleet();
    let build = fleet.deployed("one");
    let deployer = token(&fleet, "deployer", "any");
    let [web, elsewhere] = [1, 2].map(|index| Web::of(&fleet.nodes[index]));
    let bad = format!("/v1/builds/shop/{}/bad", build.artifact);
    // Without a coordinator, who takes them up, what is vouched for stays to be seen.
    fleet.kill(0);
    std::fs::write(fleet.dir.path().join("ann"), &deployer).unwrap();
    let ann = web.with("X-User", "ann@example.com").with("Sec-Fetch-Site", "same-origin");
    freeze(&ann, &json!({"id": "frozen"})).expect(200);
    web.token(&deployer).post(&bad, &json!({"id": "marked"})).expect(200);
    web.token(&deployer)
        .post("/v1/deploys/shop/production", &json!({"ref": build.artifact, "id": "asked"}))
        .expect(202);
    let bad_key = format!("cutover/shop/bad/{}", build.artifact);
    for (id, key, name, means) in [
        ("frozen", format!("{PREFIX}freeze"), "ann@example.com", "proxy"),
        ("marked", bad_key, "deployer-any", "token"),
        ("asked", format!("{PREFIX}deploy"), "deployer-any", "token"),
    ] {
        let at = format!("{PREFIX}attests/{}/{id}", fleet.nodes[1].name);
        let (_, attest) = attests(&fleet).into_iter().find(|(key, _)| *key == at).unwrap_or_else(|| panic!("{at}"));
        assert_eq!(attest["sha256"], digest(&fleet, &key), "{id}");
        assert_eq!(attest["identity"]["name"], json!(name));
        assert_eq!(attest["identity"]["means"], json!(means));
        assert_eq!(attest["identity"]["token"], "deployer-any");
        assert!(attest["identity"]["accessor"].is_string());
    }
    // The mark of another's request is theirs.
    freeze(&web.token(&deployer), &json!({"id": "asked"})).refused(409, "refused");
    freeze(&ann.with("X-User", "ann@example.com"), &json!({})).refused(400, "bad_request");
    freeze(&ann.token(&deployer), &json!({})).refused(400, "bad_request");
    freeze(&web.with("X-User", "bob").with("Sec-Fetch-Site", "same-origin"), &json!({})).refused(403, "unknown_user");
    freeze(&web.with("X-User", "ann@example.com"), &json!({})).refused(403, "cross_site");
    let elsewhere = elsewhere.with("X-User", "ann@example.com").with("Sec-Fetch-Site", "same-origin");
    freeze(&elsewhere, &json!({})).refused(403, "not_the_proxy");
    freeze(&elsewhere.token(&deployer), &json!({})).refused(403, "not_the_proxy");
}

#[test]
fn a_token_is_found_nowhere_but_in_its_request() {
    let fleet = fleet();
    let build = fleet.publish_and_stage("one");
    let canary = token(&fleet, "deployer", "canary");
    let web = Web::of(&fleet.nodes[1]);
    let signed_in = web.post("/v1/session", &json!({"token": canary}));
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    let cookie = web.with("Cookie", &format!("cutover_session={canary}")).with("Sec-Fetch-Site", "same-origin");
    let bearer = web.with("Authorization", &format!("Bearer {canary}"));
    fleet.nodes[1].hold("prepare");
    let mut said = String::from_utf8(signed_in.body).unwrap();
    let mut hear = |answer: Answer| said.push_str(&[answer.head.clone(), answer.text()].concat());
    hear(cookie.post("/v1/deploys/shop/production", &json!({"ref": build.artifact})));
    fleet.nodes[1].wait_hook("prepare");
    for web in [&cookie, &bearer, &web.token(&canary)] {
        hear(web.get("/v1/session"));
        hear(web.get("/v1/status/shop/production"));
        hear(web.post("/v1/deploys/shop/production", &json!({"ref": "nothing"})));
        hear(web.post("/v1/builds/shop", &json!({"state": "building", "branch": "x", "commit": "d".repeat(40)})));
    }
    hear(web.with("Authorization", &canary).get("/v1/apps"));
    hear(web.with("Authorization", &format!("Basic {canary}")).get("/v1/apps"));
    hear(bearer.token("another").get("/v1/apps"));
    hear(web.token(&format!("{canary}\u{e4}")).get("/v1/apps"));
    hear(web.post("/v1/session", &json!({"token": canary, "extra": canary})));
    hear(web.post("/v1/session", &json!({"tokens": [canary]})));
    let encoded = base64::engine::general_purpose::STANDARD.encode(&canary);
    let holds =
        |text: &str| text.contains(&canary) || text.contains(&encoded) || text.contains(&canary.replace('-', "%2D"));
    assert!(!holds(&said), "an answer repeats it: {said}");
    for process in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(process.path().join(file)).unwrap_or_default();
            assert!(!holds(&String::from_utf8_lossy(&bytes)), "{}/{file}", process.path().display());
        }
    }
    fleet.nodes[1].release("prepare");
    fleet.wait_phase("done");
    let (_, entries) = fleet.consul.keys("cutover/", "recurse&consistent").unwrap();
    for entry in entries {
        let value = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(!holds(&value) && !holds(&entry.key), "{}: {value}", entry.key);
    }
    for node in &fleet.nodes {
        assert!(node.logged("TRACE") > 0, "the log holds everything");
        assert!(!holds(&node.log()), "the log of {}", node.name);
        assert!(!["prepare", "switched", "check"].iter().any(|hook| holds(&node.hook_env(hook))));
    }
}
