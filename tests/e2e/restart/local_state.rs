//! A node's own state is torn, flipped, or gone: it is noticed, made again, and takes nobody anywhere.

use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

const STATE: &str = ".cutover/state.json";

/// What becomes of a file.
type Damage = fn(&std::path::Path);

/// Ways in which a file is not what was stored.
fn damages() -> [(&'static str, Damage); 4] {
    [
        ("torn", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("flipped", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            // Within a number of the state: the JSON stays JSON.
            let at = bytes
                .windows(9)
                .position(|window| window == b"\"number\":")
                .map_or_else(|| bytes.windows(8).rposition(|window| window == b"\"epoch\":").unwrap() + 8, |at| at + 9);
            bytes[at] ^= 1;
            std::fs::write(path, &bytes).unwrap();
        }),
        ("empty", |path| std::fs::write(path, "").unwrap()),
        ("gone", |path| std::fs::remove_file(path).unwrap()),
    ]
}

#[test]
fn a_damaged_journal_is_noticed_and_rebuilt_and_the_node_keeps_its_release() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("zero");
    for (how, damage) in damages() {
        fleet.deployed(&format!("before {how}"));
        let before = fleet.links();
        let told = fleet.nodes[1].log().matches("is rebuilt from the releases on disk").count();
        fleet.kill(1);
        damage(&fleet.nodes[1].deploy_to.join(STATE));
        let damaged = fleet.nodes[1].read(STATE);
        fleet.start_agent(1);
        wait_until(LIMIT, &format!("{how}: it is told"), || {
            let now = fleet.nodes[1].log().matches("is rebuilt from the releases on disk").count();
            (now == told + 1).then_some(())
        });
        fleet.wait_says(1, "passing", "runs ");
        wait_until(LIMIT, "it has followed the record again", || {
            fleet.nodes[1].read(STATE).filter(|text| text.contains("\"phase\":\"done\""))
        });
        assert_eq!(fleet.links(), before, "{how}");
        if damaged.is_some() {
            assert_eq!(fleet.nodes[1].read(".cutover/state.json.damaged"), damaged, "{how}");
        }
        let record = fleet.put_deploy("master");
        assert_eq!(record["outcome"], "done", "{how}: what runs already: {record:#}");
        fleet.deployed(&format!("after {how}"));
        let record = fleet.history().pop().unwrap();
        assert_eq!(record["nodes"]["web-2"]["answer"], "switched", "{how}: {record:#}");
    }
}

/// After a rollback the directory that runs is older than what was deployed last: a node that goes by it alone would take
/// old keys, in which the newer one is committed, for news.
#[test]
fn a_lost_journal_and_a_restored_snapshot_switch_no_node() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.deployed("one");
    let one = fleet.assert_all_run("one");
    fleet.deployed("two");
    let file = fleet.dir.path().join("snapshot");
    fleet.consul(&["snapshot", "save", file.to_str().unwrap()]);
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 0);
    assert_eq!(fleet.assert_all_run("one"), one);
    fleet.kill(0);
    std::fs::remove_file(fleet.nodes[0].deploy_to.join(STATE)).unwrap();
    fleet.consul(&["snapshot", "restore", file.to_str().unwrap()]);
    fleet.start_agent(0);
    fleet.wait_says(0, "warning", "the keys were restored to an older state");
    assert_eq!(fleet.nodes[0].current().as_ref(), Some(&one));
    // Also at the next start, when the journal is whole and still holds no record.
    assert_eq!(fleet.term(0).code(), Some(0));
    let told = fleet.nodes[0].log().matches("the keys were restored to an older state").count();
    fleet.start_agent(0);
    wait_until(LIMIT, "it is told again", || {
        (fleet.nodes[0].log().matches("the keys were restored to an older state").count() > told).then_some(())
    });
    assert_eq!(fleet.nodes[0].current().as_ref(), Some(&one));
    // Recover believes what the node says in Consul, and that it says a moment after its log.
    fleet.wait_alarm(0, "the keys were restored");
    let output = fleet.recover(1);
    assert_eq!(output.json()["committed"]["release"], one.trim_start_matches("releases/"), "{output}");
    fleet.deploys_again("three");
}

