//! Which build a deploy of a branch, a tag or a commit takes.

use std::path::Path;
use std::process::Command;

use cutover_rig::git::git;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fleet::{Build, Fleet, FleetSpec, LIMIT, UNIT, commit_of, wait_until};

/// Publishes a tree that holds its version, of a commit that follows from the version unless `more` says another one.
fn publish(fleet: &Fleet, branch: &str, version: &str, more: &[&str]) -> Value {
    let tree = fleet.dir.path().join("build").join(version);
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("version"), version).unwrap();
    let commit = commit_of(version);
    let own = ["publish", "--app", "shop", "--output", "json", tree.to_str().unwrap(), "--branch", branch];
    let of = if more.contains(&"--commit") { vec![] } else { vec!["--commit", commit.as_str()] };
    let output = fleet.cutover(&[&own[..], &of, more].concat());
    assert_eq!(output.code, 0, "{output}");
    output.json()
}

fn artifact(published: &Value) -> String {
    published["artifact"].as_str().unwrap().to_owned()
}

/// Records a build as one of a pull request, as a publish in CI does.
fn publish_pull_request(fleet: &Fleet, version: &str) -> String {
    let artifact = artifact(&publish(fleet, "fork", version, &[]));
    let key = format!("cutover/shop/builds/{artifact}");
    let mut record: Value = fleet.consul.key(&key).unwrap().unwrap().json().unwrap();
    (record["branch"], record["pull_request"]) = ("master".into(), "7".into());
    fleet.consul(&["kv", "put", &key, &record.to_string()]);
    artifact
}

