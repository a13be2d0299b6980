//! The keys are lost or restored: nobody changes what runs, everybody says so, and `cutover recover` is the way on.

use std::io::Write as _;

use cutover_rig::cluster::NodeConfig;
use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::run::Output;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

impl Fleet {
    /// What a node's own check says, by its Consul agent.
    pub(crate) fn check(&self, index: usize) -> Option<(String, String)> {
        let reply = self.local_consul(index).call("GET", "agent/checks", b"").ok()?;
        let checks: Value = serde_json::from_slice(&reply.body).ok()?;
        let own = &checks["service:cutover-shop-production"];
        Some((own["Status"].as_str()?.to_owned(), own["Output"].as_str()?.to_owned()))
    }

    /// Waits until a node's check has `status` and says `words`.
    pub(crate) fn wait_says(&self, index: usize, status: &str, words: &str) {
        let mut last = None;
        wait_until(LIMIT, &format!("{} says {words:?} as {status}", self.nodes[index].name), || {
            let now = self.check(index);
            if now != last {
                eprintln!("{}: {now:?}", self.nodes[index].name);
                last.clone_from(&now);
            }
            now.filter(|(found, output)| found == status && output.contains(words)).map(|_| ())
        });
    }

    /// Waits until every live node's alarm, in `cutover status`, and its log hold `words`.
    pub(crate) fn wait_alarm(&self, index: usize, words: &str) {
        let name = &self.nodes[index].name;
        wait_until(LIMIT, &format!("status says {words:?} of {name}"), || {
            let output = self.cutover(&["status", UNIT, "--output", "json"]);
            let status: Value = serde_json::from_str(&output.stdout).ok()?;
            let row = status["nodes"].as_array()?.iter().find(|row| row["node"] == name.as_str())?.clone();
            row["alarm"].as_str()?.contains(words).then_some(())
        });
    }

    /// Every node's link: what must not change.
    pub(crate) fn links(&self) -> Vec<Option<String>> {
        self.nodes.iter().map(crate::fleet::node::Node::current).collect()
    }

    /// Recovers, and checks that every node follows era `era` and that nothing has moved.
    pub(crate) fn recover(&self, era: u64) -> Output {
        let before = self.links();
        let output = self.cutover(&["recover", UNIT, "--yes", "--reason", "test", "--output", "json"]);
        assert_eq!(output.code, 0, "{output}");
        let document = output.json();
        assert_eq!(document["fate"], "done", "{document:#}");
        assert_eq!(document["epoch"]["era"], era, "{document:#}");
        assert_eq!(self.links(), before);
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_running() {
                self.wait_says(index, "passing", "runs ");
            }
        }
        output
    }

    /// A deploy of something new, which must work as ever.
    pub(crate) fn deploys_again(&self, version: &str) {
        self.deployed(version);
        self.assert_all_run(version);
        let output = self.cutover(&["recover", UNIT, "--output", "json"]);
        assert_eq!(output.code, 0, "{output}");
        assert_eq!(output.json()["fate"], "nothing", "{output}");
    }
}

