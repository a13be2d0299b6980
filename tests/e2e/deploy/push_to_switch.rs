//! From a push to a switched fleet, as the README has it.

use std::path::Path;

use cutover_rig::git::git;

use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

#[test]
fn a_push_and_one_kv_put_switch_the_whole_fleet() {
    let fleet = Fleet::start(&FleetSpec { watches: true, ..FleetSpec::default() });
    let first = fleet.publish_and_stage("one");
    assert!(fleet.nodes.iter().all(|node| node.current().is_none()), "prefetching switches nothing");
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "done", "{record:#}");
    let link = fleet.assert_all_run("one");
    let release = link.strip_prefix("releases/").unwrap();
    assert_eq!(record["release"], release);
    assert!(release.len() == 14 && release.starts_with("20"), "{release} is no UTC time");
    for node in &fleet.nodes {
        assert_eq!(node.read("current/REVISION").unwrap().trim(), first.commit);
    }
    assert_eq!(record["by"], "unattributed");
    assert_eq!(record["via"], "kv");
    assert_eq!(record["request"], "master");
    assert_eq!(record["artifact"], first.artifact);
    assert_eq!(record["commit"], first.commit);
    let nodes = record["nodes"].as_object().unwrap();
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["web-1", "web-2", "web-3"]);
    for (name, node) in nodes {
        assert_eq!(node["answer"], "switched", "{name}");
        let took = |what: &str| node["took"][what].as_u64().unwrap_or_else(|| panic!("{what} of {name}: {node}"));
        took("prepare_ms");
        assert!(took("link_ms") <= took("switch_ms"), "{name}: {node}");
    }
    let when = |name: &str| record[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(when("started_at") <= when("committed_at") && when("committed_at") <= when("ended_at"));

    // The key is taken, so the same words ask again; and mean the next push.
    assert_eq!(fleet.entry("deploy").unwrap().value, b"");
    fleet.publish_and_stage("two");
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_ne!(fleet.assert_all_run("two"), link);
    assert!(fleet.nodes.iter().all(|node| node.read(&format!("{link}/version")).as_deref() == Some("one")));
    // And once more: it runs already, so there is nothing to do, and that is success.
    let before: Vec<_> = fleet.nodes.iter().map(crate::fleet::node::Node::current).collect();
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(fleet.nodes.iter().map(crate::fleet::node::Node::current).collect::<Vec<_>>(), before);
}

#[test]
fn status_history_and_builds_show_the_deploy() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let build = fleet.publish_and_stage("one");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--reason", "the first", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let deploy = output.json();
    assert_eq!(deploy["fate"], "done");
    assert_eq!(deploy["code"], 0);
    assert_eq!(deploy["unit"], UNIT);
    assert_eq!(deploy["record"]["outcome"], "done");

    let status = fleet.cutover(&["status", UNIT, "--output", "json"]).json();
    assert_eq!(status["current"]["artifact"], build.artifact.as_str());
    assert_eq!(status["phase"], "done");
    assert_eq!(status["last"]["outcome"], "done");
    assert!(status["running"].is_null(), "{status:#}");
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!(node["state"], "alive", "{node:#}");
        // Here every node has another deploy_to, and that is a difference of settings.
        let drift = node["drift"].as_array().unwrap();
        assert!(drift.iter().all(|it| it == "config"), "{node:#}");
    }

    let history = fleet.cutover(&["history", UNIT, "--output", "json"]).json();
    let row = &history["requests"][0];
    assert_eq!(row["by"], "ann");
    assert_eq!(row["via"], "cli");
    assert_eq!(row["why"], "the first");
    assert!(row["took_ms"].is_u64());
    let builds = fleet.cutover(&["builds", "shop"]);
    assert!(builds.code == 0 && builds.stdout.contains(&build.artifact), "{builds}");
    for text in [fleet.cutover(&["status"]), fleet.cutover(&["history", UNIT])] {
        assert!(text.code == 0 && text.stdout.contains(&build.artifact), "{text}");
    }
}

#[test]
fn without_a_terminal_deploy_prints_each_phase_once() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    // Held, so that no phase is too short to be seen.
    fleet.nodes[0].hold("prepare");
    fleet.nodes[1].hold("check");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    let told = |phase: &str| wait_until(LIMIT, phase, || deploy.said()[1].contains(phase).then_some(()));
    told("  prepare  ");
    fleet.nodes[0].release("prepare");
    told("  commit  ");
    fleet.nodes[1].release("check");
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    let phases: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.starts_with(UNIT))
        .map(|line| line.split("  ").nth(2).unwrap())
        .collect();
    // The end is the result, on stdout; a line before it says so only where there was the time.
    let phases = phases.strip_suffix(&["done"]).unwrap_or(&phases);
    assert_eq!(phases, ["prepare", "commit"], "{output}");
    assert!(output.stdout.starts_with("done: "), "{output}");
    assert!(!output.stdout.contains('\u{1b}') && !output.stderr.contains('\u{1b}'), "{output}");
}

