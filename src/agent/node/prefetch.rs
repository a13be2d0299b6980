//! Prefetching: follows `latest`, and fetches and unpacks builds before they are deployed.
//!
//! No deploy depends on it: a deploy fetches a build that is not staged. Watches and events only make it act sooner.
//! Builds that are staged or placed already are skipped, so no build is fetched twice.
//!
//! A build whose content this node does not accept is tried once: after that only with another record, or after a restart,
//! perhaps of a newer version. A build whose archive is damaged in the store is tried again after the next publish, which
//! may have repaired it. Everything else is retried after a pause ([`Failures`]). With `spread`, each build waits for a while
//! first.
//!
//! After each round the unit claims the partial archives that it will continue: those of builds that it still wants, and of
//! releases that the node has to run. The cache removes the others.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use indicatif::BinaryBytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::agent::node::failures::{Failures, News, Until};
use crate::agent::node::inbox::Input;
use crate::agent::node::pruning;
use crate::agent::node::signatures;
use crate::agent::node::slots::was_stopped;
use crate::agent::node::spread::Spread;
use crate::agent::node::staging::Unstaged;
use crate::artifact::cache::Claim;
use crate::config::Globs;
use crate::consul::{Change, Consistency, Watch};
use crate::plan::retention::RunResult;
use crate::plan::staged::{SizedBuild, staged_within};
use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::{ArtifactName, ModifyIndex};
use crate::protocol::record::{Build, Fault, Latest, Step, decode};
use crate::protocol::shell::keep::{needed, to_fetch};
use crate::release::{ReleaseRecord, Retry, Site, tree_bytes};
use crate::telemetry::chain;

/// What is remembered between two rounds.
#[derive(Debug)]
struct Memory {
    failures: Failures,
    spread: Spread,
    /// They do not fit into `staged_budget` beside newer builds. That is logged only once.
    over_budget: BTreeSet<ArtifactName>,
}

/// The end of one attempt.
enum Attempt {
    /// There is nothing to do now: the build is here already, does not fit beside newer ones, or waits for a later try.
    Needless,
    Staged,
}

/// A build that could not be staged.
struct Failed {
    fault: Fault,
    until: Until,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self { fault, until: Until::Soon }
    }
}

/// What the key `latest` has.
#[derive(Clone, Debug, Default)]
struct Seen {
    latest: Latest,
    /// None without the key. A watch tells a value again after each failure of Consul, and that is no publish.
    written_at: Option<ModifyIndex>,
}

/// The shortest pause between two rounds, whatever is due: what is put off for another reason would keep them running.
const SHORTEST_REST: Duration = Duration::from_secs(1);

/// Follows `latest` until shutdown.
pub(crate) async fn follow(ctx: Arc<Context>, owner: mpsc::Sender<Input>) {
    // None until the key has been read.
    let (sender, mut latest) = tokio::sync::watch::channel(None);
    // Kept, so that a unit that prefetches nothing never sees the end of the channel.
    let _open = sender.clone();
    if ctx.settings.prefetch.is_empty() {
        sender.send_replace(Some(Seen::default()));
    } else {
        // The watch has its own task: a dropped blocking query occupies its connection at Consul until the query ends.
        ctx.agent.tasks.spawn(watch(Arc::clone(&ctx), sender));
    }
    let mut claims = None;
    let spread = Spread::new(ctx.stager.limits.spread, &ctx.agent.node);
    let mut memory = Memory { failures: Failures::default(), spread, over_budget: BTreeSet::new() };
    let mut journal = ctx.published.journal.clone();
    journal.mark_unchanged();
    let mut written_at = None;
    loop {
        let now = latest.borrow_and_update().clone();
        let mut pause = None;
        // Before the first answer nothing is known to be wanted, and a round would remove what was staged before a restart.
        if let Some(seen) = now {
            if seen.written_at != written_at {
                written_at = seen.written_at;
                memory.failures.published(Instant::now());
            }
            // While a deploy runs, it gets the disk and the network. Its end changes the journal, which starts the next round.
            if is_settled(&ctx) {
                let claims = claims.insert(BTreeSet::new());
                stage_all(&ctx, &seen.latest, &mut memory, claims, &owner).await;
                let now = Instant::now();
                let next = memory.failures.wait(now).into_iter().chain(memory.spread.wait(now)).min();
                pause = next.map(|next| next.max(SHORTEST_REST));
            }
            if let Some(claims) = &claims {
                claim(&ctx, claims);
                ctx.stager.tend().await;
            }
        }
        tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            changed = latest.changed() => match changed {
                Ok(()) => {}
                Err(_) => return,
            },
            // A deploy that ended may have moved or removed a staged build.
            changed = journal.changed() => match changed {
                Ok(()) => memory.failures.deploy_ended(Instant::now()),
                Err(_) => return,
            },
            () = ctx.gave_way.notified() => look(&owner).await,
            () = rest(pause) => {}
        }
    }
}

