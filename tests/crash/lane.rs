//! One node with a real agent and its own Consul, on which one deploy after the other is disturbed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::calls::Scope;
use crate::fleet::{Build, Fleet, FleetSpec, PREFIX, UNIT, wait_until};
use crate::tracer::{Aim, Deed, Trace, Tracer};

/// Far beyond what anything here takes on a busy machine; only what never converges reaches it.
const LIMIT: Duration = Duration::from_mins(1);
/// A deploy is over when it has an outcome, and the agent has left the disk alone for so long.
const QUIET: Duration = Duration::from_millis(400);
/// Complete releases that stay: the current one, and the one before.
const KEPT: usize = 2;
/// What a deploy directory has at its top.
const TOP: [&str; 4] = [".cutover", "current", "releases", "shared"];
/// What Cutover adds to a release.
const ADDED: [&str; 3] = [".env", "REVISION", "log"];

/// What is deployed, and what is to come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// Every hook succeeds.
    Good,
    /// The check hook fails, so that the fleet reverts.
    CheckFails,
}

/// What came of one run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) trace: Trace,
    /// How the deploy ended, as its history says.
    pub(crate) record: Value,
    /// How the agent ended, where it has.
    pub(crate) exit: Option<ExitStatus>,
    /// What the agent logged until the deploy was over.
    pub(crate) log: String,
}

impl Run {
    pub(crate) fn outcome(&self) -> &str {
        self.record["outcome"].as_str().unwrap()
    }
}

