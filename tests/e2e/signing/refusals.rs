//! A build that is not signed by a pinned key is refused by the coordinator before the barrier begins, and by each node
//! before it unpacks a byte. `force` does not help.

use serde_json::{Value, json};

use super::{Pair, assert_untouched, fetched, overwrite, pin, publish, record, restart, signers, wait_refused};
use crate::fleet::node::Node;
use crate::fleet::web::Web;
use crate::fleet::{Build, Fleet, FleetSpec, UNIT, commit_of};

/// Fails unless every way to ask for a build is refused by the coordinator, in these words, before any node is asked.
fn assert_refused(fleet: &Fleet, build: &Build, words: &str) {
    let artifact = build.artifact.as_str();
    let before = fleet.nodes[0].current();
    let refused = |record: &Value| {
        assert_eq!(record["outcome"], "refused", "{record:#}");
        assert_eq!(record["fault"]["step"], "verify", "{record:#}");
        assert!(record["fault"]["reason"].as_str().unwrap().contains(words), "{words}: {record:#}");
        assert!(record["nodes"].as_object().is_none_or(serde_json::Map::is_empty), "no node was asked: {record:#}");
    };
    refused(&fleet.put_deploy(artifact));
    refused(&fleet.put_deploy(&json!({"ref": artifact, "force": true, "by": "bob", "via": "chat"}).to_string()));
    let web = Web::of(&fleet.nodes[0]);
    refused(&fleet.outcome_of(|| {
        web.post(&format!("/v1/deploys/{UNIT}"), &json!({"ref": artifact, "force": true})).expect(202);
    }));
    for arguments in [
        ["deploy", UNIT, artifact].as_slice(),
        &["deploy", UNIT, artifact, "--force"],
        &["deploy", UNIT, artifact, "--dry-run"],
    ] {
        let output = fleet.cutover(arguments);
        assert!(output.code == 4 && output.stdout.contains(words), "{arguments:?}: {words}: {output}");
    }
    assert_eq!(fleet.nodes[0].current(), before);
}

/// Fails unless the coordinator lets every way to deploy the newest build of master through, and `node` alone refuses it.
fn assert_refused_by(fleet: &Fleet, node: &Node, words: &str) {
    for arguments in [
        ["deploy", UNIT, "master"].as_slice(),
        &["deploy", UNIT, "master", "--force"],
        &["deploy", UNIT, "master", "--dry-run"],
    ] {
        let output = fleet.cutover(arguments);
        assert!(output.code == 4 && output.stdout.contains(words), "{arguments:?}: {words}: {output}");
    }
    let last = fleet.history().pop().unwrap();
    assert_eq!((&last["outcome"], &last["fault"]["step"]), (&json!("aborted"), &json!("verify")), "{last:#}");
    assert_eq!(last["node"], node.name.as_str(), "{last:#}");
    assert!(last["request"].as_str().unwrap().contains("\"force\":true"), "{last:#}");
}

