//! Units on the same nodes: two groups of an app, and another app, which never touch each other.

use std::path::Path;
use std::process::Command;

use crate::fleet::consul::Entry;
use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// The units beside [`UNIT`].
const STAGING: &str = "shop/staging";
const BLOG: &str = "blog/production";

/// Where they lie in a node's directory.
fn place(unit: &str) -> String {
    unit.replace('/', "-")
}

/// Settings of both, the staging group with a prepare hook of its own, and nothing fetched ahead of time.
fn neighbours(index: usize, dir: &Path) -> String {
    let node = dir.join(format!("web-{}", index + 1));
    let hook = node.join("hook").display().to_string();
    let section = |unit: &str| {
        let deploy_to = node.join(place(unit)).display().to_string();
        format!("[deploy.\"{unit}\"]\ndeploy_to = \"{deploy_to}\"\nprefetch = []\n")
    };
    format!(
        "prefetch = []\n{}{}[deploy.\"{STAGING}\".hooks]\n\
         prepare = {{ command = [\"sh\", \"{hook}\", \"staging-prepare\"], timeout = \"100s\" }}\n",
        section(BLOG),
        section(STAGING),
    )
}

fn fleet() -> Fleet {
    let furnish = |_: &Fleet, node: &Node| {
        for unit in [STAGING, BLOG] {
            std::fs::create_dir(node.dir.join(place(unit))).unwrap();
        }
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings: neighbours, furnish, ..FleetSpec::default() });
    for unit in [UNIT, STAGING, BLOG] {
        // Also with what they follow: a record that is still to be told would be taken for a trace of another unit.
        wait_until(LIMIT, &format!("both nodes are in {unit}, and follow its barrier"), || {
            let (_, nodes) = fleet.consul.keys(&format!("cutover/{unit}/nodes/"), "recurse&consistent").ok()?;
            let follows =
                |entry: &&Entry| entry.session.is_some() && entry.json().is_some_and(|n| n["floor"].is_object());
            (nodes.iter().filter(follows).count() == 2).then_some(())
        });
    }
    fleet
}

/// Everything of a unit in Consul and on the disks, and where it stands in the log.
fn traces(fleet: &Fleet, unit: &str) -> impl PartialEq + std::fmt::Debug {
    let (_, keys) = fleet.consul.keys(&format!("cutover/{unit}/"), "recurse&consistent").unwrap();
    let keys: Vec<_> = keys.into_iter().map(|entry| (entry.key, entry.modify_index, entry.session)).collect();
    let files = |node: &Node| {
        let dir = if unit == UNIT { node.deploy_to.clone() } else { node.dir.join(place(unit)) };
        // With times: what was written anew is seen, and a directory's own time as well.
        let output = Command::new("find").arg(dir).args(["-printf", "%p %T@ %l\\n"]).output().unwrap();
        let mut lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    (keys, fleet.nodes.iter().map(files).collect::<Vec<_>>())
}

fn phase(fleet: &Fleet, unit: &str) -> String {
    let barrier = fleet.consul.key(&format!("cutover/{unit}/barrier")).unwrap().unwrap().json().unwrap();
    barrier["phase"].as_str().unwrap().to_owned()
}

fn done(fleet: &Fleet, unit: &str, artifact: &str) {
    let output = fleet.cutover(&["deploy", unit, artifact]);
    assert_eq!(output.code, 0, "{unit}: {output}");
}

#[test]
fn a_slow_hook_of_one_group_delays_no_other_group_and_stays_untouched_by_their_deploys() {
    let fleet = fleet();
    let one = fleet.publish("one");
    let commit = "b".repeat(40);
    let tree = fleet.dir.path().join("build/one");
    let arguments = ["publish", "--app", "blog", "--branch", "main", "--commit", &commit, tree.to_str().unwrap()];
    assert_eq!(fleet.cutover(&arguments).code, 0);
    fleet.nodes[0].hold("staging-prepare");
    let staging = fleet.begin(&["deploy", STAGING, &one.artifact]);
    fleet.nodes[0].wait_hook("staging-prepare");
    wait_until(LIMIT, "the other node is prepared", || {
        let ack = fleet.consul.key(&format!("cutover/{STAGING}/acks/web-2")).ok()??.json()?;
        (ack["answer"] == "prepared").then_some(())
    });
    let before = traces(&fleet, STAGING);
    done(&fleet, UNIT, &one.artifact);
    done(&fleet, BLOG, "main");
    fleet.assert_all_run("one");
    assert_eq!(fleet.nodes[1].read(&format!("../{}/current/version", place(BLOG))).as_deref(), Some("one"));
    assert_eq!(phase(&fleet, STAGING).as_str(), "prepare");
    assert_eq!(traces(&fleet, STAGING), before);
    // And the other way round.
    let before = [UNIT, BLOG].map(|unit| traces(&fleet, unit));
    fleet.nodes[0].release("staging-prepare");
    let output = staging.finish();
    assert_eq!(output.code, 0, "{output}");
    assert_eq!([UNIT, BLOG].map(|unit| traces(&fleet, unit)), before);
    // Each has its own freeze, history and way back.
    fleet.consul(&["kv", "put", &format!("cutover/{STAGING}/freeze"), "closed"]);
    fleet.publish("two");
    assert_eq!(fleet.cutover(&["deploy", STAGING, "master"]).code, 10);
    done(&fleet, UNIT, "master");
    fleet.assert_all_run("two");
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 0);
    assert_eq!(fleet.cutover(&["rollback", BLOG]).code, 3, "nothing ran there before");
    fleet.assert_all_run("one");
}

#[test]
fn a_stalled_download_of_one_group_delays_no_other_group_even_of_the_same_app() {
    let fleet = fleet();
    let (one, endless) = (fleet.publish("one"), fleet.publish("endless"));
    // A file that nobody writes to: whoever opens it waits, as for a store that does not answer.
    let archive = fleet.archive(&endless);
    std::fs::remove_file(&archive).unwrap();
    assert!(Command::new("mkfifo").arg(&archive).status().unwrap().success());
    let staging = fleet.begin(&["deploy", STAGING, &endless.artifact]);
    for node in &fleet.nodes {
        let cache = node.dir.join("cache/shop");
        wait_until(LIMIT, "it begins to fetch", || {
            let mut files = std::fs::read_dir(&cache).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
            let is_part = |file: &Path| {
                let name = file.file_stem()?.to_str()?;
                Some(name.starts_with(&endless.artifact) && file.extension()? == "part")
            };
            files.any(|file| is_part(&file) == Some(true)).then_some(())
        });
    }
    done(&fleet, UNIT, &one.artifact);
    fleet.assert_all_run("one");
    assert_eq!(phase(&fleet, STAGING), "prepare");
    let output = fleet.cutover(&["abort", STAGING]);
    assert_eq!(output.code, 0, "{output}");
    let output = staging.finish();
    assert_eq!(output.code, 4, "{output}");
}
