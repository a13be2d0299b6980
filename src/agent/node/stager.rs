//! Order of fetches, cache and store for the builds of one app.
//!
//! An app has one prefetch at a time, and none while a deploy of the app fetches. A deploy does not wait for another
//! unit's deploy, and halts the prefetch of another build. Download, digest, decompression and writing overlap. A wrong
//! digest removes the archive from the cache; an archive that came from the cache is then fetched once more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::artifact::cache::{Cache, Room, RoomError, TreePlace};
use crate::artifact::fetch::{FetchSettings, Fetcher};
use crate::artifact::store::{Store, StoreError};
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{Build, Fault, Step};
use crate::telemetry::chain;

/// How often a waiting deploy halts the prefetch that holds the turn, and how often a prefetch tries to get the turn.
pub(super) const INSIST: Duration = Duration::from_millis(100);

/// Fetches and unpacks the builds of one app.
#[derive(Debug)]
pub(crate) struct Stager {
    pub(crate) app: App,
    store: Store,
    pub(super) fetcher: Fetcher,
    /// All stagers of the agent share it.
    cache: Arc<Cache>,
    /// Write-locked by the one prefetch, read-locked by deploys. A prefetch polls instead of queueing for the lock: a
    /// queued writer would block new readers, so a deploy would wait for another unit's deploy.
    turn: RwLock<()>,
    /// The build that is being prefetched, and the token that halts the prefetch.
    ahead: Mutex<Option<(ArtifactName, CancellationToken)>>,
}

impl Stager {
    pub(crate) fn new(store: Store, cache: Arc<Cache>, app: App) -> Self {
        let fetcher = Fetcher::new(store.clone(), Arc::clone(&cache), FetchSettings::default());
        Self { app, fetcher, store, cache, turn: RwLock::default(), ahead: Mutex::default() }
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// The place of a build's archive in the store, and its size there in bytes; none if the archive is not there.
    ///
    /// # Errors
    ///
    /// The error of the store, next to the place.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub(crate) async fn object(&self, build: &Build) -> (String, Result<Option<u64>, StoreError>) {
        let key = self.store.key(&self.app, build);
        (self.store.place(&key), self.store.head(&key).await)
    }

    /// Whether the whole archive is in the cache. Blocks on disk reads.
    pub(crate) fn has_archive(&self, build: &Build) -> bool {
        self.fetcher.has_whole(&self.app, build)
    }

    pub(crate) const fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Halts the running prefetch, if there is one. Returns whether there was.
    pub(super) fn halt_prefetch(&self) -> bool {
        let ahead = self.ahead();
        if let Some((_, halt)) = ahead.as_ref() {
            halt.cancel();
        }
        ahead.is_some()
    }

    pub(super) fn ahead(&self) -> MutexGuard<'_, Option<(ArtifactName, CancellationToken)>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn halt_others(&self, artifact: &ArtifactName) {
        if let Some((_, halt)) = self.ahead().as_ref().filter(|(under_way, _)| under_way != artifact) {
            halt.cancel();
        }
    }

    /// Waits until no other build of this app is being fetched.
    pub(super) async fn turn_ahead(&self, halt: &CancellationToken) -> Result<RwLockWriteGuard<'_, ()>, Fault> {
        loop {
            if let Ok(turn) = self.turn.try_write() {
                return Ok(turn);
            }
            tokio::select! {
                () = halt.cancelled() => return Err(stopped()),
                () = tokio::time::sleep(INSIST) => {}
            }
        }
    }

    /// Halts the prefetch that holds the turn, unless it fetches the same build, and waits for the turn. The halt
    /// repeats, because a prefetch may begin meanwhile.
    pub(super) async fn turn_to_deploy(
        &self,
        build: &Build,
        halt: &CancellationToken,
    ) -> Result<RwLockReadGuard<'_, ()>, Fault> {
        let turn = self.turn.read();
        tokio::pin!(turn);
        loop {
            self.halt_others(&build.artifact);
            tokio::select! {
                biased;
                () = halt.cancelled() => return Err(stopped()),
                turn = &mut turn => return Ok(turn),
                () = tokio::time::sleep(INSIST) => {}
            }
        }
    }

    pub(super) async fn reject(&self, build: &Build) {
        let (fetcher, app, damaged) = (self.fetcher.clone(), self.app.clone(), build.clone());
        let rejected = tokio::task::spawn_blocking(move || fetcher.reject(&app, &damaged)).await;
        if let Ok(Err(error)) = rejected {
            let (app, artifact, error) = (&self.app, &build.artifact, chain(&error));
            tracing::warn!(%app, %artifact, error, "{app}: cannot remove the damaged archive of {artifact} from the cache: {error}");
        }
    }

    /// Makes room for a build: see [`Cache::admit`].
    pub(super) async fn admit(&self, build: &Build, tree: TreePlace) -> Result<Room, Unadmitted> {
        let (cache, app, build) = (Arc::clone(&self.cache), self.app.clone(), build.clone());
        let admitted = tokio::task::spawn_blocking(move || cache.admit(&app, &build, Some(&tree))).await;
        match admitted {
            Ok(room) => room.map_err(Unadmitted::Room),
            Err(error) => Err(Unadmitted::Broken(error)),
        }
    }

    /// Keeps the limits of the cache: see [`Cache::tend`].
    pub(super) async fn tend(&self) {
        let cache = Arc::clone(&self.cache);
        let tended = tokio::task::spawn_blocking(move || cache.tend()).await;
        if let Ok(Err(error)) = tended {
            let (app, dir, error) = (&self.app, self.cache.dir().display(), chain(&error));
            tracing::warn!(%app, error, "{app}: cannot remove old archives from the cache {dir}: {error}");
        }
    }
}

/// Why there is no room for a build.
#[derive(Debug)]
pub(super) enum Unadmitted {
    Room(RoomError),
    /// The task that makes room failed: a bug.
    Broken(JoinError),
}

pub(super) fn stopped() -> Fault {
    Fault::new(Step::Fetch, "stopped: the deploy no longer needs it, or the agent is stopping")
}
