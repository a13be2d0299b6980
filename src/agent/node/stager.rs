//! Order of fetches, cache and store for the builds of one app.
//!
//! An app has one prefetch at a time, and none while a deploy of the app fetches. A deploy does not wait for another
//! unit's deploy, and halts the prefetch of another build. Download, digest, decompression and writing overlap. A wrong
//! digest removes the archive from the cache; an archive that came from the cache is then fetched once more. All apps share
//! the node's slots ([`super::slots`]) and bandwidth.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::slots::{INSIST, Slots, stopped};
use crate::artifact::cache::{Cache, Room, RoomError, TreePlace};
use crate::artifact::fetch::{Bandwidth, FetchSettings, Fetcher};
use crate::artifact::store::{Store, StoreError};
use crate::config::FetchSection;
use crate::metrics::Metrics;
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{Build, Fault};
use crate::telemetry::chain;

/// What all stagers of a node share.
#[derive(Clone, Debug)]
pub(crate) struct StagerLimits {
    bandwidth: Option<Arc<Bandwidth>>,
    slots: Arc<Slots>,
    /// The time within which a prefetch begins.
    pub(super) spread: Duration,
}

impl StagerLimits {
    pub(crate) fn new(settings: &FetchSection) -> Self {
        let FetchSection { bandwidth_bytes_per_sec, parallel, spread } = *settings;
        let bandwidth = bandwidth_bytes_per_sec.map(Bandwidth::new).map(Arc::new);
        Self { bandwidth, slots: Arc::new(Slots::new(parallel)), spread }
    }
}

/// Fetches and unpacks the builds of one app.
#[derive(Debug)]
pub(crate) struct Stager {
    pub(crate) app: App,
    store: Store,
    pub(super) fetcher: Fetcher,
    /// All stagers of the agent share it.
    cache: Arc<Cache>,
    pub(super) limits: StagerLimits,
    /// Write-locked by the one prefetch, read-locked by deploys. A prefetch polls instead of queueing for the lock: a
    /// queued writer would block new readers, so a deploy would wait for another unit's deploy.
    turn: RwLock<()>,
    /// The build that is being prefetched, and the token that halts the prefetch.
    ahead: Mutex<Option<(ArtifactName, CancellationToken)>>,
}

impl Stager {
    pub(crate) fn new(
        store: Store,
        cache: Arc<Cache>,
        app: App,
        limits: &StagerLimits,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let metrics = Arc::clone(metrics);
        let fetcher = Fetcher::new(store.clone(), Arc::clone(&cache), FetchSettings::default())
            .within(limits.bandwidth.clone())
            .telling_retries(move |reason| metrics.fetch_retried(reason));
        let limits = limits.clone();
        Self { app, fetcher, store, cache, limits, turn: RwLock::default(), ahead: Mutex::default() }
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

    pub(super) fn slots(&self) -> &Slots {
        &self.limits.slots
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::artifact::cache::CacheLimits;
    use crate::artifact::store::{Limits, S3Credentials, S3Settings, S3Store};

    /// The address of a server that is too busy for every request.
    async fn busy_server() -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let _read = client.read(&mut [0; 4096]).await;
                let answer = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _written = client.write_all(answer.as_bytes()).await;
            }
        });
        endpoint
    }

    #[tokio::test]
    async fn each_retry_is_counted_by_its_reason() {
        let endpoint = Some(busy_server().await);
        let settings = S3Settings { region: None, endpoint, force_path_style: true, limits: Limits::default() };
        let credentials = S3Credentials { access_key: "test".to_owned(), secret_key: "secret".to_owned() };
        let store = Store::S3(S3Store::with_credentials("artifacts", "builds", &settings, &credentials).unwrap());
        let (dir, app, build) =
            (tempfile::tempdir().unwrap(), "shop".parse::<App>().unwrap(), Build::sample("a-00000001"));
        let limits = CacheLimits { budget_bytes: u64::MAX, min_free_bytes: Some(1) };
        let cache = Arc::new(Cache::new(dir.path().to_owned(), limits, []));
        let fetch = FetchSection { bandwidth_bytes_per_sec: None, parallel: None, spread: Duration::ZERO };
        let (limits, metrics) = (StagerLimits::new(&fetch), Arc::<Metrics>::default());
        let stager = Stager::new(store, Arc::clone(&cache), app.clone(), &limits, &metrics);
        let room = cache.admit(&app, &build, None).unwrap();
        let _fetch = stager.fetcher.start(&app, &build, &room);
        let expected = "cutover_fetch_retries_total{reason=\"unavailable\"} 1\n";
        let counted = async {
            while !metrics.render().contains(expected) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), counted).await.expect("no retry was counted");
    }
}
