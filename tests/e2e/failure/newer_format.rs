//! Records and files that a newer program wrote: nobody writes over them, every agent and command names them, the node
//! keeps what it runs, and everything goes on when they are gone.

use crate::fleet::consul::Entry;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

/// A format that this program does not read, a phase that it does not know, and fields of another shape.
const NEWER: &str = r#"{"phase":"canary","format":2,"epoch":{"of":[1,2]},"era":"first","node":["n1"],"app":7,"answer":{"kind":"maybe"},"artifact":9,"ref":{"any":"master"},"builds":{"by":"branch"}}"#;
/// What every refusal says.
const SAYS: &str = "has format 2, newer than format 1";
/// The journal of a node.
const STATE: &str = ".cutover/state.json";

/// When the coordinator reads a record.
#[derive(Clone, Copy, PartialEq)]
enum Read {
    /// As soon as it is written: the key is watched.
    Always,
    /// When a request waits.
    WithRequest,
}

impl Fleet {
    /// Writes a key by hand, as its full name.
    fn put_key(&self, key: &str, value: &str) {
        self.consul(&["kv", "put", key, value]);
    }

    fn stands(&self, key: &str) -> Option<Entry> {
        self.consul.key(key).unwrap()
    }

    fn put_back(&self, key: &str, before: Option<&Entry>) {
        match before {
            Some(entry) => self.put_key(key, std::str::from_utf8(&entry.value).unwrap()),
            None => drop(self.consul(&["kv", "delete", key])),
        }
    }

    /// Runs a command that meets the newer record `key`: exit code 1, named by its format and the newer agents.
    fn refuses(&self, key: &str, arguments: &[&str]) {
        let output = self.cutover(arguments);
        assert!(output.code == 1 && output.stderr.contains(SAYS), "{key}: {arguments:?}: {output}");
        assert!(output.stderr.contains("web-9"), "{key}: {arguments:?}: {output}");
        assert!(!output.stderr.contains("cutover recover"), "{key}: {arguments:?}: {output}");
    }

    fn is_coordinated(&self) -> bool {
        self.entry("coordinator").is_some_and(|entry| entry.session.is_some())
    }
}

#[test]
fn a_newer_record_of_a_unit_stops_its_coordinator_and_every_command_and_stays_as_it_is() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let links = fleet.links();
    let epoch = fleet.json("barrier").unwrap()["epoch"].to_string();
    let (members, history) = (format!("members/{epoch}"), format!("history/{epoch}"));
    let cases: [(&str, Read, &[&str]); 8] = [
        ("barrier", Read::Always, &["status", UNIT]),
        ("status", Read::WithRequest, &["status", UNIT]),
        ("freeze", Read::WithRequest, &["freeze", UNIT, "--reason", "test"]),
        ("deploy", Read::Always, &["deploy", UNIT, "master"]),
        (&members, Read::WithRequest, &["status", UNIT]),
        (&history, Read::WithRequest, &["history", UNIT]),
        ("acks/web-2", Read::WithRequest, &["status", UNIT]),
        ("nodes/web-9", Read::WithRequest, &["status", UNIT]),
    ];
    for (name, read, command) in cases {
        let key = format!("{PREFIX}{name}");
        eprintln!("{key}");
        let before = fleet.stands(&key);
        fleet.put_key(&key, NEWER);
        let request = (read == Read::WithRequest).then(|| {
            fleet.put_key(&format!("{PREFIX}deploy"), "master");
            fleet.entry("deploy").unwrap().modify_index
        });
        wait_until(LIMIT, &format!("{name}: the coordinator gives up the lock"), || {
            (!fleet.is_coordinated()).then_some(())
        });
        for index in 0..2 {
            fleet.wait_says(index, "warning", SAYS);
            fleet.wait_says(index, "warning", &key);
            assert!(fleet.nodes[index].log().contains(&key), "{}", fleet.nodes[index].log_tail());
        }
        // Whoever asks for names reads `nodes/` by then.
        let at_newer_node = format!("{PREFIX}nodes/web-9");
        fleet.put_key(&at_newer_node, NEWER);
        fleet.refuses(name, command);
        fleet.refuses(name, &["recover", UNIT, "--yes"]);
        assert_eq!(fleet.stands(&key).unwrap().value, NEWER.as_bytes(), "{name} was overwritten");
        assert!(!fleet.is_coordinated(), "{name}: somebody coordinates");
        assert_eq!(fleet.links(), links);
        if let Some(index) = request {
            assert_eq!(fleet.entry("deploy").unwrap().modify_index, index, "{name}: the request was taken");
        }
        fleet.consul(&["kv", "delete", &at_newer_node]);
        if name != "nodes/web-9" {
            fleet.put_back(&key, before.as_ref());
        }
        for index in 0..2 {
            fleet.wait_says(index, "passing", "runs ");
        }
        wait_until(LIMIT, &format!("{name}: somebody coordinates again"), || fleet.is_coordinated().then_some(()));
        wait_until(LIMIT, &format!("{name}: no request waits"), || {
            fleet.entry("deploy").filter(|entry| entry.value.is_empty())
        });
    }
    fleet.deployed("two");
}

