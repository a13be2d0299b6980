//! A node whose deploy directory and cache lie on a disk that forgets, and whose power is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::disk::Loss;
use crate::fleet::node::Node;
use crate::fleet::{Build, Fleet, FleetSpec, LIMIT, PREFIX, wait_until};
use crate::power::PowerDisk;

/// Nothing more is done after a deploy when nothing was done for so long.
const QUIET: Duration = Duration::from_millis(500);

/// Where the disk is mounted, below the node's directory.
const DISK: &str = "disk";

/// What the prepare hook writes over a file of the build.
pub(crate) const HOOKED: &str = "written by the hook";
/// What each build has in the linked directory.
pub(crate) const UPLOAD: &str = "of the first build";

/// One node of a fleet of one, and its disk.
pub(crate) struct Machine {
    /// Dropped first: whatever waits for it ends then.
    pub(crate) disk: PowerDisk,
    pub(crate) fleet: Fleet,
    /// The version of each published build.
    pub(crate) versions: BTreeMap<String, String>,
    /// For the names of builds.
    count: u64,
}

/// How a deploy ended: by itself, or with the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Rest,
    Cut,
}

/// The hooks change the release, and one of them fails where a file of this test says so.
fn settings(_: usize, dir: &Path) -> String {
    let fail = dir.join("fail");
    format!(
        "prefetch = []\nkeep_releases = 1\nlinked_dirs = [\"uploads\"]\n\
         hooks.prepare.command = [\"sh\", \"-c\", \"printf '{HOOKED}' >lib/data && echo $CUTOVER_ARTIFACT >prepared\"]\n\
         hooks.check.command = [\"sh\", \"-c\", \"! test -e {}\"]",
        fail.display()
    )
}

impl Machine {
    /// Starts the agent on an empty disk.
    pub(crate) fn start() -> Self {
        let spec = FleetSpec { nodes: 1, late: &[0], settings, ..FleetSpec::default() };
        let mut fleet = Fleet::start(&spec);
        let node = &mut fleet.nodes[0];
        // The agent makes its directories itself, on the disk.
        let (file, place) = (node.dir.join("cutover.toml"), node.dir.join(DISK));
        std::fs::create_dir(&place).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let text = ["srv", "cache"].iter().fold(text, |text, name| {
            let (from, to) = (node.dir.join(name), place.join(name));
            text.replace(&format!("{:?}", from.to_str().unwrap()), &format!("{:?}", to.to_str().unwrap()))
        });
        std::fs::write(file, text).unwrap();
        node.deploy_to = place.join("srv");
        let mut machine = Self { fleet, disk: PowerDisk::new(), versions: BTreeMap::new(), count: 0 };
        machine.mount();
        machine.start_agent();
        machine
    }

    pub(crate) fn node(&self) -> &Node {
        &self.fleet.nodes[0]
    }

    fn mount(&mut self) {
        let on = self.node().dir.join(DISK);
        self.disk.mount(&on);
    }

    pub(crate) fn start_agent(&self) {
        self.fleet.start_agent(0);
        self.fleet.wait_for_presence(&[0]);
    }

    /// Publishes another build.
    pub(crate) fn publish(&mut self) -> Build {
        self.count += 1;
        let version = format!("{}-{}", self.fleet.consul.address, self.count);
        let build = self.fleet.publish_with(&version, |tree| {
            std::fs::create_dir_all(tree.join("lib/deep")).unwrap();
            std::fs::create_dir_all(tree.join("uploads")).unwrap();
            std::fs::write(tree.join("lib/data"), vec![b'x'; 6000]).unwrap();
            std::fs::write(tree.join("lib/deep/file"), &version).unwrap();
            std::fs::write(tree.join("uploads/default"), UPLOAD).unwrap();
            symlink("../version", tree.join("lib/link")).unwrap();
        });
        self.versions.insert(build.artifact.clone(), version);
        build
    }

    /// Whether the next switches fail.
    pub(crate) fn fail_switches(&self, fails: bool) {
        let file = self.fleet.dir.path().join("fail");
        if fails {
            std::fs::write(file, "").unwrap();
        } else {
            _ = std::fs::remove_file(file);
        }
    }

