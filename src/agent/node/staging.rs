//! Fetches builds and unpacks them into staging, ahead of time or for a deploy that waits.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::signatures;
use super::stager::{Stager, stopped};
use crate::agent::daemon::context::Context;
use crate::artifact::fetch::FetchError;
use crate::artifact::store::Class;
use crate::backoff::Backoff;
use crate::consul::{self, Consistency};
use crate::metrics::FetchPurpose;
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::{Build, Fault, Release, Step, decode};
use crate::release::{Control, Retry};
use crate::telemetry::chain;

/// How often a failed read of a build record is retried. The pauses of 0.2, 0.4, 0.8, 1.6 and 3.2 s outlast a leader
/// election in Consul, and are well within any prepare timeout.
const RETRIES: u32 = 5;
/// The first of these pauses.
const RETRY_FROM: Duration = Duration::from_millis(200);
/// The longest of these pauses.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A build that could not be staged.
#[derive(Debug)]
pub(crate) struct Unstaged {
    pub(crate) fault: Fault,
    /// Whether the same record may be staged later.
    pub(crate) retry: Retry,
    /// Where the archive came from.
    source: Source,
}

/// Where an archive came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// From the store, or not at all.
    Store,
    /// A part of it was in the cache.
    Cache,
}

impl From<Fault> for Unstaged {
    fn from(fault: Fault) -> Self {
        Self { fault, retry: Retry::MayHelp, source: Source::Store }
    }
}

impl Stager {
    /// Stages the build of `release` if it is not staged yet, and returns its build record.
    ///
    /// # Errors
    ///
    /// The fault that refuses the deploy: fetch, verify or unpack; also if halted.
    pub(crate) async fn stage_for(
        &self,
        ctx: &Context,
        release: &Release,
        halt: &CancellationToken,
    ) -> Result<Build, Fault> {
        let build = self.record_of(ctx, release, halt).await?;
        let _turn = self.turn_to_deploy(&build, halt).await?;
        self.stage(ctx, &build, FetchPurpose::Deploy, halt).await.map_err(|unstaged| unstaged.fault)?;
        Ok(build)
    }

    /// The build record of a release, which must be of the digest that the deploy names.
    ///
    /// # Errors
    ///
    /// A fault of fetch or verify; also if halted.
    pub(crate) async fn record_of(
        &self,
        ctx: &Context,
        release: &Release,
        halt: &CancellationToken,
    ) -> Result<Build, Fault> {
        let build = self.record(ctx, &release.artifact, halt).await?;
        if build.sha256 != release.sha256 {
            let reason = format!(
                "the build record of {} has SHA-256 {}, but the deploy has {}: the record was overwritten",
                build.artifact, build.sha256, release.sha256
            );
            return Err(Fault::new(Step::Verify, &reason));
        }
        Ok(build)
    }

    /// Stages a build that may be deployed later.
    ///
    /// # Errors
    ///
    /// A fault of fetch, verify or unpack; also if halted.
    pub(crate) async fn stage_ahead(
        &self,
        ctx: &Context,
        build: &Build,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        let _turn = self.turn_ahead(halt).await?;
        let halt = halt.child_token();
        *self.ahead() = Some((build.artifact.clone(), halt.clone()));
        let staged = self.stage(ctx, build, FetchPurpose::Prefetch, &halt).await;
        *self.ahead() = None;
        staged
    }

