//! Room for one build: asked for before the download, and held until the build is unpacked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::BinaryBytes;

use super::{Cache, CacheError, files, locked};
use crate::kind::HasKind;
use crate::plan::room::{Place, Shortage, Wanted};
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{Build, Fetching};

/// Where a build is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreePlace {
    /// The existing directory below which the tree is written.
    pub root: PathBuf,
    /// What unpacking writes, in bytes of disk space.
    pub bytes: u64,
    /// What must stay free there, if that is more than the cache's own reserve.
    pub reserve_bytes: u64,
}

/// What a fetch holds: its archive, and the space that it will still write.
#[derive(Debug)]
pub(super) struct Held {
    artifact: Option<ArtifactName>,
    /// The path of the complete archive.
    pub(super) whole: PathBuf,
    pub(super) packed_bytes: u64,
    /// What was in the cache at the start.
    had_bytes: u64,
    pub(super) tree: Option<HeldTree>,
    received: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(super) struct HeldTree {
    pub(super) root: PathBuf,
    pub(super) device: u64,
    bytes: u64,
    pub(super) reserve_bytes: u64,
}

impl Held {
    /// Needs nothing.
    pub(super) fn nothing() -> Self {
        let counter = || Arc::new(AtomicU64::new(0));
        let (received, written) = (counter(), counter());
        Self { artifact: None, whole: PathBuf::new(), packed_bytes: 0, had_bytes: 0, tree: None, received, written }
    }

    fn new(cache: &Cache, app: &App, build: &Build, tree: Option<&TreePlace>) -> Result<Self, CacheError> {
        let whole = cache.whole_path(app, build);
        let had_bytes = files::present_bytes(&whole, build.packed_bytes);
        let tree = tree.map(|place| {
            let device = files::device(&place.root).map_err(CacheError::new("look at", &place.root))?;
            Ok(HeldTree { root: place.root.clone(), device, bytes: place.bytes, reserve_bytes: place.reserve_bytes })
        });
        let (artifact, packed_bytes) = (Some(build.artifact.clone()), build.packed_bytes);
        Ok(Self { artifact, whole, packed_bytes, had_bytes, tree: tree.transpose()?, ..Self::nothing() })
    }

    fn present_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed).max(self.had_bytes)
    }

    /// What it still needs.
    pub(super) fn wanted(&self) -> Wanted {
        let present = self.present_bytes();
        let tree = self.tree.as_ref().map_or(0, |tree| tree.bytes);
        Wanted {
            archive_bytes: self.packed_bytes,
            missing_bytes: self.packed_bytes.saturating_sub(present),
            tree_bytes: tree.saturating_sub(self.written.load(Ordering::Relaxed)),
        }
    }
}

/// Room for one build. Dropping it gives the room back; the archive stays in the cache.
#[derive(Debug)]
pub struct Room {
    space: Space,
}

/// What a running download knows of its room. It does not keep the room: that is given back while a stopped download still ends.
#[derive(Clone, Debug)]
pub(in crate::artifact) struct Space {
    cache: Arc<Cache>,
    held: Arc<Held>,
}

impl Cache {
    /// Makes room for a build: removes old archives until the build fits. Without `tree` only the archive is counted.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: the build cannot fit, and nothing was removed. [`CacheError`]: the disk cannot be read.
    pub fn admit(self: &Arc<Self>, app: &App, build: &Build, tree: Option<&TreePlace>) -> Result<Room, RoomError> {
        let _one = locked(&self.deciding);
        self.create()?;
        let held = Arc::new(Held::new(self, app, build, tree)?);
        self.make_room(&held)?;
        locked(&self.held).push(Arc::clone(&held));
        Ok(Room { space: Space { cache: Arc::clone(self), held } })
    }

    /// Whether [`Cache::admit`] would succeed now. Removes nothing, but creates the cache's directory.
    ///
    /// # Errors
    ///
    /// As [`Cache::admit`].
    pub(crate) fn review(&self, app: &App, build: &Build, tree: &TreePlace) -> Result<(), RoomError> {
        let _one = locked(&self.deciding);
        self.create()?;
        let held = Held::new(self, app, build, Some(tree))?;
        self.plan(&held, &std::collections::BTreeSet::new()).map(drop)
    }

