//! Prefetching: follows `latest`, and fetches and unpacks builds before they are deployed.
//!
//! No deploy depends on it: a deploy fetches a build that is not staged. Watches and events only make it act sooner.
//! Builds that are staged or placed already are skipped, so no build is fetched twice.
//!
//! A build whose content this node does not accept is tried once: after that only with another record, or after a restart,
//! perhaps of a newer version. A build whose archive is damaged in the store is tried again after the next publish, which
//! may have repaired it. Everything else is retried after a pause.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::agent::node::signatures;
use crate::agent::node::staging::Unstaged;
use crate::agent::node::unit::Input;
use crate::agent::node::work;
use crate::backoff::Backoff;
use crate::config::Globs;
use crate::consul::{Change, Consistency, Watch};
use crate::plan::retention::RunResult;
use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::{Build, Fault, Latest, RefusedBuild, Step, decode};
use crate::release::{ReleaseRecord, Retry};
use crate::telemetry::chain;

/// The pause after the first failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// Builds that are not tried again for now.
#[derive(Debug, Default)]
struct Unusable {
    /// Their archives in the store are not what was published. A retry waits for the next publish.
    damaged: BTreeSet<ArtifactName>,
    /// Their contents are not accepted. A retry waits for another record.
    refused: BTreeMap<ArtifactName, Build>,
    /// Their signatures are not accepted here. Their records are read again in each round: a signature may be added.
    unsigned: Vec<RefusedBuild>,
}

/// The end of one attempt.
enum Attempt {
    /// There was nothing to do: the build is here already, or is unusable.
    Needless,
    Staged,
    /// Its signature is not accepted, for this reason.
    Unsigned(String),
}

/// Follows `latest` until shutdown.
pub(crate) async fn follow(ctx: Arc<Context>, owner: mpsc::Sender<Input>) {
    if ctx.settings.prefetch.is_empty() {
        return;
    }
    // The watch has its own task: a dropped blocking query occupies its connection at Consul until the query ends.
    let (sender, mut latest) = tokio::sync::watch::channel(Latest::default());
    ctx.agent.tasks.spawn(watch(Arc::clone(&ctx), sender));
    let mut unusable = Unusable::default();
    let mut journal = ctx.published.journal.clone();
    journal.mark_unchanged();
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    // Before the first answer nothing is known to be wanted, and a round would remove what was staged before a restart.
    tokio::select! {
        () = ctx.agent.shutdown.cancelled() => return,
        seen = latest.changed() => if seen.is_err() { return },
    }
    loop {
        let now = latest.borrow_and_update().clone();
        let is_whole = stage_all(&ctx, &now, &mut unusable, &owner).await;
        if is_whole {
            backoff.succeeded();
        }
        let pause = (!is_whole).then(|| backoff.pause(fastrand::f64()));
        tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            changed = latest.changed() => match changed {
                Ok(()) => unusable.damaged.clear(),
                Err(_) => return,
            },
            // A deploy that ended may have moved or removed a staged build.
            changed = journal.changed() => if changed.is_err() { return },
            () = rest(pause) => {}
        }
    }
}

/// Reads `latest` whenever it changes.
async fn watch(ctx: Arc<Context>, latest: tokio::sync::watch::Sender<Latest>) {
    let mut watch = Watch::key(&ctx.agent.consul, ctx.agent.keys.latest(&ctx.unit.app), Consistency::Stale);
    ctx.bells.hang(watch.waker());
    loop {
        let change = tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(Some(entry)) => match decode(&entry.key, &entry.value) {
                Ok(seen) => {
                    ctx.troubles.reads_again(&entry.key);
                    latest.send_replace(seen);
                }
                Err(error) if error.is_newer() => ctx.troubles.meets_newer(&error).await,
                Err(error) => {
                    tracing::error!(unit = %ctx.unit, %error, "{}: {} prefetches no newer builds until the next publish rewrites the key `latest`: {error}", ctx.unit, ctx.agent.node);
                }
            },
            Change::Seen(None) => {
                ctx.troubles.reads_again(&ctx.agent.keys.latest(&ctx.unit.app));
                latest.send_replace(Latest::default());
            }
            Change::Failed(error) => {
                let (unit, error) = (&ctx.unit, chain(&error));
                tracing::debug!(%unit, error, "{unit}: {} cannot read the key `latest`, so it prefetches no newer builds: {error}", ctx.agent.node);
            }
        }
    }
}

