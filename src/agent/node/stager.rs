//! Fetches builds and unpacks them into staging: ahead of time, or because a deploy waits for it.
//!
//! One prefetch at a time per app, and none while a deploy of the app fetches. Deploys wait for nobody: neither for
//! another unit's deploy, nor for a prefetch of something else, which they halt. Download, digest, decompression and
//! writing overlap; a digest that is wrong removes the archive from the cache, and where the cache had given it, it is
//! fetched once more.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::artifact::cache;
use crate::artifact::fetch::{FetchError, FetchSettings, Fetcher};
use crate::artifact::store::{Class, Store, StoreError};
use crate::backoff::Backoff;
use crate::config::CacheSettings;
use crate::consul::{self, Consistency};
use crate::metrics::Errand;
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{Build, Fault, Release, Step, decode};
use crate::release::Control;
use crate::telemetry::chain;

/// How often a deploy that waits for its turn halts the prefetch that has it, and a prefetch looks for its turn.
const INSIST: Duration = Duration::from_millis(100);

/// How often a build record that cannot be read is asked for again: 0.2, 0.4, 0.8, 1.6, 3.2 s, as long as a leader
/// election takes, and well within any prepare timeout.
const RETRIES: u32 = 5;
/// The first of these pauses.
const RETRY_FROM: Duration = Duration::from_millis(200);
/// The longest of these pauses.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The one that fetches and unpacks, for one app.
#[derive(Debug)]
pub(crate) struct Stager {
    app: App,
    store: Store,
    fetcher: Fetcher,
    cache_dir: PathBuf,
    budget_bytes: u64,
    /// Written by the one prefetch, read by deploys. A prefetch never stands in line for it: a deploy would come to
    /// stand behind it, and so behind another unit's deploy.
    turn: RwLock<()>,
    /// What is being prefetched, and how to halt it.
    ahead: Mutex<Option<(ArtifactName, CancellationToken)>>,
}

impl Stager {
    /// A stager for one app.
    pub(crate) fn new(store: Store, cache: &CacheSettings, app: App) -> Self {
        let fetcher = Fetcher::new(store.clone(), cache.dir.clone(), FetchSettings::default());
        let (cache_dir, budget_bytes) = (cache.dir.clone(), cache.budget_bytes);
        Self { app, fetcher, store, cache_dir, budget_bytes, turn: RwLock::default(), ahead: Mutex::default() }
    }

