//! The cache of downloaded archives, and the room for builds on this node's disks.
//!
//! ```text
//!  admit ──► old archives are removed ──► Room ──► fetch, unpack ──► the Room is dropped
//!    └─────► NoRoom: nothing was removed, nothing is downloaded
//!
//!  tend (after each fetch, and every minute) ──► partial archives that nobody continues, and archives beyond the limits, go
//! ```
//!
//! Promises:
//!
//! 1. All archives together are within `budget_bytes`, those that are being downloaded with their full size.
//! 2. A fetch and its unpack leave the reserve (`min_free`) on each filesystem that they write to. If other programs take
//!    the space meanwhile, more old archives go; if none is left, the download stops, and its partial archive is removed.
//! 3. What cannot fit is refused before the first byte is downloaded: the archive and its unpacked tree together, where
//!    both are on one filesystem.
//! 4. A partial archive stays only while a fetch writes it, or a unit of this agent has claimed it ([`Cache::claim`]).
//!
//! Archives are removed in the order of their last use. One that a fetch reads or writes is never removed. A file that cannot
//! be removed is named in the log, and counts as one that is in use.
//!
//! Another process may use the same directory: its running fetches are respected, but not its claims.
//!
//! The caller's duties:
//!
//! 1. Call everything except [`Room::received`] and [`Room::written`] on a thread that may block.
//! 2. Keep the [`Room`] until fetch and unpack have ended, and count the unpacked bytes in [`Room::written`].
//! 3. Call [`Cache::tend`] after each fetch, and from time to time.
//! 4. Name every unit at the start, and claim for each what it will continue: until then no partial archive is removed.

mod files;
mod parts;
mod room;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Access, StatVfs, access, statvfs};

pub use self::files::CacheError;
pub(super) use self::files::{Cached, complete, open, part_path, remove};
pub(super) use self::parts::Parts;
use self::room::Held;
pub(super) use self::room::Space;
pub use self::room::{NoRoom, Room, RoomError, TreePlace};
use crate::plan::room::{Disk, Disks, Stock, removals};
use crate::protocol::ids::{App, ArtifactName, Unit};
use crate::protocol::record::Build;

/// The part of a filesystem that stays free by default: a twentieth.
const RESERVED_PART: u64 = 20;

/// The most that stays free by default, 1 GiB: enough for an application's logs until somebody reads the alarm.
const MOST_RESERVED_BYTES: u64 = 1 << 30;

/// The limits of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// The most that all archives together may have.
    pub budget_bytes: u64,
    /// What stays free on each filesystem that is written to. None: a twentieth of it, at most 1 GiB.
    pub min_free_bytes: Option<u64>,
}

impl CacheLimits {
    fn reserve(&self, disk: &StatVfs) -> u64 {
        let by_size = disk.f_blocks.saturating_mul(disk.f_frsize) / RESERVED_PART;
        self.min_free_bytes.unwrap_or(by_size.min(MOST_RESERVED_BYTES))
    }
}

/// A partial archive that will be continued.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// This archive. The path is that of the complete one.
    Archive(PathBuf),
    /// Every archive of this artifact, because its record could not be read.
    Artifact(ArtifactName),
}

/// The cache of one node. All fetches of the node share it.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    limits: CacheLimits,
    /// Serializes decisions about room.
    deciding: Mutex<()>,
    /// What running fetches hold.
    held: Mutex<Vec<Arc<Held>>>,
    /// By unit; none until the unit has claimed for the first time.
    claims: Mutex<BTreeMap<Unit, Option<BTreeSet<Claim>>>>,
}

/// What the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used_bytes: u64,
    pub(crate) budget_bytes: u64,
    /// Its filesystem.
    pub(crate) disk: Disk,
}

/// A filesystem, found by a path on it.
struct Found {
    device: u64,
    disk: Disk,
}