async fn rest(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

impl Unusable {
    fn has(&self, artifact: &ArtifactName) -> bool {
        self.damaged.contains(artifact) || self.refused.contains_key(artifact)
    }

    /// Remembers a build that cannot be used, unless a retry may help.
    fn keep(&mut self, build: Build, unstaged: &Unstaged) {
        match (unstaged.fault.step, unstaged.retry) {
            (Step::Verify, _) => drop(self.damaged.insert(build.artifact)),
            (_, Retry::Useless) => drop(self.refused.insert(build.artifact.clone(), build)),
            (_, Retry::MayHelp) => {}
        }
    }
}

/// The newest build of each branch and tag that matches the patterns: at most `most`, the newest first.
fn wanted(latest: &Latest, patterns: &Globs, most: u32) -> Vec<ArtifactName> {
    let mut seen: BTreeSet<BuildRef<'_>> = BTreeSet::new();
    let newest = latest.builds.iter().filter(|build| seen.insert(build.of()));
    newest
        .filter(|build| patterns.matches(&build.branch))
        .map(|build| build.artifact.clone())
        .take(usize::try_from(most).unwrap_or(usize::MAX))
        .collect()
}

/// Stages the wanted builds that are missing. Returns false if a retry is useful.
async fn stage_all(ctx: &Arc<Context>, latest: &Latest, unusable: &mut Unusable, owner: &mpsc::Sender<Input>) -> bool {
    let is_settled = ctx.published.journal.borrow().record.as_ref().is_none_or(|record| record.phase.is_settled());
    if !is_settled {
        // A running deploy gets the disk and the network. Its end changes the journal, which starts the next round.
        return true;
    }
    let wanted = wanted(latest, &ctx.settings.prefetch, ctx.settings.max_staged);
    unusable.refused.retain(|artifact, _| wanted.contains(artifact));
    let mut is_whole = true;
    let mut unsigned = Vec::new();
    for artifact in &wanted {
        if ctx.agent.shutdown.is_cancelled() {
            return false;
        }
        match stage(ctx, artifact, unusable).await {
            Ok(Attempt::Needless) => {}
            Ok(Attempt::Staged) => look(owner).await,
            Ok(Attempt::Unsigned(reason)) => unsigned.push(RefusedBuild { artifact: artifact.clone(), reason }),
            Err(fault) => {
                // Reading a changed record is worth a retry, even if the former one is unusable.
                is_whole &= fault.step != Step::Fetch && unusable.has(artifact);
                tracing::warn!(unit = %ctx.unit, %artifact, step = fault.step.as_str(), reason = %fault.reason, "{}: {} cannot prefetch {artifact}: {}", ctx.unit, ctx.agent.node, fault.reason);
            }
        }
    }
    for RefusedBuild { artifact, reason } in unsigned.iter().filter(|it| !unusable.unsigned.contains(it)) {
        tracing::warn!(unit = %ctx.unit, %artifact, %reason, "{}: {} does not prefetch {artifact}: {reason}", ctx.unit, ctx.agent.node);
    }
    // A signature may be added without a change of `latest`.
    is_whole &= unsigned.is_empty();
    ctx.troubles.set_refused(unsigned.clone());
    unusable.unsigned = unsigned;
    if work::prune_staged(ctx, wanted).await {
        look(owner).await;
    }
    is_whole
}

/// Tells the owner that the staged builds have changed.
async fn look(owner: &mpsc::Sender<Input>) {
    // At shutdown the owner may end before this task.
    let _gone = owner.send(Input::Look).await;
}

/// Stages a build unless it is here already.
async fn stage(ctx: &Arc<Context>, artifact: &ArtifactName, unusable: &mut Unusable) -> Result<Attempt, Fault> {
    if unusable.damaged.contains(artifact) {
        return Ok(Attempt::Needless);
    }
    let name = artifact.clone();
    let is_here = ctx.on_disk(Step::Unpack, move |site| {
        // A retry of a failed release needs a new staged copy, because pruning removes the failed release.
        let has_failed = |record: &ReleaseRecord| record.last_run.is_some_and(|run| run.outcome == RunResult::Failed);
        let is_placed =
            site.records()?.iter().any(|record| record.complete && record.artifact == name && !has_failed(record));
        Ok::<_, io::Error>(is_placed || site.staged()?.iter().any(|staged| staged.artifact == name))
    });
    if is_here.await? {
        return Ok(Attempt::Needless);
    }
    let halt: CancellationToken = ctx.agent.shutdown.child_token();
    let build = ctx.stager.record(ctx, artifact, &halt).await?;
    if let Err(fault) = signatures::check(ctx, &build) {
        return Ok(Attempt::Unsigned(fault.reason));
    }
    if unusable.refused.get(artifact) == Some(&build) {
        return Ok(Attempt::Needless);
    }
    unusable.refused.remove(artifact);
    if let Err(unstaged) = ctx.stager.stage_ahead(ctx, &build, &halt).await {
        unusable.keep(build, &unstaged);
        return Err(unstaged.fault);
    }
    tracing::info!(unit = %ctx.unit, %artifact, "{}: {} has prefetched and unpacked {artifact}", ctx.unit, ctx.agent.node);
    Ok(Attempt::Staged)
}