pub(crate) struct Lane {
    fleet: Fleet,
    builds: [(Build, &'static str); 2],
    /// Which of the builds runs.
    runs: usize,
    /// How much of the agent's log was looked at.
    read: usize,
}

fn settings(_: usize, _: &Path) -> String {
    "prefetch = []\nkeep_releases = 1\nprepare_timeout = \"40s\"\nswitch_timeout = \"40s\"\nrevert_timeout = \"40s\"\n\
     absence_grace = \"20s\"\nlinked_files = [\".env\"]\nlinked_dirs = [\"log\"]\n"
        .to_owned()
}

impl Lane {
    /// Starts it; one of two builds runs.
    pub(crate) fn start() -> Self {
        let fleet = Fleet::start(&FleetSpec {
            nodes: 1,
            hooks: true,
            settings,
            furnish: |_, node| {
                fs::create_dir_all(node.deploy_to.join("shared")).unwrap();
                fs::write(node.deploy_to.join("shared/.env"), "KEY=1\n").unwrap();
            },
            ..FleetSpec::default()
        });
        let builds = ["one", "two"].map(|version| (fleet.publish_with(version, furnish_tree), version));
        let mut lane = Self { fleet, builds, runs: 1, read: 0 };
        // Until retention has something to remove in each deploy.
        for _ in 0..3 {
            lane.deploy();
        }
        lane
    }

    /// Deploys the other build, undisturbed, and checks that all is well.
    pub(crate) fn deploy(&mut self) {
        let record = self.fleet.outcome_of(|| self.ask());
        assert_eq!(record["outcome"], "done", "{record}");
        self.settle(&record);
    }

    /// One run of a scenario, whose deploy is disturbed where `aim` says. At its end all is well again, and the next deploy works.
    pub(crate) fn run(&mut self, scenario: Scenario, aim: Option<&Aim>) -> Run {
        self.forget_archives();
        if scenario == Scenario::CheckFails {
            self.fleet.nodes[0].fail("check", "not well");
        }
        let before = self.fleet.newest_epoch();
        let tracer = Tracer::attach(self.scope(), aim.cloned());
        self.ask();
        let outcome = || self.outcome_after(before);
        let is_kill = aim.is_some_and(|aim| aim.deed == Deed::Kill);
        wait_until(LIMIT, "the deploy ends, or the agent", || {
            let trace = tracer.trace();
            let is_quiet = || trace.within.is_empty() && trace.last.elapsed() >= QUIET && outcome().is_some();
            (trace.is_over || !(is_kill && trace.is_hit) && is_quiet()).then_some(())
        });
        let trace = tracer.finish();
        let mut exit = None;
        if trace.is_over {
            exit = Some(self.exit_status());
            self.fleet.start_agent(0);
        }
        let record = wait_until(LIMIT, "the deploy ends after the restart", outcome);
        if scenario == Scenario::CheckFails {
            self.fleet.nodes[0].mend("check");
        }
        let log = self.log();
        match aim.map(|aim| aim.deed) {
            // What a call that failed leaves behind may stay until the next deploy.
            Some(Deed::Fail(_)) => {
                self.converge(&record, Self::missing);
                self.deploy();
            }
            Some(Deed::Kill) | None => {
                self.settle(&record);
                if scenario == Scenario::CheckFails {
                    self.deploy();
                }
            }
        }
        Run { trace, record, exit, log }
    }

    fn scope(&self) -> Scope {
        let pid = self.fleet.nodes[0].agent.lock().unwrap().as_ref().unwrap().pid();
        Scope { pid: pid.try_into().unwrap(), root: self.fleet.dir.path().canonicalize().unwrap() }
    }

    /// Writes the request for the build that does not run.
    fn ask(&self) {
        let artifact = &self.builds[1 - self.runs].0.artifact;
        let reply = self.fleet.consul.call("PUT", &format!("kv/{PREFIX}deploy"), artifact.as_bytes()).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    fn outcome_after(&self, before: u64) -> Option<Value> {
        let newest = self.fleet.history().pop()?;
        (newest["epoch"].as_u64()? > before && newest["outcome"].is_string()).then_some(newest)
    }

    /// Every deploy is to fetch its archive.
    fn forget_archives(&self) {
        let mut open = vec![self.fleet.nodes[0].dir.join("cache")];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path) } else { fs::remove_file(path).unwrap() }
            }
        }
    }

    /// Waits until all is at rest, and fails unless everything is as `record` says, with nothing left behind.
    fn settle(&mut self, record: &Value) {
        self.converge(record, |lane| lane.missing().and_then(|()| lane.leftovers()));
    }

    fn converge(&mut self, record: &Value, missing: impl Fn(&Self) -> Result<(), String>) {
        let outcome = record["outcome"].as_str().unwrap();
        if outcome == "done" {
            self.runs = 1 - self.runs;
        }
        let since = Instant::now();
        wait_until(LIMIT * 2, "rest", || match missing(self) {
            Ok(()) => Some(()),
            Err(why) => {
                assert!(since.elapsed() < LIMIT, "after {outcome} ({}): {why}", record["fault"]);
                None
            }
        });
        let log = self.fleet.nodes[0].log();
        let new = &log[self.read..];
        assert!(!new.contains("panicked") && !new.contains("is damaged"), "{new}");
        self.read = log.len();
    }

    /// What is missing until all is at rest and well, in words.
    fn missing(&self) -> Result<(), String> {
        let node = &self.fleet.nodes[0];
        let (build, version) = &self.builds[self.runs];
        if !node.is_running() {
            return Err("the agent has ended".to_owned());
        }
        let deploy = self.fleet.entry("deploy").ok_or("deploy cannot be read")?;
        if !deploy.value.is_empty() {
            return Err("a request waits".to_owned());
        }
        let barrier = self.fleet.json("barrier").ok_or("the barrier cannot be read")?;
        let phase = barrier["phase"].as_str().unwrap_or_default();
        if !["done", "aborted", "reverted"].contains(&phase) {
            return Err(format!("the barrier is in {phase}"));
        }
        if barrier["committed"]["artifact"] != build.artifact.as_str() {
            return Err(format!("{} is to be committed: {barrier}", build.artifact));
        }
        let release = barrier["committed"]["release"].as_str().unwrap_or_default();
        if node.current().as_deref() != Some(&format!("releases/{release}")) {
            return Err(format!("current is {:?}, and {release} is committed", node.current()));
        }
        same_tree(&self.fleet.dir.path().join("build").join(version), &node.deploy_to.join("current"))?;
        let entry = self.fleet.entry("nodes/web-1").ok_or("the node has no record")?;
        let record = entry.json().ok_or("the node's record cannot be read")?;
        if entry.session.is_none() || !record["alarm"].is_null() || record["runs"]["release"] != release {
            return Err(format!("the node's record is {record}, session {:?}", entry.session));
        }
        Ok(())
    }

    /// What lies on the disk and should not.
    fn leftovers(&self) -> Result<(), String> {
        let node = &self.fleet.nodes[0];
        let list = |path: &str| node.list(path);
        let top = list("");
        if top != TOP {
            return Err(format!("deploy_to has {top:?}"));
        }
        let scratch = list(".cutover/tmp");
        if !scratch.is_empty() {
            return Err(format!(".cutover/tmp has {scratch:?}"));
        }
        let staged = list(".cutover/staged");
        let (notes, trees): (Vec<&String>, Vec<&String>) = staged.iter().partition(|name| name.starts_with('.'));
        if notes.iter().map(|name| name[1..].trim_end_matches(".json")).collect::<Vec<_>>() != trees {
            return Err(format!(".cutover/staged has {staged:?}"));
        }
        let (releases, records) = (list("releases"), list(".cutover/releases"));
        if records.iter().map(|name| name.trim_end_matches(".json")).collect::<Vec<_>>() != releases {
            return Err(format!("releases are {releases:?}, and their records {records:?}"));
        }
        let failed = list(".cutover/failed");
        if releases.len() > KEPT || failed.len() > 1 {
            return Err(format!("releases are {releases:?}, and failed ones {failed:?}"));
        }
        Ok(())
    }

    /// Asks doctor and status, as a person would.
    pub(crate) fn assert_well(&self) {
        for command in [&["doctor", UNIT][..], &["status", UNIT]] {
            let output = self.fleet.cutover(command);
            assert_eq!(output.code, 0, "{command:?}: {output}");
        }
    }

    fn exit_status(&self) -> ExitStatus {
        let mut agent = self.fleet.nodes[0].agent.lock().unwrap();
        wait_until(LIMIT, "the agent ends", || agent.as_mut().unwrap().ended().unwrap())
    }

    /// What the agent has logged since the last look.
    pub(crate) fn log(&self) -> String {
        self.fleet.nodes[0].log()[self.read..].to_owned()
    }
}

