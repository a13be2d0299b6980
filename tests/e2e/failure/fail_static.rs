//! Keys that are gone, forbidden or rubbish, and a Consul that is: nobody changes what runs, everybody says so, and the way
//! on works.

use cutover_rig::cluster::NodeConfig;
use serde_json::json;

use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

/// What was lost, as each node's check says it.
const GONE: &str = "barrier is gone";

impl Fleet {
    fn put(&self, key: &str, value: &str) {
        self.consul(&["kv", "put", &format!("{PREFIX}{key}"), value]);
    }

    fn delete_keys(&self) {
        self.consul(&["kv", "delete", "-recurse", PREFIX]);
    }

    /// Waits until every agent that runs says `words` in its check, in `cutover status`, and in its log.
    fn all_say(&self, words: &str) {
        for index in (0..self.nodes.len()).filter(|index| self.nodes[*index].is_running()) {
            self.wait_says(index, "warning", words);
            self.wait_says(index, "warning", "cutover recover shop/production");
            self.wait_alarm(index, words);
            assert!(self.nodes[index].log().contains(words), "{}", self.nodes[index].log_tail());
        }
    }

    fn wait_prepared(&self, index: usize) {
        wait_until(LIMIT, "it is prepared", || {
            let epoch = self.json("barrier").filter(|it| it["phase"] == "prepare")?["epoch"].clone();
            self.json(&format!("acks/{}", self.nodes[index].name))
                .filter(|ack| ack["answer"] == "prepared" && ack["epoch"] == epoch)
        });
    }
}

#[test]
fn deleting_the_keys_during_prepare_switches_no_node() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let before = fleet.links();
    // The coordinator prepares on and on, or another node does: each has promised nothing when the keys go.
    let held = fleet.coordinator();
    fleet.nodes[held].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[held].wait_hook("prepare");
    fleet.wait_prepared((held + 1) % 3);
    fleet.delete_keys();
    let output = deploy.finish();
    assert_eq!(output.code, 5, "{output}");
    assert!(output.stderr.contains("cutover recover shop/production"), "{output}");
    fleet.nodes[held].release("prepare");
    fleet.all_say(GONE);
    assert_eq!(fleet.links(), before);
    fleet.recover(1);
    fleet.deploys_again("three");
}

#[test]
fn deleting_the_keys_during_the_switch_leaves_each_node_where_it_is() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let one = fleet.assert_all_run("one");
    fleet.publish_and_stage("two");
    // One has promised, and is killed before the commit; another has switched and is not done with its hooks.
    let held = fleet.coordinator();
    let away = (held + 1) % 3;
    fleet.nodes[held].hold("prepare");
    fleet.nodes[held].hold("check");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[held].wait_hook("prepare");
    fleet.wait_prepared(away);
    fleet.kill(away);
    fleet.nodes[held].release("prepare");
    fleet.nodes[held].wait_hook("check");
    let third = (held + 2) % 3;
    wait_until(LIMIT, "the third has switched", || (fleet.nodes[third].current().as_ref() != Some(&one)).then_some(()));
    let mixed = fleet.links();
    assert_eq!(mixed[away].as_ref(), Some(&one));
    fleet.delete_keys();
    fleet.start_agent(away);
    let output = deploy.finish();
    assert_eq!(output.code, 5, "{output}");
    fleet.nodes[held].release("check");
    fleet.all_say(GONE);
    assert_eq!(fleet.links(), mixed, "half switched it stays, until somebody decides");

    // Mixed, it does not choose.
    let output = fleet.cutover(&["recover", UNIT, "--yes"]);
    assert_eq!(output.code, 4, "{output}");
    for index in [away, third] {
        let release = mixed[index].as_ref().unwrap().trim_start_matches("releases/");
        assert!(output.stdout.contains(&format!("--to {release}")), "{output}");
    }
    assert!(fleet.entry("barrier").is_none());
    let output = fleet.cutover(&["recover", UNIT, "--yes", "--to", "20200101000000"]);
    assert_eq!(output.code, 3, "{output}");
    let two = mixed[third].as_ref().unwrap().trim_start_matches("releases/").to_owned();
    let output = fleet.cutover(&["recover", UNIT, "--yes", "--to", &two]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.assert_all_run("two"), format!("releases/{two}"));
    fleet.deploys_again("three");
}

#[test]
fn no_node_follows_a_damaged_barrier_and_its_era_is_not_used_again() {
    let fleet = Fleet::start(&FleetSpec::default());
    fleet.deployed("one");
    let before = fleet.links();
    fleet.put("barrier", "{\"format\":1,\"era\":6,\"epoch\":3,\"phase\":\"comm");
    fleet.all_say("does not hold a readable record");
    assert_eq!(fleet.links(), before);
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert!(output.code == 1 && output.stderr.contains("cutover recover shop/production"), "{output}");
    fleet.recover(7);
    fleet.deploys_again("two");
}

