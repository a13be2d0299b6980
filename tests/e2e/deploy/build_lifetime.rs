//! The life of a build: in the store, in Consul, on nodes, and its end.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::fleet::run::{self, Output, Running};
use crate::fleet::{Build, Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

fn swept() -> Fleet {
    let store = "sweep_every = \"1s\"\n";
    Fleet::start(&FleetSpec { nodes: 2, store, ..FleetSpec::default() })
}

/// One row of `cutover builds`.
fn row(fleet: &Fleet, build: &Build) -> Option<Value> {
    let document = fleet.cutover(&["builds", "shop", "--output", "json"]).json();
    document["builds"].as_array()?.iter().find(|row| row["artifact"] == build.artifact.as_str()).cloned()
}

/// What the check of the coordinator's agent says.
fn check(fleet: &Fleet) -> (String, String) {
    let reply = fleet.local_consul(fleet.coordinator()).call("GET", "agent/checks", b"").unwrap();
    let checks: Value = serde_json::from_slice(&reply.body).unwrap();
    let own = &checks["service:cutover-shop-production"];
    let text = |name: &str| own[name].as_str().unwrap_or_default().to_owned();
    (text("Status"), text("Output"))
}

fn is_gone(fleet: &Fleet, build: &Build) -> bool {
    fleet
        .json("store")
        .is_some_and(|it| it["gone"].as_array().unwrap().iter().any(|name| *name == build.artifact.as_str()))
}

#[test]
fn a_missing_archive_of_the_running_build_is_an_alarm_until_it_is_published_again() {
    let fleet = swept();
    let one = fleet.deployed("one");
    let two = fleet.publish_and_stage("two");
    let deployed = row(&fleet, &one).unwrap();
    assert_eq!(deployed["state"], "published");
    assert_eq!(deployed["deployed"]["production"]["runs"], true);
    std::fs::remove_file(fleet.archive(&one)).unwrap();
    std::fs::remove_file(fleet.archive(&two)).unwrap();
    wait_until(LIMIT, "both are found missing", || (is_gone(&fleet, &one) && is_gone(&fleet, &two)).then_some(()));
    let status = fleet.cutover(&["status", UNIT, "--output", "json"]).json();
    let troubles = status["troubles"].to_string();
    assert!(troubles.contains(&one.artifact) && !troubles.contains(&two.artifact), "{troubles}");
    let text = fleet.cutover(&["status", UNIT]).stdout;
    assert!(text.contains("a new node could not join") && !text.contains("cutover recover"), "{text}");
    wait_until(LIMIT, "the check warns", || {
        let (status, output) = check(&fleet);
        (status == "warning" && output.contains(&one.artifact)).then_some(())
    });
    assert_eq!(row(&fleet, &one).unwrap()["state"], "gone");
    assert_eq!(row(&fleet, &two).unwrap()["deployable"], false);

    for version in ["one", "two"] {
        fleet.publish(version);
    }
    assert!(fleet.archive(&one).exists() && fleet.archive(&two).exists(), "publishing again brings it back");
    wait_until(LIMIT, "nothing is missing", || (!is_gone(&fleet, &one) && !is_gone(&fleet, &two)).then_some(()));
    wait_until(LIMIT, "the check is content", || (check(&fleet).0 == "passing").then_some(()));
    let status = fleet.cutover(&["status", UNIT, "--output", "json"]).json();
    assert!(status["troubles"].is_null(), "{status:#}");
}

#[test]
fn a_cut_or_altered_archive_is_reported_until_it_is_published_again() {
    let fleet = swept();
    let one = fleet.deployed("one");
    let two = fleet.publish_and_stage("two");
    let whole = std::fs::read(fleet.archive(&one)).unwrap();
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    // Replaced as a publisher does: what is read at this moment stays whole.
    let replace = |build: &Build, bytes: &[u8]| {
        let beside = fleet.archive(build).with_extension("new");
        std::fs::write(&beside, bytes).unwrap();
        rustix::fs::rename(&beside, fleet.archive(build)).unwrap();
    };
    replace(&one, &altered);
    replace(&two, b"cut");
    let damage =
        |build: &Build| fleet.json("store").and_then(|it| it["damaged"][&build.artifact].as_str().map(str::to_owned));
    let found = || (damage(&one)? == "altered" && damage(&two)? == "cut").then_some(());
    wait_until(LIMIT, "both are found damaged", found);
    assert!(fleet.json("store").unwrap()["gone"].as_array().unwrap().is_empty());
    let text = fleet.cutover(&["status", UNIT]).stdout;
    assert!(text.contains(&format!("the archive of {} is altered in the store", one.artifact)), "{text}");
    wait_until(LIMIT, "the check warns", || {
        let (status, output) = check(&fleet);
        (status == "warning" && output.contains("is altered in the store")).then_some(())
    });
    let rows = [&one, &two].map(|build| row(&fleet, build).unwrap());
    assert_eq!((&rows[0]["state"], &rows[1]["damaged"]["production"]), (&"damaged".into(), &"cut".into()));
    assert_eq!(rows[1]["deployable"], false);

    for version in ["one", "two"] {
        fleet.publish(version);
    }
    assert!(std::fs::read(fleet.archive(&one)).unwrap() == whole, "publishing again repairs it");
    wait_until(LIMIT, "nothing is damaged", || fleet.json("store").filter(|it| it["damaged"].is_null()).map(drop));
    wait_until(LIMIT, "the check passes", || (check(&fleet).0 == "passing").then_some(()));
}

#[test]
fn an_unreachable_or_unmounted_store_marks_no_build_as_missing() {
    let fleet = swept();
    let one = fleet.deployed("one");
    let leader = &fleet.nodes[fleet.coordinator()];
    let said = |times: usize| {
        wait_until(LIMIT, "the sweep meets the missing store", || {
            (leader.logged("cannot list the store") == times).then_some(())
        });
    };
    fleet.hide_store();
    said(1);
    rustix::fs::rename(fleet.store.with_extension("away"), &fleet.store).unwrap();
    // Only what comes after it can tell: a build that is really gone is found by a later sweep.
    let three = fleet.publish("three");
    std::fs::remove_file(fleet.archive(&three)).unwrap();
    wait_until(LIMIT, "what is gone is found", || is_gone(&fleet, &three).then_some(()));
    fleet.unmount_store();
    said(2);
    fleet.mount_store();
    let two = fleet.publish_and_stage("two");
    std::fs::remove_file(fleet.archive(&two)).unwrap();
    wait_until(LIMIT, "what is gone is found", || is_gone(&fleet, &two).then_some(()));
    assert!(!is_gone(&fleet, &one));
    assert_eq!(leader.logged(&format!("the archive of {} is not in the store", one.artifact)), 0);
}

fn names(fleet: &Fleet) -> Vec<String> {
    let document = fleet.cutover(&["builds", "shop", "--output", "json"]).json();
    let rows = document["builds"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| row["artifact"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn pruning_keeps_builds_that_are_new_running_or_rollback_targets() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let mut builds: Vec<Build> = ["one", "two"].map(|version| fleet.deployed(version)).into();
    for version in ["three", "four", "five", "six", "seven", "eight", "nine"] {
        builds.push(fleet.publish(version));
    }
    fleet.cutover(&["build", "prune", "shop", "--keep", "20", "--dry-run"]);
    assert_eq!(names(&fleet).len(), 9, "nothing goes for being asked about");
    let tree = fleet.dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("version"), "ten").unwrap();
    let commit = "a".repeat(40);
    let arguments = ["publish", "--app", "shop", "--branch", "master", "--commit", &commit, tree.to_str().unwrap()];
    let output = fleet.cutover(&[&arguments[..], &["--keep-builds", "3"]].concat());
    assert_eq!(output.code, 0, "{output}");
    // What nodes had staged while it was the newest may be kept as well, until they let go of it.
    let tenth = Build { artifact: "master-aaaaaaaa".to_owned(), commit: commit.clone() };
    fleet.wait_staged(&tenth);
    wait_until(LIMIT, "only the newest is staged", || {
        fleet
            .nodes
            .iter()
            .all(|node| {
                fleet
                    .json(&format!("nodes/{}", node.name))
                    .is_some_and(|it| it["staged"].as_array().unwrap().len() == 1)
            })
            .then_some(())
    });
    let output = fleet.cutover(&["build", "prune", "shop", "--keep", "3"]);
    assert_eq!(output.code, 0, "{output}");
    let kept = [&tenth, &builds[8], &builds[7], &builds[1], &builds[0]].map(|build| build.artifact.clone());
    assert_eq!(names(&fleet), kept);
    for (at, build) in builds.iter().enumerate() {
        assert_eq!(fleet.archive(build).exists(), kept.contains(&build.artifact), "build {at}");
        let run = fleet.consul.key(&format!("cutover/shop/runs/{}", build.artifact)).unwrap();
        assert_eq!(run.is_some(), kept.contains(&build.artifact), "the run of build {at}");
    }
    let output = fleet.cutover(&["deploy", UNIT, &format!("artifact:{}", builds[4].artifact)]);
    assert_eq!(output.code, 3, "{output}");
    assert!(
        output.stderr.contains("never published, or was removed since") || output.stdout.contains("was removed since"),
        "{output}"
    );
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 0);
    fleet.assert_all_run("one");
}

/// An S3 server that does something when it is told to remove an object, and has everything it is asked for.
fn store_that(on_delete: impl Fn(&str) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            if text.starts_with("DELETE ") {
                on_delete(&text);
            }
            _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    format!("http://{address}")
}

fn prune_from(fleet: &Fleet, endpoint: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    run::clean_env(&mut command, fleet.dir.path());
    command.args(["build", "prune", "shop", "--keep", "1", "--output", "json", "--store", "s3://builds"]);
    command.args(["--store-region", "eu-west-1", "--store-path-style", "--store-endpoint", endpoint]);
    command.env("CONSUL_HTTP_ADDR", &fleet.consul.address);
    command.envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")]);
    Running::begin(command, fleet.dir.path()).finish()
}

#[test]
fn a_deploy_requested_during_the_removal_of_its_build_keeps_the_record() {
    let fleet = Fleet::start(&FleetSpec { nodes: 0, ..FleetSpec::default() });
    let [one, two, three] = ["one", "two", "three"].map(|version| fleet.publish(version));
    for key in ["barrier", "deploy"] {
        fleet.consul(&["kv", "put", &format!("{PREFIX}{key}"), ""]);
    }
    let (consul, wanted) = (fleet.consul.clone(), one.artifact.clone());
    let endpoint = store_that(move |head| {
        if head.contains(&wanted) {
            let put = consul.call("PUT", &format!("kv/{PREFIX}deploy"), wanted.as_bytes()).unwrap();
            assert_eq!(put.status, 200);
        }
    });
    let output = prune_from(&fleet, &endpoint);
    assert_eq!(output.code, 1, "{output}");
    let pruned = output.json();
    assert_eq!(pruned["removed"], serde_json::json!([two.artifact]));
    assert!(pruned["left"][&one.artifact].as_str().unwrap().contains("publish the same archive again"), "{pruned:#}");
    assert_eq!(names(&fleet), [three.artifact, one.artifact], "what is asked for has its record");
}

#[test]
fn a_group_that_appears_during_pruning_keeps_the_build_it_requests() {
    // A new group; and the first request of one that has no key for it yet.
    for unit in ["shop/staging", UNIT] {
        let fleet = Fleet::start(&FleetSpec { nodes: 0, ..FleetSpec::default() });
        let [one, two, three] = ["one", "two", "three"].map(|version| fleet.publish(version));
        fleet.consul(&["kv", "put", &format!("{PREFIX}barrier"), ""]);
        let (consul, removed, wanted) = (fleet.consul.clone(), one.artifact.clone(), two.artifact.clone());
        let endpoint = store_that(move |head| {
            if head.contains(&removed) {
                let put = consul.call("PUT", &format!("kv/cutover/{unit}/deploy"), wanted.as_bytes()).unwrap();
                assert_eq!(put.status, 200);
            }
        });
        let output = prune_from(&fleet, &endpoint);
        assert_eq!(output.code, 0, "{unit}: {output}");
        assert_eq!(output.json()["removed"], serde_json::json!([one.artifact]), "{unit}");
        assert_eq!(names(&fleet), [three.artifact, two.artifact], "{unit}");
    }
}

#[test]
fn builds_that_cannot_be_removed_or_judged_stay_recorded() {
    let fleet = Fleet::start(&FleetSpec { nodes: 0, ..FleetSpec::default() });
    let [one, two] = ["one", "two"].map(|version| fleet.publish(version));
    let stays = |words: &str| {
        let output = fleet.cutover(&["build", "prune", "shop", "--keep", "1"]);
        assert_eq!(output.code, 1, "{output}");
        assert!(format!("{output}").contains(words), "{output}");
        assert_eq!(names(&fleet), [two.artifact.clone(), one.artifact.clone()]);
    };
    fleet.hide_store();
    stays("the artifact store cannot be used");
    rustix::fs::rename(fleet.store.with_extension("away"), &fleet.store).unwrap();
    fleet.unmount_store();
    stays("the store contains none of the newest builds");
    fleet.mount_store();
    let away = fleet.archive(&one).with_extension("away");
    rustix::fs::rename(fleet.archive(&one), &away).unwrap();
    std::fs::create_dir(fleet.archive(&one)).unwrap();
    stays("could not be removed");
    std::fs::remove_dir(fleet.archive(&one)).unwrap();
    rustix::fs::rename(away, fleet.archive(&one)).unwrap();

    let barrier = format!("{PREFIX}barrier");
    for (value, words) in [("rubbish", "has no readable record"), ("", "")] {
        fleet.consul(&["kv", "put", &barrier, value]);
        let output = fleet.cutover(&["build", "prune", "shop", "--keep", "1"]);
        assert!(output.stderr.contains(words), "{output}");
        assert_eq!(fleet.archive(&one).exists(), !words.is_empty(), "{output}");
    }
    assert_eq!(names(&fleet), [two.artifact]);
}

#[test]
fn a_build_that_ci_never_ended_is_lost_and_blocks_no_deploy() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let one = fleet.publish_and_stage("one");
    let commit = "b".repeat(40);
    let run = |lost_at: &str| {
        let run = serde_json::json!({
            "branch": "master", "commit": commit, "state": "building", "by": "ci", "begun_at": "2999-01-01T00:00:00Z",
            "at": "2999-01-01T00:00:00Z", "lost_at": lost_at,
        });
        fleet.consul(&["kv", "put", "cutover/shop/runs/master-bbbbbbbb", &run.to_string()]);
    };
    run("2999-01-02T00:00:00Z");
    let output = fleet.cutover(&["deploy", UNIT, "branch:master"]);
    assert_eq!(output.code, 4, "{output}");
    run("2020-01-01T00:00:00Z");
    let lost = Build { artifact: "master-bbbbbbbb".to_owned(), commit: commit.clone() };
    assert_eq!(row(&fleet, &lost).unwrap()["state"], "lost");
    let output = fleet.cutover(&["deploy", UNIT, "branch:master"]);
    assert_eq!(output.code, 0, "{output}");
    let record = fleet.history().pop().unwrap();
    assert_eq!(record["artifact"], one.artifact.as_str());
    assert!(record["notes"].to_string().contains("is lost"), "{record:#}");
}
