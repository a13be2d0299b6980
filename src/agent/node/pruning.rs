//! Removes what a unit no longer needs: releases, staged builds, output of hooks. Never while other disk work of the unit runs.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::agent::daemon::context::Context;
use crate::plan::retention::{Keep, RunResult};
use crate::protocol::ids::{ArtifactName, ReleaseName};
use crate::protocol::record::{Fault, Release, Step};
use crate::protocol::shell::keep::{may_discard, needed, needed_names};
use crate::release::Site;

/// The directory for the output of hooks, below `deploy_to`.
pub(crate) const OUTPUT: &str = ".cutover/output";

/// Removes the release of an aborted deploy, unless the journal still needs it. It may be kept for inspection.
pub(crate) async fn discard(ctx: &Arc<Context>, release: &Release) {
    let _one = ctx.disk.lock().await;
    let journal = ctx.published.journal.borrow().clone();
    if !may_discard(&journal, release) {
        return;
    }
    let (name, epoch) = (release.release.clone(), release.epoch);
    if let Err(fault) = ctx.on_disk(Step::Unpack, move |site| site.discard(&name, epoch)).await {
        tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot remove release {} of the aborted deploy, so pruning removes it later: {}", ctx.unit, ctx.agent.node, release.release, fault.reason);
    }
}

/// Records the outcome of a release, which decides how long pruning keeps it. A failure is only logged: for the release that the
/// node runs, pruning tries again.
pub(crate) async fn record_run(ctx: &Arc<Context>, release: &Release, ran: RunResult) {
    let (name, epoch) = (release.release.clone(), release.epoch);
    if let Err(fault) = ctx.on_disk(Step::Switch, move |site| site.mark_ran(&name, epoch, ran)).await {
        tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot record the outcome of release {}: {}", ctx.unit, ctx.agent.node, release.release, fault.reason);
    }
}

/// Adds to the fault of a hook where its release is kept, once the deploy is taken back.
pub(crate) fn tell_kept(ctx: &Context, release: &Release, fault: Fault) -> Fault {
    let is_hook = matches!(fault.step, Step::PrepareHook | Step::SwitchedHook | Step::CheckHook);
    if !is_hook || ctx.settings.keep_failed == 0 {
        return fault;
    }
    let kept = ctx.site.failed_path(&release.release);
    let reason = format!("{}; its release is kept in {}", fault.reason, kept.display());
    Fault { output: fault.output, ..Fault::new(fault.step, &reason) }
}

/// Removes old releases, and tries again to remove what could not be removed before. The protected releases are read under the
/// disk lock, which preparing takes too, so that a release of a new deploy is not removed. Returns whether the files that cannot
/// be removed are others now.
pub(crate) async fn prune(ctx: &Arc<Context>) -> bool {
    let _one = ctx.disk.lock().await;
    let before = ctx.site.unremovable();
    let (protected, runs) = {
        let journal = ctx.published.journal.borrow();
        (needed_names(&journal), journal.runs.clone())
    };
    if let Some(runs) = runs {
        // Recorded already, unless the disk failed: then this release would not count as the one to go back to.
        let (name, epoch) = (runs.release.clone(), runs.epoch);
        if let Err(fault) = ctx.on_disk(Step::Switch, move |site| site.mark_runs(&name, epoch)).await {
            tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot record that release {} runs: {}", ctx.unit, ctx.agent.node, runs.release, fault.reason);
        }
    }
    let releases = usize::try_from(ctx.settings.keep_releases).unwrap_or(usize::MAX);
    let keep = Keep { releases, budget_bytes: ctx.settings.releases_budget };
    match ctx.on_disk(Step::Unpack, move |site| site.prune(keep, &protected)).await {
        Ok(pruned) if pruned.is_empty() => {}
        Ok(pruned) => {
            let (unit, releases) = (&ctx.unit, pruned.iter().map(ReleaseName::as_str).collect::<Vec<_>>());
            tracing::info!(%unit, ?releases, "{unit}: {} removed old releases: {}", ctx.agent.node, releases.join(", "));
        }
        Err(fault) => {
            tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot remove old releases: {}", ctx.unit, ctx.agent.node, fault.reason);
        }
    }
    if let Err(fault) = ctx.on_disk(Step::Unpack, prune_outputs).await {
        tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot remove the output of old hooks: {}", ctx.unit, ctx.agent.node, fault.reason);
    }
    before != ctx.site.unremovable()
}

/// Removes the hook output of releases that are gone.
fn prune_outputs(site: &Site) -> io::Result<()> {
    let directory = site.root().join(OUTPUT);
    if !directory.is_dir() {
        return Ok(());
    }
    let paths = fs::read_dir(&directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    site.checking_again(&directory, || remove_outputs(site, &paths));
    Ok(())
}

fn remove_outputs(site: &Site, paths: &[PathBuf]) {
    for path in paths {
        // `<release>-<hook>.log`
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
        let release = name.and_then(|(release, _)| release.parse::<ReleaseName>().ok());
        // What cannot be read is not gone.
        let is_absent = |path: PathBuf| path.try_exists().is_ok_and(|exists| !exists);
        let is_gone =
            |release: ReleaseName| is_absent(site.release_path(&release)) && is_absent(site.failed_path(&release));
        if release.is_some_and(is_gone) {
            site.remove_file(path);
        }
    }
}

/// Removes staged builds that are neither `wanted` nor needed by the journal. Returns whether any was removed.
pub(crate) async fn prune_staged(ctx: &Context, wanted: Vec<ArtifactName>) -> bool {
    let _one = ctx.disk.lock().await;
    remove_staged(ctx, wanted).await
}

/// As [`prune_staged`], but does nothing while other work uses the unit's disk.
pub(crate) async fn prune_staged_if_idle(ctx: &Context, wanted: Vec<ArtifactName>) -> bool {
    let Ok(_one) = ctx.disk.try_lock() else { return false };
    remove_staged(ctx, wanted).await
}

async fn remove_staged(ctx: &Context, mut wanted: Vec<ArtifactName>) -> bool {
    wanted.extend(needed(&ctx.published.journal.borrow()).map(|release| release.artifact.clone()));
    match ctx.on_disk(Step::Unpack, move |site| site.prune_staged(&wanted)).await {
        Ok(gone) => !gone.is_empty(),
        Err(fault) => {
            tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot remove old staged builds: {}", ctx.unit, ctx.agent.node, fault.reason);
            false
        }
    }
}