#[test]
fn no_node_follows_a_barrier_that_was_overwritten_by_hand() {
    let fleet = Fleet::start(&FleetSpec::default());
    fleet.deployed("one");
    let before = fleet.links();
    // Readable, of the same epoch, and of another archive.
    let mut record = fleet.json("barrier").unwrap();
    record["sha256"] = "0".repeat(64).into();
    record["committed"]["sha256"] = "0".repeat(64).into();
    fleet.put("barrier", &record.to_string());
    fleet.all_say("contradicts the record that this node has followed");
    assert_eq!(fleet.links(), before);
    fleet.recover(1);
    fleet.deploys_again("two");
}

#[test]
fn lost_members_halt_a_deploy_and_recover_ends_it() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let before = fleet.links();
    let held = (fleet.coordinator() + 1) % 3;
    fleet.nodes[held].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[held].wait_hook("prepare");
    let output = fleet.cutover(&["recover", UNIT, "--yes"]);
    assert!(output.code == 0 && output.stdout.contains("nothing to recover"), "{output}");
    // Something is wrong with one node; while somebody drives the deploy, it is not cut for that.
    let (name, record) =
        (format!("nodes/{}", fleet.nodes[held].name), fleet.entry(&format!("nodes/{}", fleet.nodes[held].name)));
    let mut astray = record.clone().unwrap().json().unwrap();
    astray["floor"]["epoch"] = 99_999_999.into();
    fleet.put(&name, &astray.to_string());
    let output = fleet.cutover(&["recover", UNIT, "--yes"]);
    assert!(output.code == 6 && output.stdout.contains("is busy"), "{output}");
    fleet.put(&name, std::str::from_utf8(&record.unwrap().value).unwrap());
    let epoch = fleet.json("barrier").unwrap()["epoch"].as_u64().unwrap();
    fleet.put(&format!("members/{epoch}"), "rubbish");
    fleet.nodes[held].release("prepare");
    let status = wait_until(LIMIT, "status says it", || {
        let output = fleet.cutover(&["status", UNIT]);
        output.stdout.contains(&format!("members/{epoch} is gone or unreadable")).then_some(output)
    });
    assert!(status.stdout.contains("cutover recover shop/production"), "{status}");
    fleet.wait_says(fleet.coordinator(), "warning", "is gone or unreadable");
    assert_eq!(fleet.links(), before);
    fleet.recover(1);
    let output = deploy.finish();
    assert_eq!(output.code, 6, "{output}");
    assert!(output.stdout.contains("a recovery of the keys, deploy #1.0"), "{output}");
    fleet.deploys_again("three");
}

#[test]
fn damaged_values_in_other_keys_are_named_and_stop_only_what_needs_them() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let first = fleet.newest_epoch();
    fleet.deployed("two");
    let before = fleet.links();
    let keys = ["acks/web-1".to_owned(), "nodes/web-2".to_owned(), "status".to_owned(), format!("history/{first}")];
    for key in &keys {
        fleet.put(key, "\u{1}rubbish");
    }
    let output = fleet.cutover(&["status", UNIT]);
    for key in &keys[..3] {
        assert!(output.stdout.contains(&format!("{PREFIX}{key}")), "{key}: {output}");
    }
    let output = fleet.cutover(&["history", UNIT]);
    assert!(output.stdout.contains(&format!("{PREFIX}{}", keys[3])), "{output}");
    assert_eq!(fleet.put_deploy("\u{1}rubbish")["outcome"], "refused");
    // A node of which nothing is known stops a deploy, by its name.
    let output = fleet.cutover(&["deploy", UNIT, "master", "--again"]);
    assert!(output.code == 4 && output.stdout.contains("web-2"), "{output}");
    assert_eq!(fleet.links(), before);
    // With the next thing that it has to say, it says all of it again.
    fleet.publish_and_stage("three");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("three");
    assert!(fleet.json("acks/web-1").is_some() && fleet.json("status").is_some());
    fleet.deploys_again("four");
}

#[test]
fn a_revoked_token_changes_nothing_and_restoring_it_fixes_everything() {
    // What Consul's agents keep of an ACL is forgotten within a second here.
    let brief = NodeConfig::Json(json!({"acl": {"policy_ttl": "1s", "token_ttl": "1s"}}));
    let consul = vec![brief];
    let fleet = Fleet::start(&FleetSpec { acl: true, nodes: 2, late: &[0, 1], consul, ..FleetSpec::default() });
    let rules = "key_prefix \"\" { policy = \"write\" } session_prefix \"\" { policy = \"write\" } \
                 service_prefix \"\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" } \
                 agent_prefix \"\" { policy = \"read\" } event_prefix \"\" { policy = \"read\" }";
    let token = fleet.token("everything", rules);
    for (index, node) in fleet.nodes.iter().enumerate() {
        node.set_token(&token);
        fleet.start_agent(index);
    }
    fleet.wait_for_presence(&[0, 1]);
    fleet.deployed("one");
    let before = fleet.links();
    // The right to say so in Consul stays: what is revoked is the right to read and to take part.
    let revoked = "service_prefix \"\" { policy = \"write\" } agent_prefix \"\" { policy = \"read\" }";
    fleet.consul(&["acl", "policy", "update", "-no-merge", "-name", "everything", "-rules", revoked]);
    for index in 0..2 {
        fleet.wait_says(index, "warning", "Permission denied");
        let log = fleet.nodes[index].log();
        assert!(log.contains("cannot keep its session"), "{}", fleet.nodes[index].log_tail());
    }
    wait_until(LIMIT, "status shows them as away", || {
        (fleet.cutover(&["status", UNIT]).stdout.matches("absent").count() == 2).then_some(())
    });
    assert_eq!(fleet.links(), before);
    assert!(fleet.nodes.iter().all(crate::fleet::node::Node::is_running));
    fleet.consul(&["acl", "policy", "update", "-no-merge", "-name", "everything", "-rules", rules]);
    for index in 0..2 {
        fleet.wait_says(index, "passing", "runs ");
    }
    fleet.wait_for_presence(&[0, 1]);
    assert_eq!(fleet.links(), before);
    fleet.deploys_again("two");
}