#[test]
fn an_unsigned_changed_or_foreign_build_is_refused_before_the_barrier_begins() {
    let furnish = |fleet: &Fleet, node: &Node| pin(node, &[&Pair::of(fleet, "ci")], true);
    let settings = |_: usize, _: &std::path::Path| "prefetch = [\"nothing\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, furnish, settings, ..FleetSpec::default() });
    let (ci, other) = (Pair::of(&fleet, "ci"), Pair::of(&fleet, "other"));

    let unsigned = publish(&fleet, "unsigned", None);
    let rule = format!("web-1 has require_signature for {UNIT}");
    let rule = if fleet.coordinator() == 0 { rule } else { rule.replace("web-1", "web-2") };
    assert_refused(&fleet, &unsigned, &format!("{} is not signed, and {rule}", unsigned.artifact));
    let foreign = publish(&fleet, "foreign", Some(&other));
    let words = format!("is signed by key {}, which is not among [signatures] keys, and {rule}", other.id);
    assert_refused(&fleet, &foreign, &words);

    let mismatch = format!("has a signature by key {} that does not fit", ci.id);
    let changed = publish(&fleet, "changed", Some(&ci));
    let good = record(&fleet, &changed);
    let mut profile = good.clone();
    profile["profile"] = json!("release");
    let mut branch = good.clone();
    branch["branch"] = json!("hotfix");
    // The signature of another build of the same key.
    let mut signature = good.clone();
    signature["signature"] = record(&fleet, &publish(&fleet, "else", Some(&ci)))["signature"].clone();
    // Another archive under the name, with a record that fits it.
    let evil = record(&fleet, &unsigned);
    let mut swapped = good.clone();
    for field in ["sha256", "packed_bytes", "unpacked_bytes", "entries"] {
        swapped[field] = evil[field].clone();
    }
    std::fs::copy(fleet.archive(&unsigned), fleet.archive(&changed)).unwrap();
    for record in [profile, branch, signature, swapped] {
        overwrite(&fleet, &changed, &record);
        assert_refused(&fleet, &changed, &mismatch);
    }
    let mut cut = good.clone();
    cut["signature"] = json!(good["signature"].as_str().unwrap()[..90]);
    overwrite(&fleet, &changed, &cut);
    assert_refused(&fleet, &changed, "has a signature that is not one of minisign: it has fewer than four lines");

    // A record as it was, and another archive: the coordinator cannot see it, and each node refuses it.
    overwrite(&fleet, &changed, &good);
    let output = fleet.cutover(&["deploy", UNIT, &changed.artifact, "--force"]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stdout.contains("verif") && !output.stdout.contains("signature"), "{output}");
    for node in &fleet.nodes {
        assert_eq!(node.list(".cutover/staged"), Vec::<String>::new());
        assert_eq!(node.current(), None);
    }

    let signed = publish(&fleet, "signed", Some(&ci));
    let output = fleet.cutover(&["deploy", UNIT, &signed.artifact]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("signed");
    for node in &fleet.nodes {
        assert_eq!(signers(node)[&signed.artifact], ci.id.as_str());
    }
}

#[test]
fn each_node_refuses_by_its_own_settings_before_it_unpacks_a_byte() {
    // Whoever coordinates has no rules, so the refusals are those of the nodes.
    let settings = |index: usize, _: &std::path::Path| format!("coordinate = {}\n", index == 0);
    let furnish = |fleet: &Fleet, node: &Node| {
        if node.name == "web-2" {
            pin(node, &[&Pair::of(fleet, "ci")], true);
        }
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 3, settings, furnish, ..FleetSpec::default() });
    let (ci, [lax, strict, stricter]) = (Pair::of(&fleet, "ci"), [0, 1, 2].map(|index| &fleet.nodes[index]));
    let unsigned = publish(&fleet, "unsigned", None);
    let words = |node: &Node| {
        format!("{} is not signed, and {} has require_signature for {UNIT}", unsigned.artifact, node.name)
    };
    assert_eq!(wait_refused(&fleet, strict, &unsigned), format!("{}; publish it again with --sign", words(strict)));
    let status = fleet.cutover(&["status", UNIT]);
    assert!(
        status.stdout.contains(&format!("cannot prefetch {}: verification: {}", unsigned.artifact, words(strict))),
        "{status}"
    );
    assert_refused_by(&fleet, strict, &words(strict));
    assert_untouched(strict);

    // The next node has unpacked it ahead of time, when it had no rules. What it finds on its disk is checked as well.
    fleet.wait_staged_on(stricter, &unsigned);
    std::fs::remove_file(strict.dir.join("conf.d/signatures.toml")).unwrap();
    pin(stricter, &[&ci], true);
    restart(&fleet, &[1, 2]);
    assert_refused_by(&fleet, stricter, &words(stricter));
    for node in [lax, strict, stricter] {
        assert_eq!(node.current(), None, "{}", node.name);
    }

    // A signature that is added later is enough.
    pin(strict, &[&ci], true);
    restart(&fleet, &[1]);
    let again = publish(&fleet, "unsigned", Some(&ci));
    assert_eq!(again.artifact, unsigned.artifact);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("unsigned");
    assert_eq!(signers(lax)[&again.artifact], Value::Null, "it has no key to check by");
    for node in [strict, stricter] {
        assert_eq!(signers(node)[&again.artifact], ci.id.as_str());
        assert_ne!(fetched(node), 0, "what is fetched is seen");
    }

    let doctor = fleet.cutover(&["doctor", UNIT]);
    let says = format!(
        "no key is pinned on this node, so it checks no signature; {} is signed by key {}",
        again.artifact, ci.id
    );
    assert_eq!(doctor.stdout.matches(&says).count(), 1, "{doctor}");
    let pinned = format!("pinned: {}; require_signature is set", ci.id);
    assert_eq!(doctor.stdout.matches(&pinned).count(), 2, "{doctor}");
}

#[test]
fn a_record_that_was_changed_in_any_signed_field_is_refused() {
    let furnish = |fleet: &Fleet, node: &Node| pin(node, &[&Pair::of(fleet, "ci")], true);
    let settings = |_: usize, _: &std::path::Path| "prefetch = [\"nothing\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, furnish, settings, ..FleetSpec::default() });
    let ci = Pair::of(&fleet, "ci");
    let build = publish(&fleet, "signed", Some(&ci));
    let good = record(&fleet, &build);
    let others = json!({
        "artifact": "master-00000000",
        "branch": "hotfix",
        "commit": commit_of("another"),
        "sha256": "0".repeat(64),
        "packed_bytes": 1,
        "unpacked_bytes": 1_u64 << 40,
        "entries": 1_u64 << 20,
        "format": "tar.gz",
        "tree": "0".repeat(64),
        "object": "master-00000000-0000000000000000.tar.zst",
        "manifest": {"sha256": "0".repeat(64), "bytes": 1},
        "profile": "release",
        "tag": "master",
        "pull_request": "7",
    });
    let text = fleet.cutover(&["build", "signed-text", "shop", &build.artifact]);
    for name in text.stdout.lines().skip(1).map(|line| line.split_once(": ").unwrap().0) {
        assert!(name == "app" || others[name] != Value::Null, "{name} is signed: change it here");
    }
    let mismatch = format!("has a signature by key {} that does not fit", ci.id);
    for (name, other) in others.as_object().unwrap() {
        let mut changed = good.clone();
        changed[name] = other.clone();
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove(name);
        let optional = ["tree", "object", "manifest", "profile", "tag", "pull_request"].contains(&name.as_str());
        for record in [Some(changed), (optional && good.get(name).is_some()).then_some(without)].into_iter().flatten() {
            overwrite(&fleet, &build, &record);
            // By the name that the record has.
            let deploy = json!({"ref": record["artifact"], "force": true, "by": "bob", "via": "chat"});
            let refused = fleet.put_deploy(&deploy.to_string());
            assert_eq!(refused["outcome"], "refused", "{name}: {refused:#}");
            assert!(refused["fault"]["reason"].as_str().unwrap().contains(&mismatch), "{name}: {refused:#}");
        }
    }
    assert_untouched(&fleet.nodes[0]);
    overwrite(&fleet, &build, &good);
    let output = fleet.cutover(&["deploy", UNIT, &build.artifact]);
    assert_eq!(output.code, 0, "{output}");
}