impl Cache {
    /// A cache in `dir`, which is created on first use, for fetches of these units.
    #[must_use]
    pub fn new(dir: PathBuf, limits: CacheLimits, units: impl IntoIterator<Item = Unit>) -> Self {
        let claims = Mutex::new(units.into_iter().map(|unit| (unit, None)).collect());
        Self { dir, limits, deciding: Mutex::default(), held: Mutex::default(), claims }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a complete archive.
    pub(crate) fn whole_path(&self, app: &App, build: &Build) -> PathBuf {
        files::whole_path(&self.dir, app, build)
    }

    /// What the cache holds, and what it may hold. Creates the directory.
    ///
    /// # Errors
    ///
    /// [`CacheError`]: the cache cannot be read or written.
    pub(crate) fn usage(&self) -> Result<Usage, CacheError> {
        self.create()?;
        access(&self.dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|e| CacheError::new("write into", &self.dir)(e.into()))?;
        let Found { disk, .. } = self.disk(&self.dir, &Held::nothing())?;
        let used_bytes = files::archives(&self.dir)?.iter().map(|archive| archive.size_bytes).sum();
        Ok(Usage { used_bytes, budget_bytes: self.limits.budget_bytes, disk })
    }

    /// Sets which partial archives a unit will continue. They replace the former ones.
    pub(crate) fn claim(&self, unit: &Unit, claims: BTreeSet<Claim>) {
        locked(&self.claims).insert(unit.clone(), Some(claims));
    }

    /// Removes partial archives that nobody continues, and then old archives until the limits hold.
    ///
    /// # Errors
    ///
    /// [`CacheError`]: the cache cannot be read, or a partial archive cannot be removed.
    pub fn tend(&self) -> Result<(), CacheError> {
        let _one = locked(&self.deciding);
        if !self.dir.is_dir() {
            return Ok(());
        }
        self.remove_unclaimed()?;
        match self.make_room(&Held::nothing()) {
            Ok(()) => Ok(()),
            Err(RoomError::Cache(error)) => Err(error),
            // Other programs fill the disk. No archive is worth more than the space that is missing.
            Err(RoomError::NoRoom(_)) => {
                while self.remove_oldest()? {}
                Ok(())
            }
        }
    }

    fn remove_unclaimed(&self) -> Result<(), CacheError> {
        let claims: Option<Vec<_>> =
            locked(&self.claims).iter().map(|(unit, it)| Some((unit.app.clone(), it.clone()?))).collect();
        // A unit that has not read its keys yet may continue anything.
        let Some(claims) = claims else { return Ok(()) };
        let is_claimed = |whole: &Path| {
            claims.iter().any(|(app, claims)| {
                let own = self.dir.join(app.as_str());
                let name = whole.strip_prefix(&own).ok().and_then(Path::to_str);
                claims.iter().any(|claim| match claim {
                    Claim::Archive(path) => path == whole,
                    Claim::Artifact(artifact) => name.is_some_and(|name| name.starts_with(&format!("{artifact}-"))),
                })
            })
        };
        for archive in files::archives(&self.dir)? {
            let whole = archive.whole();
            if archive.is_partial() && !self.is_held(&whole) && !is_claimed(&whole) {
                files::remove_idle(&archive.path)?;
            }
        }
        Ok(())
    }

    fn is_held(&self, whole: &Path) -> bool {
        locked(&self.held).iter().any(|held| held.whole == whole)
    }

    /// Removes archives until what `held` still needs fits. The caller decides about room alone.
    fn make_room(&self, held: &Held) -> Result<(), RoomError> {
        let mut unmovable = BTreeSet::new();
        loop {
            let removable = self.plan(held, &unmovable)?;
            let before = unmovable.len();
            for archive in removable {
                if let Err(error) = remove(&archive.path) {
                    let (path, reason) = (archive.path.display(), &error.source);
                    tracing::warn!(%path, %reason, "{path} cannot be removed from the cache, and stays: {reason}");
                    unmovable.insert(archive.path);
                }
            }
            if unmovable.len() == before {
                return Ok(());
            }
        }
    }

    /// The archives that must go, so that what `held` still needs fits.
    fn plan(&self, held: &Held, unmovable: &BTreeSet<PathBuf>) -> Result<Vec<files::Archive>, RoomError> {
        let (busy_bytes, mut removable) = self.stock(held, unmovable)?;
        let sizes: Vec<u64> = removable.iter().map(|archive| archive.size_bytes).collect();
        let stock = Stock { budget_bytes: self.limits.budget_bytes, busy_bytes, removable: &sizes };
        let disks = self.disks(held)?;
        let count = removals(held.wanted(), stock, disks).map_err(|shortage| self.no_room(held, shortage))?;
        removable.truncate(count);
        Ok(removable)
    }

    /// The other archives: the full size of those that must stay, and the rest in the order of their last use.
    fn stock(&self, held: &Held, unmovable: &BTreeSet<PathBuf>) -> Result<(u64, Vec<files::Archive>), CacheError> {
        let mut busy: BTreeMap<PathBuf, u64> = locked(&self.held)
            .iter()
            .filter(|other| other.whole != held.whole)
            .map(|other| (other.whole.clone(), other.packed_bytes))
            .collect();
        let mut removable = Vec::new();
        for archive in files::archives(&self.dir)? {
            let whole = archive.whole();
            if whole == held.whole || self.is_held(&whole) {
                continue;
            }
            if unmovable.contains(&archive.path) || (archive.is_partial() && files::is_locked(&archive.path)) {
                *busy.entry(archive.path).or_default() += archive.length_bytes;
            } else {
                removable.push(archive);
            }
        }
        Ok((busy.values().sum(), removable))
    }

    /// The filesystems of the cache and of the tree.
    fn disks(&self, held: &Held) -> Result<Disks, CacheError> {
        let cache = self.disk(&self.dir, held)?;
        let Some(tree) = &held.tree else { return Ok(Disks::One(cache.disk)) };
        let mut at_tree = self.disk(&tree.root, held)?;
        at_tree.disk.reserve_bytes = at_tree.disk.reserve_bytes.max(tree.reserve_bytes);
        if at_tree.device == cache.device {
            return Ok(Disks::One(at_tree.disk));
        }
        Ok(Disks::Two { cache: cache.disk, tree: at_tree.disk })
    }

    /// A filesystem, without what fetches other than `held` will still write to it.
    fn disk(&self, path: &Path, held: &Held) -> Result<Found, CacheError> {
        let failed = |e: io::Error| CacheError::new("read the free space of", path)(e);
        let stat = statvfs(path).map_err(|e| failed(e.into()))?;
        let device = files::device(path).map_err(failed)?;
        let cache_device = files::device(&self.dir).map_err(CacheError::new("look at", &self.dir))?;
        // Two fetches of one archive share its file: the one that is ahead tells what is missing.
        let mut archives: BTreeMap<PathBuf, u64> = BTreeMap::new();
        let mut promised = 0_u64;
        for other in locked(&self.held).iter().filter(|other| !std::ptr::eq(other.as_ref(), held)) {
            let wanted = other.wanted();
            if device == cache_device && other.whole != held.whole {
                let missing = archives.entry(other.whole.clone()).or_insert(u64::MAX);
                *missing = (*missing).min(wanted.missing_bytes);
            }
            if other.tree.as_ref().is_some_and(|tree| tree.device == device) {
                promised = promised.saturating_add(wanted.tree_bytes);
            }
        }
        promised = archives.values().fold(promised, |sum, missing| sum.saturating_add(*missing));
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(promised);
        Ok(Found { device, disk: Disk { free_bytes, reserve_bytes: self.limits.reserve(&stat) } })
    }

    /// Whether writing `bytes` more into the cache would leave less than the reserve. Unknown counts as no: the write itself
    /// fails then.
    fn is_tight(&self, bytes: u64) -> bool {
        statvfs(&self.dir).is_ok_and(|stat| {
            stat.f_bavail.saturating_mul(stat.f_frsize) < bytes.saturating_add(self.limits.reserve(&stat))
        })
    }

    /// Removes the least recently used archive that is not in use; false if there is none.
    fn remove_oldest(&self) -> Result<bool, CacheError> {
        for archive in self.stock(&Held::nothing(), &BTreeSet::new())?.1 {
            match remove(&archive.path) {
                Ok(()) => return Ok(true),
                Err(error) => {
                    let (path, reason) = (archive.path.display(), &error.source);
                    tracing::warn!(%path, %reason, "{path} cannot be removed from the cache, and stays: {reason}");
                }
            }
        }
        Ok(false)
    }

    fn create(&self) -> Result<(), CacheError> {
        files::make_dir(&self.dir)
    }
}

/// A poisoned lock is harmless: what it guards is consistent at each step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