#[test]
fn without_a_repository_a_branch_means_its_newest_build_and_never_a_pull_request() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let (older, newer) = (commit_of("older"), commit_of("newer"));
    for commit in [&older, &newer] {
        let output = fleet.cutover(&["build", "start", "shop", "--branch", "master", "--commit", commit]);
        assert_eq!(output.code, 0, "{output}");
    }
    let newest = artifact(&publish(&fleet, "master", "newer", &[]));
    publish(&fleet, "refs/heads/master", "older", &[]);
    let of_fork = publish_pull_request(&fleet, "stranger");
    let dry = fleet.cutover(&["deploy", UNIT, "master", "--dry-run"]);
    assert!(dry.code == 0 && dry.stdout.contains(&newest), "{dry}");

    let output = fleet.cutover(&["deploy", UNIT, "master", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let record = &output.json()["record"];
    assert_eq!(record["artifact"], newest, "{record:#}");
    assert!(record["notes"].to_string().contains("is passed over"), "{record:#}");
    fleet.assert_all_run("newer");

    // What people write into the key, with what their editor puts in front.
    let record = fleet.put_deploy("\u{feff}refs/heads/master\r\n");
    assert_eq!((&record["outcome"], &record["artifact"]), (&"done".into(), &newest.as_str().into()), "{record:#}");
    for (wanted, version) in [(of_fork.as_str(), "stranger"), (&older, "older"), (&commit_of("stranger"), "stranger")] {
        let output = fleet.cutover(&["deploy", UNIT, wanted]);
        assert_eq!(output.code, 0, "{output}");
        fleet.assert_all_run(version);
    }
}

#[test]
fn with_a_repository_the_tip_of_the_branch_and_the_commit_of_the_tag_decide() {
    let settings = |_: usize, dir: &Path| format!("repo = \"{}\"\n", dir.join("repo").display());
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    let repo = fleet.dir.path().join("repo");
    let git = |args: &[&str]| git(fleet.dir.path(), args).unwrap();
    let at = repo.to_str().unwrap();
    git(&["init", "--quiet", "--initial-branch", "master", at]);
    let commit = |message: &str| {
        git(&["-C", at, "commit", "--quiet", "--allow-empty", "--message", message]);
        git(&["-C", at, "rev-parse", "HEAD"])
    };
    let tagged = commit("one");
    git(&["-C", at, "tag", "--annotate", "--message", "the release", "v1.4.0"]);
    let tip = commit("two");

    // The tag's build, recorded as a tag and as if it was a branch.
    for (named, version) in [("refs/tags/v1.4.0", "tagged"), ("v1.4.0", "plain")] {
        publish(&fleet, named, version, &["--commit", &tagged]);
        for wanted in ["v1.4.0", "tag:v1.4.0"] {
            let output = fleet.cutover(&["deploy", UNIT, wanted, "--again"]);
            assert_eq!(output.code, 0, "{output}");
        }
        let dry = fleet.cutover(&["deploy", UNIT, "v1.4.0", "--dry-run"]);
        assert!(version == "plain" || dry.code == 0, "{dry}");
    }
    let output = fleet.cutover(&["deploy", UNIT, "branch:v1.4.0"]);
    assert!(output.code == 3 && output.stdout.contains("ask for tag:v1.4.0"), "{output}");

    publish(&fleet, "master", "tip", &["--commit", &tip]);
    publish(&fleet, "master", "old", &["--commit", &tagged]);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("tip");

    git(&["-C", at, "branch", "v1.4.0", &tip]);
    let output = fleet.cutover(&["deploy", UNIT, "v1.4.0"]);
    assert!(output.code == 4 && output.stdout.contains("a branch and a tag"), "{output}");
}

/// An archive with a link that leaves the release, in the store and recorded, as an older `publish` could have done it.
fn record_refused(fleet: &Fleet) -> Build {
    let commit = commit_of("refused");
    let artifact = format!("refused-{}", &commit[..8]);
    let tree = fleet.dir.path().join("refused");
    std::fs::create_dir(&tree).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
    let file = fleet.store.join("shop").join(format!("{artifact}.tar.gz"));
    let (to, from) = (file.to_str().unwrap(), tree.to_str().unwrap());
    assert!(Command::new("tar").args(["-czf", to, "-C", from, "link"]).status().unwrap().success());
    let bytes = std::fs::read(&file).unwrap();
    let (branch, at) = ("refused", "2026-01-01T00:00:00Z");
    let record = json!({
        "artifact": artifact, "branch": branch, "commit": commit, "sha256": hex::encode(Sha256::digest(&bytes)),
        "packed_bytes": bytes.len(), "unpacked_bytes": 0, "entries": 1, "format": "tar.gz", "by": "ci", "at": at,
    });
    let mut latest = fleet.consul.key("cutover/shop/latest").unwrap().unwrap().json().unwrap();
    latest["builds"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"artifact": artifact, "branch": branch, "commit": commit, "at": at}));
    fleet.consul(&["kv", "put", &format!("cutover/shop/builds/{artifact}"), &record.to_string()]);
    fleet.consul(&["kv", "put", "cutover/shop/latest", &latest.to_string()]);
    Build { artifact, commit }
}

#[test]
fn a_build_that_nodes_refuse_for_its_content_is_prefetched_once_and_again_after_a_restart() {
    let settings = |_: usize, _: &Path| "prefetch = [\"*\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    let refused = record_refused(&fleet);
    let words = format!("cannot prefetch {}", refused.artifact);
    let tries = || fleet.nodes[0].logged(&words);
    wait_until(LIMIT, "the node refuses it", || (tries() == 1).then_some(()));
    // Each publish starts another round, and so does the end of a deploy.
    fleet.publish_and_stage("two");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.publish_and_stage("three");
    assert_eq!(tries(), 1, "{}", fleet.nodes[0].log_tail());
    fleet.term(0);
    fleet.start_agent(0);
    wait_until(LIMIT, "a restarted agent tries it again", || (tries() == 2).then_some(()));
    // Another record of the same name may be good.
    let key = format!("cutover/shop/builds/{}", refused.artifact);
    let mut record = fleet.consul.key(&key).unwrap().unwrap().json().unwrap();
    record["url"] = "https://ci/2".into();
    fleet.consul(&["kv", "put", &key, &record.to_string()]);
    fleet.publish_and_stage("four");
    wait_until(LIMIT, "a changed record is tried", || (tries() == 3).then_some(()));
}