    /// Reads a build record.
    ///
    /// # Errors
    ///
    /// A fault of fetch: Consul does not answer, or has no readable record; also if halted.
    pub(crate) async fn record(
        &self,
        ctx: &Context,
        artifact: &ArtifactName,
        halt: &CancellationToken,
    ) -> Result<Build, Fault> {
        let key = ctx.agent.keys.build(&self.app, artifact);
        // Retries, because one refusal aborts the deploy of the whole fleet, and Consul may fail only briefly.
        let read = async {
            let mut backoff = Backoff::new(RETRY_FROM, LONGEST_RETRY);
            loop {
                match ctx.agent.consul.kv_get(&key, Consistency::Default).await {
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
            entry.map_err(|e| Fault::new(Step::Fetch, &format!("cannot read the build record: {}", chain(&e))))?;
        let entry = entry.ok_or_else(|| Fault::new(Step::Fetch, &format!("{key} is gone: publish the build again")))?;
        decode(&key, &entry.value).map_err(|e| Fault::new(Step::Fetch, &e.to_string()))
    }

    async fn stage(
        &self,
        ctx: &Context,
        build: &Build,
        purpose: FetchPurpose,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        // Before anything is fetched or unpacked. Also for a build that is staged already: it may have been staged under
        // other rules, and the digest that the signature covers is the one that it was unpacked from.
        let signer = signatures::check(ctx, build)?;
        let (artifact, sha256) = (build.artifact.clone(), build.sha256.clone());
        if !ctx.on_disk(Step::Unpack, move |site| site.is_staged(&artifact, &sha256)).await? {
            self.fetch(ctx, build, purpose, halt).await?;
        }
        let Some(key) = signer else { return Ok(()) };
        let (artifact, sha256) = (build.artifact.clone(), build.sha256.clone());
        Ok(ctx.on_disk(Step::Sync, move |site| site.note_signer(&artifact, &sha256, &key)).await?)
    }

    async fn fetch(
        &self,
        ctx: &Context,
        build: &Build,
        purpose: FetchPurpose,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        let staged = match self.fetch_and_unpack(ctx, build, purpose, halt).await {
            Err(Unstaged { fault, source: Source::Cache, .. })
                if fault.step == Step::Verify && !halt.is_cancelled() =>
            {
                tracing::warn!(unit = %ctx.unit, artifact = %build.artifact, "{}: the cached archive of {} is damaged, so {} fetches it again", ctx.unit, build.artifact, ctx.agent.node);
                self.fetch_and_unpack(ctx, build, purpose, halt).await
            }
            staged => staged,
        };
        if let Err(Unstaged { fault, .. }) = &staged
            && matches!(fault.step, Step::Fetch | Step::Verify)
            && !halt.is_cancelled()
        {
            ctx.agent.metrics.fetch_failed();
        }
        self.trim(build).await;
        staged
    }

    /// One try.
    async fn fetch_and_unpack(
        &self,
        ctx: &Context,
        build: &Build,
        purpose: FetchPurpose,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        let received = Arc::new(AtomicU64::new(0));
        let (reader, task) = self.fetcher.start(&self.app, build, received);
        let control = Arc::new(Control::default());
        let mut unpacking = {
            let (site, build, control) = (Arc::clone(&ctx.site), build.clone(), Arc::clone(&control));
            let links = ctx.settings.links;
            tokio::task::spawn_blocking(move || site.stage(&build, links, reader, &control))
        };
        // A halt drops the download at once, which also ends the input of the unpacking.
        let fetched = tokio::select! {
            fetched = task.finish() => Some(fetched),
            () = halt.cancelled() => None,
        };
        // If the download fails, unpacking sees only a broken read. The download's own error below has the reason.
        let unpacked = tokio::select! {
            unpacked = &mut unpacking => unpacked,
            () = halt.cancelled() => {
                control.cancel();
                unpacking.await
            }
        };
        let Some(fetched) = fetched else { return Err(stopped().into()) };
        if let Ok(fetched) = &fetched {
            ctx.agent.metrics.fetched(purpose, fetched.downloaded_bytes);
        }
        let was_cached = fetched.as_ref().is_ok_and(|fetched| fetched.cached_bytes > 0);
        let source = if was_cached { Source::Cache } else { Source::Store };
        let unpacked = unpacked.map_err(|error| Fault::new(Step::Unpack, &format!("unpacking failed: {error}")))?;
        match (fetched, unpacked) {
            (Ok(_), Ok(())) => Ok(()),
            // The download succeeded, or stopped because unpacking failed first: the fault of unpacking is the cause.
            (Ok(_) | Err(FetchError::Abandoned { .. }), Err(fault)) => {
                if fault.step == Step::Verify {
                    self.reject(build).await;
                }
                Err(Unstaged { retry: fault.retry, fault: fault.into(), source })
            }
            (Err(error), _) => {
                let step = if error.class() == Class::Verify { Step::Verify } else { Step::Fetch };
                Err(Fault::new(step, &chain(&error)).into())
            }
        }
    }
}