/// Reads `latest` whenever it changes.
async fn watch(ctx: Arc<Context>, latest: tokio::sync::watch::Sender<Option<Seen>>) {
    let mut watch = Watch::key(&ctx.agent.consul, ctx.agent.keys.latest(&ctx.unit.app), Consistency::Stale);
    ctx.bells.hang(watch.waker());
    loop {
        let change = tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(Some(entry)) => match decode(&entry.key, &entry.value) {
                Ok(read) => {
                    ctx.troubles.reads_again(&entry.key);
                    latest.send_replace(Some(Seen { latest: read, written_at: Some(entry.modify_index) }));
                }
                Err(error) if error.is_newer() => ctx.troubles.meets_newer(&error).await,
                Err(error) => {
                    tracing::error!(unit = %ctx.unit, %error, "{}: {} prefetches no newer builds until the next publish rewrites the key `latest`: {error}", ctx.unit, ctx.agent.node);
                }
            },
            Change::Seen(None) => {
                ctx.troubles.reads_again(&ctx.agent.keys.latest(&ctx.unit.app));
                latest.send_replace(Some(Seen::default()));
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

fn is_settled(ctx: &Context) -> bool {
    ctx.published.journal.borrow().record.as_ref().is_none_or(|record| record.phase.is_settled())
}

/// Claims the partial archives of `prefetched`, and of releases that this node has to run.
fn claim(ctx: &Context, prefetched: &BTreeSet<Claim>) {
    let due = to_fetch(&ctx.published.journal.borrow());
    let claims = prefetched.iter().cloned().chain(due.into_iter().map(Claim::Artifact));
    ctx.stager.cache().claim(&ctx.unit, claims.collect());
}

/// Stages the wanted builds that are missing, and claims those that will be retried.
async fn stage_all(
    ctx: &Arc<Context>,
    latest: &Latest,
    memory: &mut Memory,
    claims: &mut BTreeSet<Claim>,
    owner: &mpsc::Sender<Input>,
) {
    let wanted = wanted(latest, &ctx.settings.prefetch, ctx.settings.max_staged);
    memory.failures.keep(&wanted);
    memory.over_budget.retain(|artifact| wanted.contains(artifact));
    memory.spread.keep(&wanted);
    claims.extend(wanted.iter().cloned().map(Claim::Artifact));
    for (artifact, place) in wanted.iter().zip(1..) {
        if ctx.agent.shutdown.is_cancelled() {
            return;
        }
        let ranked = Ranked { all: &wanted, more: wanted.get(..place).unwrap_or(&wanted) };
        match stage(ctx, artifact, ranked, memory, claims).await {
            Ok(Attempt::Needless) => {}
            Ok(Attempt::Staged) => look(owner).await,
            Err(failed) => note(ctx, artifact, failed, &mut memory.failures),
        }
        // At once: the next build may take long.
        ctx.troubles.set_refused(memory.failures.told(&wanted));
    }
    ctx.troubles.set_refused(memory.failures.told(&wanted));
    // Again, because the budget may have been lowered since they were staged.
    let kept = match ctx.settings.staged_budget {
        Some(budget_bytes) => within_budget(ctx, budget_bytes, &wanted, None).await.map(|budget| budget.kept),
        None => Ok(wanted),
    };
    match kept {
        Ok(kept) => {
            if pruning::prune_staged(ctx, kept).await {
                look(owner).await;
            }
        }
        Err(fault) => {
            tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot read the staged builds, so none is removed: {}", ctx.unit, ctx.agent.node, fault.reason);
        }
    }
}

/// Remembers a build that could not be staged. What is known already is not logged again.
fn note(ctx: &Context, artifact: &ArtifactName, failed: Failed, failures: &mut Failures) {
    let Failed { fault, until } = failed;
    let (unit, node, step, reason) = (&ctx.unit, &ctx.agent.node, fault.step.as_str(), &fault.reason);
    let (now, chance) = (Instant::now(), fastrand::f64());
    if was_stopped(&fault) {
        failures.gave_way(artifact, now, chance);
        tracing::info!(%unit, %artifact, "{unit}: {node} does not prefetch {artifact} now: {reason}");
        return;
    }
    match failures.failed(artifact, until, &fault, now, chance) {
        News::New => {
            tracing::warn!(%unit, %artifact, step, %reason, "{unit}: {node} cannot prefetch {artifact}: {reason}");
        }
        News::Known => {
            tracing::debug!(%unit, %artifact, step, %reason, "{unit}: {node} still cannot prefetch {artifact}: {reason}");
        }
    }
}

/// The staged builds within `staged_budget`.
struct Budget {
    /// What is kept.
    kept: Vec<ArtifactName>,
    /// What all staged builds and the new one have together.
    total_bytes: u64,
}

/// Finds out which of the staged builds, and of a `new` one, are kept within the budget.
async fn within_budget(
    ctx: &Context,
    budget_bytes: u64,
    wanted: &[ArtifactName],
    new: Option<SizedBuild>,
) -> Result<Budget, Fault> {
    let staged = ctx.on_disk(Step::Unpack, Site::staged).await?;
    let staged = staged.into_iter().map(|it| SizedBuild { artifact: it.artifact, disk_bytes: it.disk_bytes });
    let builds: Vec<SizedBuild> = staged.chain(new).collect();
    let journal = ctx.published.journal.borrow().clone();
    let needed: Vec<ArtifactName> = needed(&journal).map(|release| release.artifact.clone()).collect();
    let kept = staged_within(budget_bytes, &builds, &needed, wanted);
    Ok(Budget { kept, total_bytes: builds.iter().map(|it| it.disk_bytes).sum() })
}

/// Whether a build fits into `staged_budget`. Removes staged builds for it that are wanted less.
///
/// # Errors
///
/// The build alone is too large; or the disk cannot be read.
async fn fits_budget(ctx: &Context, build: &Build, wanted: &[ArtifactName]) -> Result<bool, Failed> {
    let Some(budget_bytes) = ctx.settings.staged_budget else { return Ok(true) };
    let disk_bytes = tree_bytes(build);
    if disk_bytes > budget_bytes {
        let (needed, budget) = (BinaryBytes(disk_bytes), BinaryBytes(budget_bytes));
        let reason = format!(
            "{} needs {needed} unpacked, and does not fit into staged_budget ({budget}): raise it",
            build.artifact
        );
        return Err(Failed { fault: Fault::new(Step::Unpack, &reason), until: Until::Later });
    }
    let new = SizedBuild { artifact: build.artifact.clone(), disk_bytes };
    let budget = within_budget(ctx, budget_bytes, wanted, Some(new)).await?;
    let fits = budget.kept.contains(&build.artifact);
    if fits && budget.total_bytes > budget_bytes {
        pruning::prune_staged(ctx, budget.kept).await;
    }
    Ok(fits)
}

/// Tells the owner that the staged builds have changed.
async fn look(owner: &mpsc::Sender<Input>) {
    // At shutdown the owner may end before this task.
    let _gone = owner.send(Input::Look).await;
}

/// The wanted builds.
#[derive(Clone, Copy)]
struct Ranked<'a> {
    all: &'a [ArtifactName],
    /// Those that are wanted at least as much as the build in question. They make no room for it.
    more: &'a [ArtifactName],
}

/// Stages a build unless it is here already, does not fit into the budget, or waits for a later try. `claims` keeps the claim of
/// the build only if it will be retried.
async fn stage(
    ctx: &Arc<Context>,
    artifact: &ArtifactName,
    wanted: Ranked<'_>,
    memory: &mut Memory,
    claims: &mut BTreeSet<Claim>,
) -> Result<Attempt, Failed> {
    let broad = Claim::Artifact(artifact.clone());
    let name = artifact.clone();
    let is_here = ctx.on_disk(Step::Unpack, move |site| {
        // A retry of a failed release needs a new staged copy, because pruning removes the failed release.
        let has_failed = |record: &ReleaseRecord| record.last_run.is_some_and(|run| run.outcome == RunResult::Failed);
        let is_placed =
            site.records()?.iter().any(|record| record.complete && record.artifact == name && !has_failed(record));
        Ok::<_, io::Error>(is_placed || site.staged()?.iter().any(|staged| staged.artifact == name))
    });
    if is_here.await? {
        claims.remove(&broad);
        memory.failures.succeeded(artifact);
        memory.over_budget.remove(artifact);
        return Ok(Attempt::Needless);
    }
    if memory.failures.is_final(artifact) {
        claims.remove(&broad);
    }
    let now = Instant::now();
    if !memory.failures.is_due(artifact, now) || !memory.spread.is_due(artifact, now) {
        return Ok(Attempt::Needless);
    }
    let halt: CancellationToken = ctx.agent.shutdown.child_token();
    let build = match ctx.stager.record(ctx, artifact, &halt).await {
        Ok(build) => build,
        Err(Unstaged { fault, retry: Retry::Useless, .. }) => {
            claims.remove(&broad);
            return Err(Failed { fault, until: Until::Later });
        }
        Err(unread) => return Err(unread.fault.into()),
    };
    claims.remove(&broad);
    if memory.failures.refuses(&build) {
        return Ok(Attempt::Needless);
    }
    // A signature may be added without a change of `latest`.
    signatures::check(ctx, &build).map_err(|fault| Failed { fault, until: Until::Later })?;
    if !fits_budget(ctx, &build, wanted.all).await? {
        memory.failures.succeeded(artifact);
        if memory.over_budget.insert(artifact.clone()) {
            let (needed, budget) =
                (BinaryBytes(tree_bytes(&build)), BinaryBytes(ctx.settings.staged_budget.unwrap_or(0)));
            tracing::info!(unit = %ctx.unit, %artifact, "{}: {} does not prefetch {artifact}: it needs {needed} unpacked, and does not fit into staged_budget ({budget}) beside newer builds", ctx.unit, ctx.agent.node);
        }
        return Ok(Attempt::Needless);
    }
    let own = Claim::Archive(ctx.stager.cache().whole_path(&ctx.unit.app, &build));
    // Before the fetch, so that a halt by a deploy leaves what was downloaded.
    claims.insert(own.clone());
    claim(ctx, claims);
    if let Err(Unstaged { fault, retry, .. }) = ctx.stager.stage_ahead(ctx, &build, wanted.more, &halt).await {
        let until = match (fault.step, retry) {
            (Step::Verify, _) => Until::Publish,
            (_, Retry::Useless) => Until::OtherRecord(Box::new(build)),
            (_, Retry::WithRoom) => Until::Later,
            (_, Retry::MayHelp) => Until::Soon,
        };
        if matches!(until, Until::Publish | Until::OtherRecord(_)) {
            claims.remove(&own);
        }
        return Err(Failed { fault, until });
    }
    claims.remove(&own);
    memory.failures.succeeded(artifact);
    tracing::info!(unit = %ctx.unit, %artifact, "{}: {} has prefetched and unpacked {artifact}", ctx.unit, ctx.agent.node);
    Ok(Attempt::Staged)
}