    /// Where archives lie.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Where a build's archive lies in the store, and its size there in bytes; none: it is not there.
    ///
    /// # Errors
    ///
    /// The store's, with the place.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub(crate) async fn object(&self, build: &Build) -> (String, Result<Option<u64>, StoreError>) {
        let key = self.store.key(&self.app, &build.artifact, build.format);
        (self.store.place(&key), self.store.head(&key).await)
    }

    /// Whether the whole archive is in the cache; blocking.
    pub(crate) fn has_archive(&self, build: &Build) -> bool {
        self.fetcher.has_whole(&self.app, build)
    }

    /// Where archives are kept on this node.
    pub(crate) fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// Has the build of `release` lie staged, and answers its record.
    ///
    /// # Errors
    ///
    /// The fault that refuses the deploy: fetch, verify, or unpack; also when halted.
    pub(crate) async fn stage_for(
        &self,
        ctx: &Context,
        release: &Release,
        halt: &CancellationToken,
    ) -> Result<Build, Fault> {
        let build = self.record(ctx, &release.artifact, halt).await?;
        if build.sha256 != release.sha256 {
            let reason = format!(
                "the build record of {} says SHA-256 {}, and the deploy {}: somebody wrote over the record",
                build.artifact, build.sha256, release.sha256
            );
            return Err(Fault::new(Step::Verify, &reason));
        }
        let _turn = self.turn_to_deploy(&build, halt).await?;
        self.stage(ctx, &build, Errand::Deploy, halt).await?;
        Ok(build)
    }

    /// Has a build lie staged that may be deployed some day.
    ///
    /// # Errors
    ///
    /// Fetch, verify, or unpack; also when halted.
    pub(crate) async fn stage_ahead(
        &self,
        ctx: &Context,
        artifact: &ArtifactName,
        halt: &CancellationToken,
    ) -> Result<(), Fault> {
        let build = self.record(ctx, artifact, halt).await?;
        let _turn = self.turn_ahead(halt).await?;
        let halt = halt.child_token();
        *self.ahead() = Some((build.artifact.clone(), halt.clone()));
        let staged = self.stage(ctx, &build, Errand::Prefetch, &halt).await;
        *self.ahead() = None;
        staged
    }

    fn ahead(&self) -> MutexGuard<'_, Option<(ArtifactName, CancellationToken)>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn halt_others(&self, artifact: &ArtifactName) {
        if let Some((_, halt)) = self.ahead().as_ref().filter(|(under_way, _)| under_way != artifact) {
            halt.cancel();
        }
    }

    async fn record(&self, ctx: &Context, artifact: &ArtifactName, halt: &CancellationToken) -> Result<Build, Fault> {
        let key = ctx.keys.build(&self.app, artifact);
        // A hiccup of Consul must not refuse a whole fleet's deploy.
        let read = async {
            let mut backoff = Backoff::new(RETRY_FROM, LONGEST_RETRY);
            loop {
                match ctx.consul.kv_get(&key, Consistency::Default).await {
                    Err(error) if error.class() == consul::Class::Transient && backoff.failures() < RETRIES => {
                        tokio::time::sleep(backoff.pause(fastrand::f64())).await;
                    }
                    read => return read,
                }
            }
        };
        let entry = tokio::select! {
            () = halt.cancelled() => return Err(stopped()),
            entry = read => entry,
        };
        let entry =
            entry.map_err(|e| Fault::new(Step::Fetch, &format!("the build record cannot be read: {}", chain(&e))))?;
        let entry = entry.ok_or_else(|| Fault::new(Step::Fetch, &format!("{key} is gone: publish the build again")))?;
        decode(&key, &entry.value).map_err(|e| Fault::new(Step::Fetch, &e.to_string()))
    }

    /// Waits until nothing else is fetched for this app.
    async fn turn_ahead(&self, halt: &CancellationToken) -> Result<RwLockWriteGuard<'_, ()>, Fault> {
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

    /// Halts the prefetch that has the turn, unless it is of this very build: also one that was just beginning.
    async fn turn_to_deploy(&self, build: &Build, halt: &CancellationToken) -> Result<RwLockReadGuard<'_, ()>, Fault> {
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

    async fn stage(&self, ctx: &Context, build: &Build, errand: Errand, halt: &CancellationToken) -> Result<(), Fault> {
        let (artifact, sha256) = (build.artifact.clone(), build.sha256.clone());
        if ctx.on_disk(Step::Unpack, move |site| site.is_staged(&artifact, &sha256)).await? {
            return Ok(());
        }
        let staged = match self.fetch_and_unpack(ctx, build, errand, halt).await {
            Err((fault, true)) if fault.step == Step::Verify && !halt.is_cancelled() => {
                tracing::warn!(unit = %ctx.unit, artifact = %build.artifact, "the cached archive is damaged: fetching it again");
                self.fetch_and_unpack(ctx, build, errand, halt).await.map_err(|(fault, _)| fault)
            }
            staged => staged.map_err(|(fault, _)| fault),
        };
        if let Err(fault) = &staged
            && matches!(fault.step, Step::Fetch | Step::Verify)
            && !halt.is_cancelled()
        {
            ctx.metrics.fetch_failed();
        }
        self.trim(build).await;
        staged
    }

    /// One try. With a fault, whether the cache had a part in it.
    async fn fetch_and_unpack(
        &self,
        ctx: &Context,
        build: &Build,
        errand: Errand,
        halt: &CancellationToken,
    ) -> Result<(), (Fault, bool)> {
        let received = Arc::new(AtomicU64::new(0));
        let (reader, task) = self.fetcher.start(&self.app, build, received);
        let control = Arc::new(Control::default());
        let mut unpacking = {
            let (site, build, control) = (Arc::clone(&ctx.site), build.clone(), Arc::clone(&control));
            tokio::task::spawn_blocking(move || site.stage(&build, reader, &control).map_err(Fault::from))
        };
        // A halt drops the download, whatever it waits for, and with it the unpacking's source.
        let fetched = tokio::select! {
            fetched = task.finish() => Some(fetched),
            () = halt.cancelled() => None,
        };
        // The reader gives the download's failure as a broken read: the task knows better why.
        let unpacked = tokio::select! {
            unpacked = &mut unpacking => unpacked,
            () = halt.cancelled() => {
                control.cancel();
                unpacking.await
            }
        };
        let Some(fetched) = fetched else { return Err((stopped(), false)) };
        if let Ok(fetched) = &fetched {
            ctx.metrics.fetched(errand, fetched.downloaded_bytes);
        }
        let was_cached = fetched.as_ref().is_ok_and(|fetched| fetched.cached_bytes > 0);
        let unpacked =
            unpacked.map_err(|error| (Fault::new(Step::Unpack, &format!("unpacking broke off: {error}")), false))?;
        match (fetched, unpacked) {
            (Ok(_), Ok(())) => Ok(()),
            // The reader stopped reading, because of its own fault.
            (Ok(_) | Err(FetchError::Abandoned { .. }), Err(fault)) => {
                if fault.step == Step::Verify {
                    self.reject(build).await;
                }
                Err((fault, was_cached))
            }
            (Err(error), _) => {
                let step = if error.class() == Class::Verify { Step::Verify } else { Step::Fetch };
                Err((Fault::new(step, &chain(&error)), false))
            }
        }
    }

    async fn reject(&self, build: &Build) {
        let (fetcher, app, build) = (self.fetcher.clone(), self.app.clone(), build.clone());
        let rejected = tokio::task::spawn_blocking(move || fetcher.reject(&app, &build.artifact, build.format)).await;
        if let Ok(Err(error)) = rejected {
            tracing::warn!(error = %chain(&error), "a damaged archive could not be removed from the cache");
        }
    }

    async fn trim(&self, build: &Build) {
        let (dir, budget, keep) =
            (self.cache_dir.clone(), self.budget_bytes, (self.app.clone(), build.artifact.clone()));
        let trimmed = tokio::task::spawn_blocking(move || cache::trim(&dir, budget, &[keep])).await;
        if let Ok(Err(error)) = trimmed {
            tracing::warn!(error = %chain(&error), "the cache could not be trimmed");
        }
    }
}

fn stopped() -> Fault {
    Fault::new(Step::Fetch, "stopped: it is no longer wanted")
}