/// A directory in another, a program, a link, an empty directory.
fn furnish_tree(tree: &Path) {
    fs::create_dir_all(tree.join("public/assets")).unwrap();
    fs::create_dir_all(tree.join("empty")).unwrap();
    fs::write(tree.join("public/assets/app.css"), "body{}\n").unwrap();
    fs::set_permissions(tree.join("bin/app"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("../version", tree.join("public/version")).unwrap();
}

/// Fails unless `release` has all of `built`, and nothing else but what Cutover adds.
fn same_tree(built: &Path, release: &Path) -> Result<(), String> {
    let (wanted, there) = (entries(built), entries(release));
    let is_added = |entry: &&Entry| ADDED.iter().any(|added| Path::new(added) == entry.path);
    let there: Vec<&Entry> = there.iter().filter(|entry| !is_added(entry)).collect();
    if there == wanted.iter().collect::<Vec<_>>() {
        return Ok(());
    }
    Err(format!("{} has {there:?}, and was built of {wanted:?}", release.display()))
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: PathBuf,
    mode: u32,
    content: Option<Vec<u8>>,
}

/// Files, directories and links below a directory.
fn entries(root: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let Ok(meta) = path.symlink_metadata() else { continue };
            let content = if meta.is_symlink() {
                fs::read_link(&path).ok().map(|text| text.to_string_lossy().into_owned().into_bytes())
            } else {
                fs::read(&path).ok()
            };
            // Directories and files have the modes that Cutover gives them.
            let mode = if meta.is_file() { meta.permissions().mode() & 0o111 } else { 0 };
            found.push(Entry { path: path.strip_prefix(root).unwrap().to_owned(), mode, content });
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}