#[test]
fn deleted_keys_change_nothing_and_recover_begins_again() {
    let fleet = Fleet::start(&FleetSpec { late: &[2], ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    let release = fleet.nodes[0].current();
    fleet.start_agent(2);
    wait_until(LIMIT, "the third catches up", || (fleet.nodes[2].current() == release).then_some(()));
    fleet.assert_all_run("one");
    let output = fleet.cutover(&["recover", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.starts_with("nothing to recover on shop/production: the keys are intact"), "{output}");
    let before = fleet.json("barrier").unwrap();

    fleet.consul(&["kv", "delete", "-recurse", PREFIX]);
    for index in 0..3 {
        fleet.wait_says(index, "warning", "barrier is gone");
        fleet.wait_says(index, "warning", "cutover recover shop/production");
        fleet.wait_alarm(index, "barrier is gone");
        assert!(fleet.nodes[index].log().contains("barrier is gone"), "{}", fleet.nodes[index].log_tail());
    }
    let output = fleet.cutover(&["status", UNIT]);
    assert!(output.stdout.contains("cutover recover shop/production"), "{output}");
    assert!(output.stdout.contains("current      not known"), "{output}");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("cutover recover shop/production"), "{output}");

    // Without a terminal and without --yes: the plan, and nothing else.
    let output = fleet.cutover(&["recover", UNIT]);
    assert_eq!(output.code, 4, "{output}");
    assert!(output.stdout.contains("--yes") && output.stdout.contains("web-3"), "{output}");
    assert!(fleet.entry("barrier").is_none());
    let output = fleet.recover(1);
    assert_eq!(output.json()["committed"], before["committed"], "{output}");
    let recorded = fleet.history().pop().unwrap();
    assert_eq!(recorded["era"], 1);
    assert_eq!(recorded["by"], "ann");
    assert_eq!(recorded["why"], "test");
    let listed = fleet.cutover(&["history", UNIT, "--output", "json"]).json();
    let newest = &listed["entries"][0];
    assert_eq!(newest["kind"], "recover", "{listed:#}");
    assert_eq!(newest["by"], "ann", "{listed:#}");
    let text = fleet.cutover(&["history", UNIT]);
    assert!(text.stdout.lines().any(|line| line.contains("recover") && line.contains("ann")), "{text}");
    fleet.deploys_again("two");
    // What ran before the recovery can be gone back to.
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
}

#[test]
fn a_restored_snapshot_switches_no_node_back() {
    let fleet = Fleet::start(&FleetSpec { nodes: 4, late: &[3], ..FleetSpec::default() });
    let builds = [fleet.publish("one"), fleet.publish_and_stage("two")];
    let deploy = |index: usize| {
        let output = fleet.cutover(&["deploy", UNIT, &builds[index].artifact]);
        assert_eq!(output.code, 0, "{output}");
    };
    deploy(0);
    let file = fleet.dir.path().join("snapshot");
    fleet.consul(&["snapshot", "save", file.to_str().unwrap()]);
    deploy(1);
    let before = fleet.links();
    // One is away meanwhile.
    let away = (fleet.coordinator() + 1) % 3;
    fleet.kill(away);
    fleet.consul(&["snapshot", "restore", file.to_str().unwrap()]);
    assert_eq!(fleet.json("barrier").unwrap()["committed"]["artifact"], builds[0].artifact);
    for index in (0..3).filter(|index| *index != away) {
        fleet.wait_says(index, "warning", "the keys were restored to an older state");
        fleet.wait_says(index, "warning", "cutover recover shop/production");
        fleet.wait_alarm(index, "the keys were restored");
        assert!(fleet.nodes[index].log().contains("the keys were restored"), "{}", fleet.nodes[index].log_tail());
    }
    // It comes back to the old keys, and with its journal lost as well; another is new. Neither takes up what is old.
    std::fs::remove_file(fleet.nodes[away].deploy_to.join(".cutover/state.json")).unwrap();
    fleet.start_agent(away);
    fleet.start_agent(3);
    for index in [away, 3] {
        fleet.wait_says(index, "warning", "the keys were restored to an older state");
        fleet.wait_alarm(index, "the keys were restored");
    }
    assert_eq!(fleet.links(), before);
    // Nobody takes a request, and whoever asks is told why.
    let deploy = fleet.begin(&["deploy", UNIT, &builds[0].artifact, "--timeout", "100s"]);
    wait_until(LIMIT, "it is told", || deploy.said()[1].contains("cutover recover shop/production").then_some(()));
    assert_eq!(fleet.links(), before);

    let output = fleet.cutover(&["recover", UNIT, "--yes", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let document = output.json();
    assert_eq!(document["committed"]["artifact"], builds[1].artifact, "what the nodes run: {document:#}");
    assert_eq!(deploy.finish().code, 6, "what was asked for before is asked for no more");
    assert_eq!(fleet.links()[..3], before[..3]);
    assert_eq!(fleet.nodes[3].current(), before[0], "the new one has come to it");
    fleet.assert_all_run("two");
    fleet.deploys_again("three");
}

#[test]
fn a_rebuilt_cluster_switches_no_node_back() {
    let mut fleet = Fleet::start(&FleetSpec { late: &[2], ..FleetSpec::default() });
    // Far enough that the new cluster's indexes stay below for the rest of the test.
    for round in 0..1000 {
        fleet.consul.call("PUT", "kv/round", round.to_string().as_bytes()).unwrap();
    }
    for version in ["one", "two"] {
        fleet.deployed(version);
    }
    let before = fleet.links();
    let old_epoch = fleet.newest_epoch();
    let data = fleet.dir.path().join("consul/n1/data");
    fleet.kill(1);
    fleet.with_cluster(async |cluster| {
        // As an operator joins the old agents to a server that knows none of them; by themselves they look for it only
        // now and then.
        let others: Vec<String> =
            (1..cluster.len()).map(|index| cluster.node(index).unwrap().address().to_string()).collect();
        let join = serde_json::json!({"retry_join": others});
        cluster.add_config(0, "join", &NodeConfig::Json(join)).unwrap();
        cluster.kill(0).unwrap();
        std::fs::remove_dir_all(&data).unwrap();
        cluster.restart(0).await.unwrap();
    });
    assert!(fleet.consul.keys("cutover/", "recurse").is_ok());
    fleet.wait_says(0, "warning", "barrier is gone");
    fleet.start_agent(1);
    fleet.wait_says(1, "warning", "barrier is gone");
    // A new node makes no keys, and starts nothing.
    fleet.start_agent(2);
    fleet.wait_for_presence(&[0, 1, 2]);
    wait_until(LIMIT, "whoever coordinates halts", || {
        fleet.nodes.iter().any(|node| node.log().contains("this coordinator has stopped")).then_some(())
    });
    assert!(fleet.entry("barrier").is_none());
    assert_eq!(fleet.links(), before);
    // The records of builds are gone too: what a node lacks it can only fetch once it is published again.
    fleet.publish("two");
    let output = fleet.cutover(&["recover", UNIT, "--yes", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
    assert_eq!(fleet.links()[..2], before[..2]);
    let names: Vec<_> = output.json()["nodes"].as_array().unwrap().iter().map(|row| row["node"].clone()).collect();
    assert_eq!(names, ["web-1", "web-2", "web-3"], "{output}");
    let build = fleet.deployed("three");
    fleet.assert_all_run("three");
    let newest = fleet.history().pop().unwrap();
    assert_eq!(newest["artifact"], build.artifact);
    assert_eq!(newest["era"], 1);
    assert!(newest["epoch"].as_u64().unwrap() < old_epoch, "the indexes began again: {newest}");
}

#[test]
fn a_recovery_that_was_overtaken_during_its_prompt_writes_nothing() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.consul(&["kv", "delete", "-recurse", PREFIX]);
    for index in 0..2 {
        fleet.wait_alarm(index, "barrier is gone");
    }
    let (asking, mut keyboard) = fleet.begin_on_terminal(&["recover", UNIT]);
    wait_until(LIMIT, "it asks", || asking.said()[0].contains("[y/N]").then_some(()));
    fleet.recover(1);
    fleet.deployed("two");
    let standing = fleet.entry("barrier").unwrap();
    keyboard.write_all(b"y\n").unwrap();
    let output = asking.finish();
    assert_eq!(output.code, 6, "{output}");
    let now = fleet.entry("barrier").unwrap();
    assert_eq!(now.modify_index, standing.modify_index);
    assert_eq!(now.value, standing.value);
    fleet.assert_all_run("two");
}

#[test]
fn recover_waits_by_name_for_a_live_agent_that_has_not_reported() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    for index in 0..2 {
        fleet.wait_says(index, "passing", "runs ");
    }
    let quiet = (fleet.coordinator() + 1) % 2;
    let signal = |signal| fleet.nodes[quiet].agent.lock().unwrap().as_mut().unwrap().signal(signal).unwrap();
    signal(Signal::STOP);
    fleet.consul(&["kv", "delete", "-recurse", PREFIX]);
    fleet.wait_alarm(1 - quiet, "barrier is gone");
    let output = fleet.cutover(&["recover", UNIT, "--yes", "--timeout", "3s"]);
    assert_eq!(output.code, 4, "{output}");
    let consul_node = format!("n{}", quiet + 2);
    assert!(output.stderr.contains(&format!("waiting for {consul_node} to report what it runs")), "{output}");
    assert!(output.stdout.contains(&format!("the agents on {consul_node} are alive")), "{output}");
    assert!(fleet.entry("barrier").is_none());
    signal(Signal::CONT);
    fleet.recover(1);
    fleet.deploys_again("two");
}

#[test]
fn on_a_terminal_recover_asks_before_it_writes() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.consul(&["kv", "delete", "-recurse", PREFIX]);
    fleet.wait_alarm(0, "barrier is gone");
    for (answer, code) in [("n\n", 4), ("\n", 4), ("y\n", 0)] {
        let (asking, mut keyboard) = fleet.begin_on_terminal(&["recover", UNIT]);
        keyboard.write_all(answer.as_bytes()).unwrap();
        let output = asking.finish();
        assert_eq!(output.code, code, "{answer:?}: {output}");
        assert!(output.stdout.contains("Rebuild the state of shop/production like this? [y/N]"), "{output}");
        assert_eq!(fleet.entry("barrier").is_some(), code == 0, "{answer:?}");
    }
    fleet.deploys_again("two");
}