    /// Takes everything from the node and from Consul, and lets the agent begin anew; the power may fail after so many
    /// operations.
    pub(crate) fn begin_anew(&mut self, cut: Option<u64>) -> End {
        self.fleet.kill(0);
        self.disk.wipe();
        self.end_sessions();
        self.fleet.consul.call("DELETE", &format!("kv/{PREFIX}?recurse"), b"").unwrap();
        self.mount();
        cut.map_or_else(|| self.disk.count(), |at| self.disk.fail_after(at));
        self.fleet.start_agent(0);
        wait_until(LIMIT, "the agent is there, or the power fails", || {
            if self.disk.is_off() { Some(End::Cut) } else { self.missing().is_none().then_some(End::Rest) }
        })
    }

    /// Asks for a deploy, and waits until it is over or the power fails.
    pub(crate) fn deploy(&self, build: &Build) -> End {
        let before = self.fleet.newest_epoch();
        self.fleet.consul.call("PUT", &format!("kv/{PREFIX}deploy"), build.artifact.as_bytes()).unwrap();
        wait_until(LIMIT, "the deploy ends, or the power", || {
            if self.disk.is_off() {
                return Some(());
            }
            (self.fleet.newest_epoch() > before && self.missing().is_none() && self.is_clean()).then_some(())
        });
        let (mut done, mut since) = (0, Instant::now());
        // What comes after the end: releases that are removed.
        wait_until(LIMIT, "nothing is done any more, or the power fails", || {
            let now = self.disk.done().len();
            if now != done {
                (done, since) = (now, Instant::now());
            }
            let rests = since.elapsed() >= QUIET;
            if self.disk.is_off() { Some(End::Cut) } else { rests.then_some(End::Rest) }
        })
    }

    /// Kills the agent after the power has failed. What it was doing on the disk never returns.
    pub(crate) fn cut(&self) {
        self.node().signal(Signal::KILL);
        self.disk.let_go();
        self.fleet.kill(0);
    }

    /// The power comes again. The machine needs longer for that than its sessions in Consul last.
    pub(crate) fn lose(&mut self, loss: Loss) {
        self.disk.lose(loss);
        self.mount();
        self.end_sessions();
    }

    fn end_sessions(&self) {
        let keys = [format!("nodes/{}", self.node().name), "coordinator".to_owned()];
        let sessions: BTreeSet<String> = keys.iter().filter_map(|key| self.fleet.entry(key)?.session).collect();
        for session in sessions {
            self.fleet.end_session(&session);
        }
    }

    /// Whether old releases are removed.
    fn is_clean(&self) -> bool {
        self.disk.count_in("srv/releases") <= 2 && self.disk.count_in("srv/.cutover/tmp") == 0
    }

    /// Waits until nothing runs, and the node is well.
    pub(crate) fn wait_rest(&self) {
        let since = Instant::now();
        // The look itself gives up, because it knows what is missing.
        wait_until(LIMIT * 2, "rest", || {
            assert!(self.node().is_running(), "the agent has ended");
            let missing = self.missing();
            assert!(since.elapsed() < LIMIT, "not at rest: {missing:?}");
            missing.is_none().then_some(())
        });
    }

    /// What is missing until all is at rest.
    fn missing(&self) -> Option<String> {
        let Some(deploy) = self.fleet.entry("deploy") else { return Some("deploy cannot be read".to_owned()) };
        if !deploy.value.is_empty() {
            return Some("a request waits".to_owned());
        }
        let Some(barrier) = self.fleet.json("barrier") else { return Some("there is no barrier".to_owned()) };
        let phase = barrier["phase"].as_str().unwrap_or_default();
        if !["idle", "done", "aborted", "reverted"].contains(&phase) {
            return Some(format!("the barrier is in {phase}"));
        }
        let committed = barrier["committed"]["release"].as_str().map(|name| format!("releases/{name}"));
        // The power may fail meanwhile.
        let current = self.disk.link("srv/current");
        if current != committed {
            return Some(format!("current is {current:?}, and {committed:?} is committed"));
        }
        let key = format!("nodes/{}", self.node().name);
        let Some(entry) = self.fleet.entry(&key) else { return Some("the node has no record".to_owned()) };
        if entry.session.is_none() {
            return Some("the node has no session".to_owned());
        }
        let record = entry.json().unwrap_or(Value::Null);
        (!record["alarm"].is_null()).then(|| format!("alarm: {}", record["alarm"]))
    }
}
