//! A disk whose power is cut at a chosen moment.
//!
//! A moment is after an operation that changes the disk or syncs it. From then on no request is answered, so that the agent can
//! neither go on nor learn of an error, until it is killed.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackgroundSession, Config, MountOption};

use crate::disk::{Content, Disk, Loss};
use crate::server::Server;

/// The power of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    On,
    /// It fails after so many more operations.
    Failing(u64),
    /// Requests wait.
    Off,
    /// Requests fail: who sent them is dead.
    Dead,
}

/// A disk and its power.
pub(crate) struct State {
    pub(crate) disk: Disk,
    pub(crate) power: Power,
    /// The operations since the last [`PowerDisk::count`], in words.
    pub(crate) done: Vec<String>,
    /// Unanswered requests.
    pub(crate) held: Vec<Box<dyn Any + Send>>,
}

/// A disk, mounted or not.
pub(crate) struct PowerDisk {
    state: Arc<Mutex<State>>,
    mounted: Option<Mounted>,
}

struct Mounted {
    path: PathBuf,
    _session: BackgroundSession,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        cutover_rig::tmpfs::unmount(&self.path);
    }
}

impl PowerDisk {
    /// An empty disk.
    pub(crate) fn new() -> Self {
        let state = State { disk: Disk::new(), power: Power::On, done: Vec::new(), held: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)), mounted: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mounts it on a directory, with power.
    pub(crate) fn mount(&mut self, on: &Path) {
        assert!(
            rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "this test mounts a file system of its own, so it needs root and /dev/fuse (modprobe fuse)"
        );
        self.state().power = Power::On;
        let mut config = Config::default();
        let named = MountOption::FSName("cutover-power".to_owned());
        config.mount_options = vec![named, MountOption::DefaultPermissions, MountOption::NoAtime];
        let session = fuser::spawn_mount(Server(self.state.clone()), on, &config);
        let session = session.unwrap_or_else(|error| panic!("cannot mount {}: {error}", on.display()));
        self.mounted = Some(Mounted { path: on.to_owned(), _session: session });
    }

    /// Lets the power fail after so many more operations.
    pub(crate) fn fail_after(&self, operations: u64) {
        let mut state = self.state();
        state.done.clear();
        state.power = Power::Failing(operations);
    }

    /// Counts operations from here on.
    pub(crate) fn count(&self) {
        self.state().done.clear();
    }

    /// The operations since then.
    pub(crate) fn done(&self) -> Vec<String> {
        self.state().done.clone()
    }

    /// Whether the power has failed.
    pub(crate) fn is_off(&self) -> bool {
        self.state().power == Power::Off
    }

    /// The text of a link. Works without power, as reading by the mount does not.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        match &self.state().disk.at(Path::new(path))?.content {
            Content::Link(target) => Some(target.display().to_string()),
            Content::File(_) | Content::Directory(_) => None,
        }
    }

    /// How many entries a directory has. Works without power.
    pub(crate) fn count_in(&self, path: &str) -> usize {
        let state = self.state();
        state.disk.at(Path::new(path)).and_then(|dir| dir.entries().ok()).map_or(0, BTreeMap::len)
    }

    /// Answers every request with an error, those that wait included. Who sent them must be dead.
    pub(crate) fn let_go(&self) {
        let held = {
            let mut state = self.state();
            state.power = Power::Dead;
            std::mem::take(&mut state.held)
        };
        // A reply that is dropped is an error.
        drop(held);
    }

    /// Unmounts it, and makes it empty.
    pub(crate) fn wipe(&mut self) {
        self.let_go();
        self.mounted = None;
        self.state().disk = Disk::new();
    }

    /// Unmounts it, and loses what is not durable.
    pub(crate) fn lose(&mut self, loss: Loss) {
        self.let_go();
        self.mounted = None;
        self.state().disk.lose(loss);
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        self.let_go();
    }
}