/// A first deploy over another tool's link, in which a node that has switched loses these files, and its check fails
/// then: the fleet goes back. The fleet, that node, and the exit code of the deploy.
fn goes_back_without(files: &[&str]) -> (Fleet, usize, i32) {
    let furnish = |_: &Fleet, node: &crate::fleet::node::Node| {
        std::fs::create_dir_all(node.deploy_to.join("by-hand")).unwrap();
        std::os::unix::fs::symlink("by-hand", node.deploy_to.join("current")).unwrap();
    };
    let settings = |_: usize, _: &std::path::Path| "revert_timeout = \"5s\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, furnish, settings, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    let held = (fleet.coordinator() + 1) % 2;
    fleet.nodes[held].hold("check");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[held].wait_hook("check");
    fleet.kill(held);
    for file in files {
        std::fs::remove_file(fleet.nodes[held].deploy_to.join(file)).unwrap();
    }
    fleet.nodes[held].fail("check", "no");
    fleet.nodes[held].release("check");
    fleet.start_agent(held);
    let code = deploy.finish().code;
    fleet.nodes[held].mend("check");
    (fleet, held, code)
}

#[test]
fn a_node_without_its_journal_reverts_to_the_release_of_another_tool() {
    let (fleet, _, code) = goes_back_without(&[STATE]);
    assert_eq!(code, 9, "it switches again, its check says no, and all go back");
    assert_eq!(fleet.links(), [Some("by-hand".to_owned()), Some("by-hand".to_owned())]);
    fleet.deployed("two");
    fleet.assert_all_run("two");
}

#[test]
fn a_node_that_does_not_know_its_revert_target_stays_and_says_so() {
    let (fleet, held, code) = goes_back_without(&[STATE, ".cutover/origin.json"]);
    assert_eq!(code, 1, "the way back is not complete");
    assert_eq!(fleet.nodes[1 - held].current().as_deref(), Some("by-hand"));
    assert!(fleet.nodes[held].current().unwrap().starts_with("releases/"), "{:?}", fleet.nodes[held].current());
    fleet.wait_says(held, "critical", "this node no longer knows what current was before Cutover");
    fleet.deployed("two");
    fleet.assert_all_run("two");
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused_and_says_why() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let first = fleet.nodes[0].agent.lock().unwrap().as_ref().unwrap().pid();
    // The same settings, but for the address of its HTTP, which would be in the way before.
    let path = fleet.nodes[0].dir.join("cutover.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace(":8740\"", ":8741\"");
    let second = fleet.dir.path().join("second.toml");
    std::fs::write(&second, text).unwrap();
    let output = fleet.cutover(&["agent", "--config", second.to_str().unwrap()]);
    assert_eq!(output.code, 1, "{output}");
    let place = fleet.nodes[0].deploy_to.display();
    let words = format!("{place} is in use by another agent (process {first}): one agent per deploy directory");
    assert!(output.stderr.contains(&words), "{words:?}: {output}");
    // Another directory, and the name of a node that lives.
    let text = std::fs::read_to_string(fleet.nodes[1].dir.join("cutover.toml")).unwrap();
    let text = text.replace("node = \"web-2\"", "node = \"web-1\"").replace(":8740\"", ":8742\"");
    let text =
        text.replace(&*fleet.nodes[1].deploy_to.to_string_lossy(), &fleet.dir.path().join("third").to_string_lossy());
    std::fs::write(&second, text).unwrap();
    let output = fleet.cutover(&["agent", "--config", second.to_str().unwrap()]);
    assert!(output.code == 1 && output.stderr.contains("another agent is alive as node web-1"), "{output}");
    assert!(fleet.nodes[0].is_running());
    fleet.deployed("one");
    fleet.assert_all_run("one");
}