#[test]
fn a_newer_build_or_list_of_builds_is_named_and_never_overwritten() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let one = fleet.deployed("one");
    let links = fleet.links();
    fleet.put_key(&format!("{PREFIX}nodes/web-9"), NEWER);
    let at_latest = "cutover/shop/latest";
    let before = fleet.stands(at_latest);
    fleet.put_key(at_latest, NEWER);
    for index in 0..2 {
        fleet.wait_says(index, "warning", at_latest);
        fleet.wait_says(index, "warning", "web-9");
    }
    let (tree, commit) = (fleet.dir.path().join("build/one"), "7".repeat(40));
    let publish = ["publish", "--app", "shop", "--branch", "master", "--commit", &commit, tree.to_str().unwrap()];
    fleet.refuses(at_latest, &publish);
    assert_eq!(fleet.stands(at_latest).unwrap().value, NEWER.as_bytes());
    fleet.put_back(at_latest, before.as_ref());
    fleet.consul(&["kv", "delete", &format!("{PREFIX}nodes/web-9")]);
    for index in 0..2 {
        fleet.wait_says(index, "passing", "runs ");
    }
    // A coordinator that cannot read every build cannot tell which is the newest.
    let at_build = format!("cutover/shop/builds/{}", one.artifact);
    let before = fleet.stands(&at_build);
    fleet.put_key(&at_build, NEWER);
    let record = fleet.put_deploy("master");
    assert_eq!(record["outcome"], "refused", "{record:#}");
    assert!(record["fault"]["reason"].as_str().unwrap().contains(SAYS), "{record:#}");
    let output = fleet.cutover(&["builds", "shop"]);
    assert!(output.code == 1 && output.stderr.contains(SAYS) && output.stderr.contains(&at_build), "{output}");
    assert_eq!(fleet.stands(&at_build).unwrap().value, NEWER.as_bytes());
    assert_eq!(fleet.links(), links);
    fleet.put_back(&at_build, before.as_ref());
    fleet.deployed("two");
}

#[test]
fn a_newer_file_on_disk_is_left_alone_and_its_node_follows_again_when_it_is_gone() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let links = fleet.links();
    let release = format!(".cutover/releases/{}.json", links[1].as_deref().unwrap().trim_start_matches("releases/"));
    // Of a release's record the agent asks only where its journal does not tell what runs.
    for (name, removed) in [(STATE, None), (".cutover/origin.json", None), (release.as_str(), Some(STATE))] {
        let path = fleet.nodes[1].deploy_to.join(name);
        eprintln!("{}", path.display());
        fleet.kill(1);
        let before = std::fs::read(&path).ok();
        std::fs::write(&path, NEWER).unwrap();
        if let Some(removed) = removed {
            std::fs::remove_file(fleet.nodes[1].deploy_to.join(removed)).unwrap();
        }
        fleet.start_agent(1);
        fleet.wait_says(1, "warning", SAYS);
        fleet.wait_says(1, "warning", path.to_str().unwrap());
        assert!(fleet.nodes[1].is_running());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), NEWER, "{name} was overwritten");
        assert_eq!(fleet.links(), links);
        match before {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        fleet.wait_says(1, "passing", "runs ");
        assert_eq!(fleet.links(), links);
    }
    fleet.deployed("two");
    let record = fleet.history().pop().unwrap();
    assert_eq!(record["nodes"]["web-2"]["answer"], "switched", "{record:#}");
}