#[test]
fn a_consul_outage_changes_nothing_and_every_node_reports_it() {
    let mut fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let before = fleet.links();
    // In the middle of a deploy: one node is not prepared yet.
    fleet.nodes[1].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--no-wait"]);
    fleet.nodes[1].wait_hook("prepare");
    assert_eq!(deploy.finish().code, 0);
    fleet.with_cluster(async |cluster| cluster.kill(0).unwrap());
    fleet.nodes[1].release("prepare");
    for index in 0..2 {
        fleet.wait_says(index, "warning", "Consul does not ");
        assert!(
            fleet.nodes[index].log().contains("the running release is left alone"),
            "{}",
            fleet.nodes[index].log_tail()
        );
    }
    let output = fleet.cutover(&["status", UNIT]);
    assert_eq!(output.code, 8, "{output}");
    assert_eq!(fleet.links(), before);
    fleet.with_cluster(async |cluster| cluster.restart(0).await.unwrap());
    fleet.wait_for_presence(&[0, 1]);
    for index in 0..2 {
        fleet.wait_says(index, "passing", "runs ");
    }
    // The deploy that was under way has come to an end, whichever.
    wait_until(LIMIT, "it ends", || fleet.history().pop().filter(|record| record["outcome"].is_string()));
    fleet.deploys_again("three");
}

#[test]
fn a_missing_coordinator_is_reported_within_ten_seconds() {
    let settings = |index: usize, _: &std::path::Path| {
        if index == 0 { String::new() } else { "coordinate = false\n".to_owned() }
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.wait_says(1, "passing", "runs ");
    assert_eq!(fleet.term(0).code(), Some(0));
    wait_until(LIMIT, "the lock is free", || fleet.entry("coordinator").filter(|entry| entry.session.is_none()));
    let free = std::time::Instant::now();
    let deploy = fleet.begin(&["deploy", UNIT, "master", "--again"]);
    let output = fleet.cutover(&["status", UNIT]);
    assert!(output.stdout.contains("no agent coordinates this group"), "{output}");
    assert!(fleet.cutover(&["status", UNIT, "--output", "json"]).json()["coordinator"].is_null());
    wait_until(LIMIT, "the one who waits is told", || deploy.said()[1].contains("no agent coordinates").then_some(()));
    fleet.wait_says(1, "warning", "no agent coordinates");
    // The promise is ten; on a machine that is busy with other things a look takes its time.
    eprintln!("said after {:?}", free.elapsed());
    fleet.start_agent(0);
    let output = deploy.finish();
    assert_eq!(output.code, 0, "{output}");
    fleet.wait_says(1, "passing", "runs ");
}

#[test]
fn an_older_agent_is_refused_by_name_and_a_newer_barrier_is_left_alone() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let before = fleet.links();
    // As an agent from before this format would write it; the agent sets it right within a minute.
    let mut record = fleet.json("nodes/web-2").unwrap();
    record["format"] = 0.into();
    record["version"] = "0.0.9".into();
    fleet.put("nodes/web-2", &record.to_string());
    let output = fleet.cutover(&["deploy", UNIT, "master", "--again"]);
    assert!(output.code == 4 && output.stdout.contains("web-2") && output.stdout.contains("0.0.9"), "{output}");
    // The other way round: the record is of a newer agent's format.
    let standing = fleet.entry("barrier").unwrap();
    let mut newer = standing.json().unwrap();
    newer["format"] = 2.into();
    newer["what"] = "is new".into();
    fleet.put("barrier", &newer.to_string());
    for index in 0..2 {
        fleet.wait_says(index, "warning", "upgrade this program");
        assert!(
            fleet.nodes[index].log().contains("this agent leaves shop/production as it runs"),
            "{}",
            fleet.nodes[index].log_tail()
        );
    }
    let output = fleet.cutover(&["recover", UNIT, "--yes"]);
    assert!(output.code == 1 && output.stderr.contains("upgrade this program"), "{output}");
    assert_eq!(fleet.json("barrier").unwrap()["format"], 2);
    assert_eq!(fleet.links(), before);
    fleet.put("barrier", std::str::from_utf8(&standing.value).unwrap());
    for index in 0..2 {
        fleet.wait_says(index, "passing", "runs ");
    }
}
