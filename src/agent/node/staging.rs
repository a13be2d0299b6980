//! Fetches builds and unpacks them into staging, ahead of time or for a deploy that waits.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::giving_way::{Reason, give_way};
use super::signatures;
use super::slots::{stopped, stopped_because};
use super::stager::{Stager, Unadmitted};
use crate::agent::daemon::context::Context;
use crate::artifact::cache::{NoRoom, Room, RoomError, TreePlace};
use crate::artifact::fetch::FetchError;
use crate::artifact::store::{Class, StoreError};
use crate::backoff::Backoff;
use crate::consul::{self, Consistency};
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::{Build, Fault, Release, Step, decode};
use crate::release::{Control, MARGIN_BYTES, Retry, tree_bytes};
use crate::telemetry::chain;

/// How often a failed read of a build record is retried. The pauses of 0.2, 0.4, 0.8, 1.6 and 3.2 s outlast a leader
/// election in Consul, and are well within any prepare timeout.
const RETRIES: u32 = 5;
/// The first of these pauses.
const RETRY_FROM: Duration = Duration::from_millis(200);
/// The longest of these pauses.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// How often other builds give way to one that does not fit. Each time something is removed or halted, so a second time is rare.
const MOST_GIVING_WAY: u32 = 8;

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
    /// From two objects: it was replaced in the store meanwhile.
    Replaced,
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
        self.stage(ctx, &build, Reason::Deploy, halt).await.map_err(|unstaged| unstaged.fault)?;
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
        let build = self.record(ctx, &release.artifact, halt).await.map_err(|unread| unread.fault)?;
        if build.sha256 != release.sha256 {
            let reason = format!(
                "the build record of {} has SHA-256 {}, but the deploy has {}: the record was overwritten",
                build.artifact, build.sha256, release.sha256
            );
            return Err(Fault::new(Step::Verify, &reason));
        }
        Ok(build)
    }

    /// Stages a build that may be deployed later. If it does not fit, staged builds of the unit that are not among `wanted` make
    /// room.
    ///
    /// # Errors
    ///
    /// A fault of fetch, verify or unpack; also if halted.
    pub(crate) async fn stage_ahead(
        &self,
        ctx: &Context,
        build: &Build,
        wanted: &[ArtifactName],
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        let slot = self.slots().for_prefetch(halt).await?;
        let halt = slot.halt.clone();
        let _turn = self.turn_ahead(&halt).await?;
        *self.ahead() = Some((build.artifact.clone(), halt.clone()));
        let staged = self.stage(ctx, build, Reason::Ahead { wanted }, &halt).await;
        *self.ahead() = None;
        staged
    }

    /// Reads a build record.
    ///
    /// # Errors
    ///
    /// A fault of fetch: Consul does not answer, or has no readable record; also if halted. A retry is useless if there is no
    /// record.
    pub(crate) async fn record(
        &self,
        ctx: &Context,
        artifact: &ArtifactName,
        halt: &CancellationToken,
    ) -> Result<Build, Unstaged> {
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
            () = halt.cancelled() => return Err(stopped().into()),
            entry = read => entry,
        };
        let entry =
            entry.map_err(|e| Fault::new(Step::Fetch, &format!("cannot read the build record: {}", chain(&e))))?;
        let gone = || Unstaged {
            retry: Retry::Useless,
            ..Fault::new(Step::Fetch, &format!("{key} is gone: publish the build again")).into()
        };
        let entry = entry.ok_or_else(gone)?;
        decode(&key, &entry.value).map_err(|e| Fault::new(Step::Fetch, &e.to_string()).into())
    }

    async fn stage(
        &self,
        ctx: &Context,
        build: &Build,
        reason: Reason<'_>,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        // Before anything is fetched or unpacked. Also for a build that is staged already: it may have been staged under
        // other rules, and the digest that the signature covers is the one that it was unpacked from.
        let signer = signatures::check(ctx, build)?;
        let (artifact, sha256) = (build.artifact.clone(), build.sha256.clone());
        if !ctx.on_disk(Step::Unpack, move |site| site.is_staged(&artifact, &sha256)).await? {
            let _slot = match reason {
                Reason::Deploy => Some(self.slots().for_deploy(halt).await?),
                // It has one already.
                Reason::Ahead { .. } => None,
            };
            self.fetch(ctx, build, reason, halt).await?;
        }
        let Some(key) = signer else { return Ok(()) };
        let (artifact, sha256) = (build.artifact.clone(), build.sha256.clone());
        Ok(ctx.on_disk(Step::Sync, move |site| site.note_signer(&artifact, &sha256, &key)).await?)
    }

    async fn fetch(
        &self,
        ctx: &Context,
        build: &Build,
        reason: Reason<'_>,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        let staged = self.stage_in_room(ctx, build, reason, halt).await;
        if let Err(Unstaged { fault, .. }) = &staged
            && matches!(fault.step, Step::Fetch | Step::Verify)
            && !halt.is_cancelled()
        {
            ctx.agent.metrics.fetch_failed();
        }
        self.tend().await;
        staged
    }

    /// Makes room, and stages the build. If the disk turns out to be full, more room is made, once.
    async fn stage_in_room(
        &self,
        ctx: &Context,
        build: &Build,
        reason: Reason<'_>,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        let room = self.room(ctx, build, reason, halt).await?;
        let staged = self.fetch_and_unpack(ctx, build, &room, reason, halt).await;
        drop(room);
        match staged {
            Err(Unstaged { fault, source: Source::Cache, .. })
                if fault.step == Step::Verify && !halt.is_cancelled() =>
            {
                tracing::warn!(unit = %ctx.unit, artifact = %build.artifact, "{}: the cached archive of {} is damaged, so {} fetches it again", ctx.unit, build.artifact, ctx.agent.node);
            }
            Err(Unstaged { source: Source::Replaced, .. }) if !halt.is_cancelled() => {
                tracing::warn!(unit = %ctx.unit, artifact = %build.artifact, "{}: the archive of {} was replaced in the store while {} downloaded it, so {} downloads it again", ctx.unit, build.artifact, ctx.agent.node, ctx.agent.node);
            }
            Err(Unstaged { fault, retry: Retry::WithRoom, .. }) if !halt.is_cancelled() => {
                tracing::warn!(unit = %ctx.unit, artifact = %build.artifact, "{}: the disk of {} became full while {} was staged, so {} makes room and retries: {}", ctx.unit, ctx.agent.node, build.artifact, ctx.agent.node, fault.reason);
            }
            staged => return staged,
        }
        let room = self.room(ctx, build, reason, halt).await?;
        self.fetch_and_unpack(ctx, build, &room, reason, halt).await
    }

    /// Makes room for a build. What is less important gives way.
    async fn room(
        &self,
        ctx: &Context,
        build: &Build,
        reason: Reason<'_>,
        halt: &CancellationToken,
    ) -> Result<Room, Unstaged> {
        let tree =
            TreePlace { root: ctx.site.root().to_owned(), bytes: tree_bytes(build), reserve_bytes: MARGIN_BYTES };
        let mut waiting = None;
        let mut given_way = 0;
        loop {
            if matches!(reason, Reason::Ahead { .. }) && ctx.agent.neighbours.is_waited_for() {
                return Err(stopped_because("a deploy on this node waits for disk space").into());
            }
            let no_room = match self.admit(build, tree.clone()).await {
                Ok(room) => return Ok(room),
                Err(Unadmitted::Room(RoomError::NoRoom(no_room))) => no_room,
                Err(Unadmitted::Room(RoomError::Cache(error))) => {
                    return Err(Fault::new(Step::Fetch, &chain(&error)).into());
                }
                Err(Unadmitted::Broken(error)) => {
                    return Err(Fault::new(Step::Fetch, &format!("making room failed: {error}")).into());
                }
            };
            if matches!(reason, Reason::Deploy) {
                waiting.get_or_insert_with(|| ctx.agent.neighbours.wait_for_room());
            }
            given_way += 1;
            if given_way > MOST_GIVING_WAY || !give_way(ctx, &no_room, reason, halt).await {
                return Err(unfit(&no_room));
            }
        }
    }

    /// One try.
    async fn fetch_and_unpack(
        &self,
        ctx: &Context,
        build: &Build,
        room: &Room,
        reason: Reason<'_>,
        halt: &CancellationToken,
    ) -> Result<(), Unstaged> {
        let (reader, task) = self.fetcher.start(&self.app, build, room);
        let control = Arc::new(Control::counting(room.written()));
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
            ctx.agent.metrics.fetched(reason.purpose(), fetched.downloaded_bytes);
        }
        let was_cached = fetched.as_ref().is_ok_and(|fetched| fetched.cached_bytes > 0);
        let source = if was_cached { Source::Cache } else { Source::Store };
        let unpacked = unpacked.map_err(|error| Fault::new(Step::Unpack, &format!("unpacking failed: {error}")))?;
        if unpacked.is_err() && halt.is_cancelled() {
            // The error is that of the halt, also if only the unpack still ran.
            return Err(stopped().into());
        }
        match (fetched, unpacked) {
            (Ok(_), Ok(())) => Ok(()),
            // The download succeeded, or stopped because unpacking failed first: the fault of unpacking is the cause.
            (Ok(_) | Err(FetchError::Abandoned { .. }), Err(fault)) => {
                if fault.step == Step::Verify {
                    self.reject(build).await;
                }
                Err(Unstaged { retry: fault.retry, fault: fault.into(), source })
            }
            (Err(FetchError::NoRoom(no_room)), _) => Err(unfit(&no_room)),
            (Err(error), _) => {
                let step = if error.class() == Class::Verify { Step::Verify } else { Step::Fetch };
                let is_replaced = matches!(error, FetchError::Store(StoreError::Replaced { .. }));
                let source = if is_replaced { Source::Replaced } else { Source::Store };
                Err(Unstaged { source, ..Fault::new(step, &chain(&error)).into() })
            }
        }
    }
}

/// The fault of a build that does not fit.
fn unfit(no_room: &NoRoom) -> Unstaged {
    let step = if no_room.is_about_tree() { Step::Unpack } else { Step::Fetch };
    Unstaged { retry: Retry::WithRoom, ..Fault::new(step, &chain(no_room)).into() }
}
