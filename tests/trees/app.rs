//! One app of the agent that all tests share: what is published under its name, deployed, and started.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::fleet::run::{Output, Running};
use crate::fleet::{Fleet, FleetSpec, LIMIT, commit_of, wait_until};
use crate::snapshot::{Snapshot, snapshot};
use crate::tool::{command, tool};

/// The apps; a test has one to itself while it runs. As many deploy at the same time, enough for the two cores of CI.
const APPS: [&str; 4] = ["first", "second", "third", "fourth"];
/// The app whose unit accepts links that leave the release. Only one test uses it.
const LINKS_ANY: &str = "links-any";

/// What `cutover publish` packs.
const FORMATS: [&str; 2] = ["tar.gz", "tar.zst"];

/// Apps that wait for a test.
struct Apps {
    free: Mutex<Vec<&'static str>>,
    given_back: Condvar,
}

static FREE: Apps = Apps { free: Mutex::new(Vec::new()), given_back: Condvar::new() };

/// An app, with a directory for its test.
pub(crate) struct App {
    fleet: Arc<Fleet>,
    name: &'static str,
    /// The test's name: no two tests publish the same commit.
    test: &'static str,
    unit: Unit,
    dir: PathBuf,
}

/// Which unit a test deploys to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// One that accepts every link.
    LinksAny,
    /// One with the settings that a unit has by default.
    Usual,
}

impl App {
    /// Waits until a unit is free and ready for a deploy.
    pub(crate) fn open(test: &'static str, unit: Unit) -> Self {
        let fleet = fleet();
        let name = match unit {
            Unit::LinksAny => LINKS_ANY,
            Unit::Usual => FREE.take(),
        };
        let dir = fleet.dir.path().join("trees").join(test);
        let app = Self { fleet, name, test, unit, dir };
        let key = |key: &str| app.fleet.consul.key(&format!("cutover/{name}/production/{key}")).ok()?;
        for name in ["nodes/web-1", "coordinator"] {
            wait_until(LIMIT, &format!("{name} is held by a session"), || key(name)?.session);
        }
        wait_until(LIMIT, "the unit's keys are there", || key("barrier"));
        std::fs::create_dir_all(&app.dir).unwrap();
        app
    }

    /// The test's own directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a tool, which must succeed, and gives what it printed.
    pub(crate) fn run(&self, tool: Command) -> String {
        let output = self.output(tool);
        assert_eq!(output.code, 0, "{output}");
        output.stdout
    }

    fn output(&self, command: Command) -> Output {
        Running::begin(command, self.fleet.dir.path()).finish()
    }

    /// Copies a directory with everything in it.
    pub(crate) fn copy(&self, from: &Path, to: &Path) {
        self.run(tool("cp", &self.dir, &["-a", text(from), text(to)]));
    }

    /// Runs `cutover publish` on a directory, or with `--file`.
    pub(crate) fn publish(&self, version: &str, arguments: &[&str]) -> Output {
        let commit = self.commit(version);
        let own = ["publish", "--app", self.name, "--branch", "master", "--commit", &commit];
        self.fleet.cutover(&[&own, arguments].concat())
    }

    /// Publishes a tree in every format with the links that the unit accepts, deletes it, and deploys each archive. The release must
    /// equal it.
    pub(crate) fn deploy_tree(&self, tree: &Path) {
        let expected = snapshot(tree);
        let own = match self.unit {
            Unit::LinksAny => &["--links", "any"][..],
            Unit::Usual => &[],
        };
        for format in FORMATS {
            let output = self.publish(format, &[own, &["--format", format, text(tree)]].concat());
            assert_eq!(output.code, 0, "{format}: {output}");
        }
        std::fs::remove_dir_all(tree).unwrap();
        for format in FORMATS {
            self.deploy(format, &expected);
        }
    }

    /// Publishes an archive and deploys it. The release must equal `expected`.
    pub(crate) fn deploy_archive(&self, archive: &Path, expected: &Snapshot) {
        let version = archive.file_name().unwrap().to_str().unwrap();
        let output = self.publish(version, &["--file", text(archive)]);
        assert_eq!(output.code, 0, "{version}: {output}");
        self.deploy(version, expected);
    }

    fn deploy(&self, version: &str, expected: &Snapshot) {
        let output = self.try_deploy(version);
        assert_eq!(output.code, 0, "{version}: {output}");
        expected.assert_equals(&snapshot(&self.current()), version);
    }

    /// Runs `cutover deploy` of what was published as `version`.
    pub(crate) fn try_deploy(&self, version: &str) -> Output {
        let artifact = format!("master-{}", &self.commit(version)[..8]);
        self.fleet.cutover(&["deploy", &format!("{}/production", self.name), &artifact])
    }

    fn commit(&self, version: &str) -> String {
        commit_of(&format!("{} {version}", self.test))
    }

    /// The release that runs.
    pub(crate) fn current(&self) -> PathBuf {
        deploy_to(&self.fleet.nodes[0].dir, self.name).join("current")
    }

    /// Starts a program in the release, and gives what it printed: a tool, or a file of the release if the name has a slash.
    pub(crate) fn start(&self, program: &str, args: &[&str]) -> String {
        let current = self.current();
        self.run(if program.contains('/') {
            command(&current.join(program), &current, args)
        } else {
            tool(program, &current, args)
        })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        FREE.give_back(self.name);
    }
}

impl Apps {
    /// Every lock of it: a test that failed has left the list whole.
    fn free(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> &'static str {
        let mut free =
            self.given_back.wait_while(self.free(), |free| free.is_empty()).unwrap_or_else(PoisonError::into_inner);
        free.pop().expect("a free app was waited for")
    }

    fn give_back(&self, name: &'static str) {
        if name != LINKS_ANY {
            self.free().push(name);
            self.given_back.notify_one();
        }
    }
}

/// A path as text; none of the tests' own directories is anything else.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn deploy_to(node: &Path, app: &str) -> PathBuf {
    node.join(format!("srv-{app}"))
}

/// The one agent, for all tests that run at the same time; the last one ends it.
fn fleet() -> Arc<Fleet> {
    static OPEN: Mutex<Weak<Fleet>> = Mutex::new(Weak::new());
    // Poisoned only by a test that could not start it, and the next one tries again.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(fleet) = open.upgrade() {
        return fleet;
    }
    let fleet = Arc::new(Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() }));
    *FREE.free() = APPS.to_vec();
    *open = Arc::downgrade(&fleet);
    fleet
}

/// A unit for each app, the last with every link, and without prefetching: a deploy fetches what it needs.
fn settings(_: usize, dir: &Path) -> String {
    let mut text = "prefetch = []\n".to_owned();
    for app in APPS.into_iter().chain([LINKS_ANY]) {
        let deploy_to = deploy_to(&dir.join("web-1"), app);
        std::fs::create_dir_all(&deploy_to).unwrap();
        writeln!(text, "[deploy.\"{app}/production\"]\ndeploy_to = \"{}\"\nprefetch = []", deploy_to.display())
            .unwrap();
    }
    text + "links = \"any\"\n"
}