#[test]
fn a_lost_event_only_delays_a_deploy_and_a_repeated_one_does_nothing() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    // There is no watch, so no event arrives anywhere.
    let build = fleet.publish_and_stage("one");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    let state = || {
        let disk: Vec<_> = fleet.nodes.iter().map(|node| (node.list("releases"), node.current())).collect();
        (disk, fleet.history(), fleet.entry("barrier").map(|it| it.modify_index))
    };
    let before = state();
    // As Consul 1.8.7 wrote them; the payloads are ours. `null` and `[]` come when a watch starts.
    let event = |payload: &str, ltime: u64| {
        use base64::Engine as _;
        let payload = base64::engine::general_purpose::STANDARD.encode(payload);
        format!(
            r#"{{"ID":"ca0e510c-e974-5d14-3cf4-ae8333fc2beb","Name":"cutover-build","Payload":"{payload}","NodeFilter":"","ServiceFilter":"","TagFilter":"","Version":1,"LTime":{ltime}}}"#
        )
    };
    let new = event(&format!("shop/{}", build.artifact), 9);
    let old = event("shop/master-00000000", 2);
    let forged = event("shop/../../../etc", 10);
    let key = r#"{"Key":"cutover/shop/latest","CreateIndex":414,"ModifyIndex":83598,"LockIndex":0,"Flags":0,"Value":null,"Session":""}"#;
    for payload in
        [format!("[{new}]\n"), format!("[{new},{new}]\n"), format!("[{old}]"), format!("[{forged}]"), key.to_owned()]
            .iter()
            .map(String::as_str)
            .chain(["[]\n", "null\n"])
    {
        for node in &fleet.nodes {
            let agent = format!("http://{}", node.api);
            let output = fleet.cutover_with_input(&["watch-handler", "--agent", &agent], payload.as_bytes());
            assert_eq!(output.code, 0, "{payload}: {output}");
        }
    }
    assert_eq!(fleet.cutover_with_input(&["watch-handler", "--agent", "http://127.0.0.1:1"], b"[]").code, 8);
    // What was rung for has been done when a later push is staged.
    fleet.publish_and_stage("two");
    assert_eq!(state(), before);
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "done", "{record:#}");
    fleet.assert_all_run("two");
}

#[test]
fn a_queued_request_waits_and_is_taken_exactly_once() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    let (one, two) = (fleet.publish("one"), fleet.publish_and_stage("two"));
    fleet.nodes[0].hold("prepare");
    let first = fleet.begin(&["deploy", UNIT, &one.artifact]);
    fleet.nodes[0].wait_hook("prepare");
    let busy = fleet.cutover(&["deploy", UNIT, &two.artifact]);
    assert_eq!(busy.code, 6, "{busy}");
    let queued = fleet.begin(&["deploy", UNIT, &two.artifact, "--queue"]);
    wait_until(LIMIT, "the second one waits", || queued.said()[1].contains("waiting").then_some(()));
    fleet.nodes[0].release("prepare");
    assert_eq!(first.finish().code, 0);
    let output = queued.finish();
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
    let outcomes: Vec<_> = fleet.history().iter().map(|it| it["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(outcomes, ["done", "done"]);
    assert_eq!(fleet.entry("deploy").unwrap().key, format!("{PREFIX}deploy"));
}

#[test]
fn a_branch_resolves_to_its_head_in_the_repository_and_to_no_older_commit() {
    let settings = |_: usize, dir: &Path| format!("repo = \"{}\"\n", dir.join("repo").display());
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let repo = fleet.dir.path().join("repo");
    std::fs::create_dir(&repo).unwrap();
    let git = |args: &[&str]| git(&repo, args).unwrap();
    git(&["init", "-q", "--initial-branch", "master"]);
    let push = |version: &str| {
        std::fs::write(repo.join("version"), version).unwrap();
        git(&["add", "version"]);
        git(&["commit", "-q", "-m", version]);
        git(&["rev-parse", "HEAD"])
    };
    // Branch and commit are git's own, as in a build step.
    let publish = || {
        let output = fleet.cutover(&["publish", "--app", "shop", repo.to_str().unwrap()]);
        assert_eq!(output.code, 0, "{output}");
    };
    let first = push("one");
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert_eq!(record["fault"]["step"], "not_found", "{record:#}");
    publish();
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["commit"], first, "{record:#}");
    fleet.assert_all_run("one");
    // The same words after another push: refused until that push is built, and then it.
    let second = push("two");
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert!(record["fault"]["reason"].as_str().unwrap().contains(&second[..8]), "{record:#}");
    fleet.assert_all_run("one");
    publish();
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert_eq!(record["commit"], second, "{record:#}");
    fleet.assert_all_run("two");
}

#[test]
fn a_fleet_deploys_from_an_s3_server() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, s3: true, ..FleetSpec::default() });
    let build = fleet.deployed("one");
    assert!(fleet.store.join(format!("builds/archives/shop/{}", fleet.object(&build))).is_file());
    fleet.assert_all_run("one");
    // Not prefetched: a deploy that comes right after the push fetches for itself.
    fleet.publish("two");
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "done", "{record:#}");
    fleet.assert_all_run("two");
}
