//! The judge on trial: a right fleet passes, and each wrong one is found out. The fleets are links and keys, put by
//! hand here; Consul is real.

use std::path::Path;

use cutover_rig::cluster::{Cluster, ClusterSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::consul::Consul;
use crate::fleet::judge::{Judge, Verdict, Watched};
use crate::fleet::{LIMIT, bin, wait_until};

const PREFIX: &str = "cutover/shop/production/";
const RELEASE: &str = "20261123091500";

/// Two nodes without agents.
struct Puppets {
    runtime: tokio::runtime::Runtime,
    cluster: Option<Cluster>,
    consul: Consul,
    dir: TempDir,
}

impl Puppets {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let spec = ClusterSpec { servers: 1, ..ClusterSpec::default() };
        let cluster = runtime.block_on(Cluster::start(bin(), &dir.path().join("consul"), spec)).unwrap();
        let address = cluster.node(0).unwrap().http_addr().trim_start_matches("http://").to_owned();
        let consul = Consul { address, token: None };
        let puppets = Self { runtime, cluster: Some(cluster), consul, dir };
        for node in ["a", "b"] {
            for release in ["20260101000000", RELEASE] {
                let path = puppets.dir.path().join(node).join("releases").join(release);
                std::fs::create_dir_all(&path).unwrap();
                std::fs::write(path.join("REVISION"), "0").unwrap();
            }
            puppets.link(node, "20260101000000");
        }
        puppets
    }

    fn judge(&self) -> Judge {
        let watched =
            ["a", "b"].map(|node| Watched { name: node.to_owned(), link: self.dir.path().join(node).join("current") });
        Judge::watch(&self.consul, PREFIX, &watched)
    }

    fn put(&self, key: &str, value: &Value) {
        let reply = self.consul.call("PUT", &format!("kv/{PREFIX}{key}"), value.to_string().as_bytes()).unwrap();
        assert_eq!(reply.status, 200);
    }

    fn link(&self, node: &str, release: &str) {
        let (link, new) = (self.dir.path().join(node).join("current"), self.dir.path().join(node).join("new"));
        std::os::unix::fs::symlink(Path::new("releases").join(release), &new).unwrap();
        rustix::fs::rename(&new, &link).unwrap();
    }

    fn barrier(&self, epoch: u64, phase: &str) {
        let release = json!({"era": 0, "epoch": epoch, "release": RELEASE});
        let committed = if ["prepare", "aborted"].contains(&phase) { Value::Null } else { release };
        self.put(&format!("members/{epoch}"), &json!(["a", "b"]));
        self.put(
            "barrier",
            &json!({"era": 0, "epoch": epoch, "phase": phase, "release": RELEASE, "committed": committed}),
        );
    }

    /// Answers, and gives the judge the time to have seen it.
    fn ack(&self, node: &str, epoch: u64, answer: &str) {
        let at = jiff::Timestamp::now();
        self.put(&format!("acks/{node}"), &json!({"era": 0, "epoch": epoch, "answer": answer, "at": at}));
        settle();
    }
}

impl Drop for Puppets {
    fn drop(&mut self) {
        let _in_runtime = self.runtime.enter();
        self.cluster = None;
    }
}

/// Beyond a kernel tick and the judge's own pace, so that the order of two steps is beyond doubt.
fn settle() {
    let since = std::time::Instant::now();
    wait_until(LIMIT, "time passes", || (since.elapsed().as_millis() > 60).then_some(()));
}

fn assert_found(verdict: &Verdict, what: &str) {
    assert!(verdict.violations.iter().any(|text| text.contains(what)), "{what:?} was not found: {verdict:#?}");
}