    /// How much of these builds of an app the running fetches have, until the builds are unpacked.
    pub(crate) fn fetching(&self, app: &App, artifacts: &[ArtifactName]) -> Vec<Fetching> {
        let dir = self.dir.join(app.as_str());
        let of_app = |held: &Arc<Held>| {
            let artifact = held.artifact.clone().filter(|it| artifacts.contains(it) && held.whole.starts_with(&dir))?;
            let packed_bytes = held.packed_bytes;
            Some(Fetching { artifact, received_bytes: held.present_bytes().min(packed_bytes), packed_bytes })
        };
        locked(&self.held).iter().filter_map(of_app).collect()
    }

    pub(super) fn no_room(&self, held: &Held, shortage: Shortage) -> NoRoom {
        let artifact = held.artifact.as_ref().map(ToString::to_string).unwrap_or_default();
        let wanted = held.wanted();
        let budget_bytes = self.limits.budget_bytes;
        match shortage {
            Shortage::Budget { .. } if wanted.archive_bytes > budget_bytes => {
                NoRoom::TooLarge { artifact, packed_bytes: wanted.archive_bytes, budget_bytes }
            }
            Shortage::Budget { busy_bytes } => {
                NoRoom::Busy { artifact, packed_bytes: wanted.archive_bytes, budget_bytes, busy_bytes }
            }
            Shortage::Disk { place, free_bytes, reserve_bytes, lacking_bytes } => {
                let root = held.tree.as_ref().map_or(self.dir.as_path(), |tree| tree.root.as_path());
                let on = match place {
                    Place::Cache => self.dir.as_path(),
                    Place::Tree | Place::Both => root,
                };
                let wanted = match place {
                    Place::Cache => Wanted { tree_bytes: 0, ..wanted },
                    Place::Tree => Wanted { missing_bytes: 0, ..wanted },
                    Place::Both => wanted,
                };
                NoRoom::Disk(Box::new(FullDisk {
                    artifact,
                    place,
                    on: on.to_owned(),
                    wanted,
                    free_bytes,
                    reserve_bytes,
                    lacking_bytes,
                }))
            }
        }
    }
}

impl Room {
    /// Counts the bytes of the archive that are in the cache.
    #[must_use]
    pub fn received(&self) -> Arc<AtomicU64> {
        self.space.received()
    }

    /// Counts the bytes that were unpacked. The caller updates it.
    #[must_use]
    pub fn written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.space.held.written)
    }

    pub(in crate::artifact) fn space(&self) -> Space {
        self.space.clone()
    }
}

impl Space {
    pub(in crate::artifact) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.held.received)
    }

    pub(in crate::artifact) fn whole(&self) -> &Path {
        &self.held.whole
    }

    /// Whether writing `bytes` more into the cache would leave less than the reserve.
    pub(in crate::artifact) fn is_tight(&self, bytes: u64) -> bool {
        self.cache.is_tight(bytes)
    }

    /// Removes more old archives, because other programs took the space.
    ///
    /// # Errors
    ///
    /// As [`Cache::admit`].
    pub(in crate::artifact) fn widen(&self) -> Result<(), RoomError> {
        let _one = locked(&self.cache.deciding);
        self.cache.make_room(&self.held)
    }

    /// Removes the least recently used archive, because the disk turned out to be full, whatever it reports as free.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: there is no other archive.
    pub(in crate::artifact) fn sacrifice(&self) -> Result<(), RoomError> {
        let _one = locked(&self.cache.deciding);
        if self.cache.remove_oldest()? {
            return Ok(());
        }
        let artifact = self.held.artifact.as_ref().map(ToString::to_string).unwrap_or_default();
        Err(NoRoom::Full { artifact, cache: self.cache.dir.clone() }.into())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Space { cache, held } = &self.space;
        locked(&cache.held).retain(|other| !Arc::ptr_eq(other, held));
    }
}