#[test]
fn a_right_fleet_passes() {
    let fleet = Puppets::start();
    let judge = fleet.judge();
    settle();
    fleet.barrier(10, "prepare");
    fleet.ack("a", 10, "prepared");
    fleet.ack("b", 10, "prepared");
    fleet.barrier(10, "commit");
    fleet.link("a", RELEASE);
    fleet.link("b", RELEASE);
    settle();
    fleet.ack("a", 10, "switched");
    fleet.ack("b", 10, "switched");
    fleet.barrier(10, "done");
    let verdict = judge.verdict();
    assert!(verdict.violations.is_empty(), "{verdict:#?}");
    assert_eq!(verdict.commits, 1);
    assert_eq!(verdict.acks_seen, 2);
    assert_eq!(verdict.acks_unseen, 0);
    assert_eq!(verdict.moves, 2);
}

#[test]
fn a_link_that_moves_before_an_answer_is_found() {
    let fleet = Puppets::start();
    let judge = fleet.judge();
    settle();
    fleet.barrier(10, "prepare");
    fleet.ack("a", 10, "prepared");
    fleet.link("a", RELEASE);
    settle();
    fleet.ack("b", 10, "prepared");
    fleet.barrier(10, "commit");
    fleet.link("b", RELEASE);
    settle();
    fleet.barrier(10, "done");
    let verdict = judge.verdict();
    assert_found(&verdict, "while epoch 10 is in prepare");
    assert_found(&verdict, "b has not answered epoch 10 yet");
    assert_found(&verdict, "us before b answered");
}

#[test]
fn a_decision_without_every_answer_is_found() {
    let fleet = Puppets::start();
    let judge = fleet.judge();
    settle();
    fleet.barrier(10, "prepare");
    fleet.ack("a", 10, "prepared");
    fleet.barrier(10, "commit");
    settle();
    fleet.ack("b", 10, "prepared");
    fleet.link("a", RELEASE);
    fleet.link("b", RELEASE);
    settle();
    assert_found(&judge.verdict(), "b had not answered prepared before");
}

#[test]
fn a_mixed_fleet_and_an_undecided_release_are_found() {
    let fleet = Puppets::start();
    let judge = fleet.judge();
    settle();
    fleet.barrier(10, "prepare");
    fleet.ack("a", 10, "prepared");
    fleet.ack("b", 10, "prepared");
    fleet.barrier(10, "commit");
    fleet.link("a", RELEASE);
    settle();
    fleet.barrier(10, "done");
    fleet.link("b", "20300101000000");
    settle();
    let verdict = judge.verdict();
    assert_found(&verdict, "at rest b is on");
    assert_found(&verdict, "which nobody has decided on");
    assert_found(&verdict, "no complete release");
}

#[test]
fn an_aborted_release_that_ran_and_a_request_without_end_are_found() {
    let fleet = Puppets::start();
    let judge = fleet.judge();
    settle();
    fleet.put("history/9", &json!({"era": 0, "epoch": 9}));
    fleet.barrier(10, "prepare");
    fleet.ack("a", 10, "prepared");
    fleet.link("a", RELEASE);
    settle();
    fleet.barrier(10, "aborted");
    fleet.put("history/10", &json!({"era": 0, "epoch": 10, "outcome": "aborted", "release": RELEASE}));
    settle();
    fleet.barrier(10, "commit");
    let verdict = judge.verdict();
    assert_found(&verdict, "a ran 20261123091500, and epoch 10 was aborted");
    assert_found(&verdict, "epoch 10 was both committed and aborted");
    assert_found(&verdict, "epoch 9 has no end");
}

#[test]
fn a_commit_written_by_the_test_is_no_decision() {
    let fleet = Puppets::start();
    let judge = fleet.judge();
    settle();
    fleet.barrier(10, "prepare");
    fleet.barrier(10, "commit");
    let forged = fleet.consul.key(&format!("{PREFIX}barrier")).unwrap().unwrap();
    settle();
    judge.disown(forged.modify_index);
    fleet.barrier(10, "aborted");
    fleet.link("a", RELEASE);
    settle();
    let verdict = judge.verdict();
    assert_found(&verdict, "which nobody has decided on");
    assert_eq!(verdict.commits, 0, "{verdict:#?}");
}