/// There is no room for a build.
#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    /// The archives that are being fetched take up the budget.
    #[error(
        "the archive of {artifact} has {}, and does not fit into cache.budget ({}) beside the archives that are being \
         fetched now ({}): retry when those have been fetched, or raise cache.budget",
        BinaryBytes(*packed_bytes), BinaryBytes(*budget_bytes), BinaryBytes(*busy_bytes)
    )]
    Busy {
        /// The build.
        artifact: String,
        /// The size of its archive.
        packed_bytes: u64,
        /// The budget of the cache.
        budget_bytes: u64,
        /// The full size of the archives that are being fetched.
        busy_bytes: u64,
    },
    /// A filesystem is too small.
    #[error(transparent)]
    Disk(Box<FullDisk>),
    /// The disk reported free space, and then did not have it.
    #[error("the filesystem of {} is full, and no old archive is left to remove for {artifact}: free some space there, or raise the quota of the agent's user", cache.display())]
    Full {
        /// The build.
        artifact: String,
        /// The cache's directory.
        cache: PathBuf,
    },
    /// The archive is larger than the budget.
    #[error("the archive of {artifact} has {}, more than the whole cache.budget ({}): raise cache.budget", BinaryBytes(*packed_bytes), BinaryBytes(*budget_bytes))]
    TooLarge {
        /// The build.
        artifact: String,
        /// The size of its archive.
        packed_bytes: u64,
        /// The budget of the cache.
        budget_bytes: u64,
    },
}

impl NoRoom {
    /// Whether the place for the unpacked tree is too small.
    pub(crate) fn is_about_tree(&self) -> bool {
        match self {
            Self::Disk(full) => full.place != Place::Cache,
            Self::Busy { .. } | Self::Full { .. } | Self::TooLarge { .. } => false,
        }
    }
}

impl HasKind for NoRoom {
    fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "cache_busy",
            Self::Disk(_) | Self::Full { .. } => "disk_full",
            Self::TooLarge { .. } => "over_budget",
        }
    }
}

/// A filesystem that is too small for a build.
#[derive(Debug, thiserror::Error)]
#[error(
    "{artifact} needs {}, but only {} are free {}, and {} of them must stay free: free {} more, or lower {}",
    self.needs(), BinaryBytes(*free_bytes), self.found(), BinaryBytes(*reserve_bytes), BinaryBytes(*lacking_bytes),
    self.settings()
)]
pub struct FullDisk {
    artifact: String,
    place: Place,
    on: PathBuf,
    wanted: Wanted,
    free_bytes: u64,
    reserve_bytes: u64,
    lacking_bytes: u64,
}

impl FullDisk {
    /// A path on the filesystem that is too small.
    pub(crate) fn on(&self) -> &Path {
        &self.on
    }

    fn needs(&self) -> String {
        let (archive, tree) = (BinaryBytes(self.wanted.missing_bytes), BinaryBytes(self.wanted.tree_bytes));
        let on = self.on.display();
        match self.place {
            Place::Cache => format!("{archive} for its archive under {on}"),
            Place::Tree => format!("{tree} unpacked under {on}"),
            Place::Both if self.wanted.missing_bytes == 0 => format!("{tree} unpacked under {on}"),
            Place::Both => format!("{archive} for its archive and {tree} unpacked under {on}"),
        }
    }

    fn found(&self) -> &'static str {
        match self.place {
            Place::Cache | Place::Both => "there or in old archives",
            Place::Tree => "there",
        }
    }

    fn settings(&self) -> &'static str {
        match self.place {
            Place::Cache => "cache.min_free",
            Place::Tree | Place::Both => "keep_releases or max_staged",
        }
    }
}

impl HasKind for FullDisk {
    fn kind(&self) -> &'static str {
        "disk_full"
    }
}

/// Why there is no room, or why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The disk cannot be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The build does not fit.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl HasKind for RoomError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Cache(error) => error.kind(),
            Self::NoRoom(error) => error.kind(),
        }
    }
}
