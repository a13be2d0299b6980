//! What gives way to a build that does not fit.
//!
//! A deploy that waits needs its room now, and a prefetched build only saves time later. So for a deploy, running prefetches of
//! all apps are halted, and then prefetched builds are removed that no deploy needs: of every unit on the filesystem that is
//! too small. Prefetching retries afterwards, while no deploy waits for room. For a prefetch, only builds of the same unit are
//! removed that it wants less. Failed releases that are kept for inspection go before prefetched builds do. Other releases never give
//! way: `keep_releases` and `releases_budget` decide about them.
//!
//! Old archives are removed before any of this: see [`crate::artifact::cache`].

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::pruning;
use super::slots::INSIST;
use crate::agent::daemon::context::Context;
use crate::artifact::cache::NoRoom;
use crate::metrics::FetchPurpose;
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::Step;
use crate::release::Site;

/// Why a build is staged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reason<'a> {
    /// A deploy waits for it.
    Deploy,
    /// It may be deployed later. `wanted` are the builds that the unit wants at least as much.
    Ahead { wanted: &'a [ArtifactName] },
}

impl Reason<'_> {
    pub(super) const fn purpose(self) -> FetchPurpose {
        match self {
            Self::Deploy => FetchPurpose::Deploy,
            Self::Ahead { .. } => FetchPurpose::Prefetch,
        }
    }
}

/// Makes other builds give way. Returns false if nothing did, so that another try is useless.
pub(super) async fn give_way(ctx: &Context, no_room: &NoRoom, reason: Reason<'_>, halt: &CancellationToken) -> bool {
    match (no_room, reason) {
        (NoRoom::TooLarge { .. } | NoRoom::Full { .. }, _) | (NoRoom::Busy { .. }, Reason::Ahead { .. }) => false,
        (NoRoom::Busy { .. }, Reason::Deploy) => halt_prefetches(ctx, halt).await,
        (NoRoom::Disk(_), Reason::Ahead { wanted }) if no_room.is_about_tree() => {
            // A hook may hold the unit's disk for minutes, and a deploy would wait for this prefetch to end.
            pruning::prune_staged_if_idle(ctx, wanted.to_vec()).await
        }
        (NoRoom::Disk(_), Reason::Ahead { .. }) => false,
        (NoRoom::Disk(full), Reason::Deploy) => {
            halt_prefetches(ctx, halt).await
                || remove_failed(ctx, full.on()).await
                || remove_prefetched(ctx, full.on()).await
        }
    }
}

/// Halts the prefetches of all apps, and waits until they have ended. Returns whether there was one.
async fn halt_prefetches(ctx: &Context, halt: &CancellationToken) -> bool {
    let mut has_halted = false;
    loop {
        let units = ctx.agent.neighbours.units();
        let running = units.iter().filter(|unit| unit.stager.halt_prefetch()).count();
        if running == 0 {
            return has_halted;
        }
        has_halted = true;
        tokio::select! {
            () = halt.cancelled() => return false,
            () = tokio::time::sleep(INSIST) => {}
        }
    }
}

/// The units whose releases are on the filesystem of `full`.
fn units_on(ctx: &Context, full: &Path) -> Vec<Arc<Context>> {
    let device = |path: &Path| path.metadata().ok().map(|meta| meta.dev());
    let full = device(full);
    ctx.agent.neighbours.units().into_iter().filter(|unit| device(unit.site.root()) == full).collect()
}

/// Removes the failed releases of all units on the filesystem of `full`. Returns whether there was one.
async fn remove_failed(ctx: &Context, full: &Path) -> bool {
    let mut has_removed = false;
    for unit in units_on(ctx, full) {
        match unit.on_disk(Step::Unpack, Site::remove_failed).await {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(unit = %unit.unit, "{}: {} removed failed releases of {}, because a deploy of {} needs their disk space", ctx.unit, ctx.agent.node, unit.unit, ctx.unit);
                has_removed = true;
            }
            Err(fault) => {
                tracing::warn!(unit = %unit.unit, reason = %fault.reason, "{}: {} cannot remove failed releases of {}: {}", ctx.unit, ctx.agent.node, unit.unit, fault.reason);
            }
        }
    }
    has_removed
}

/// Removes the prefetched builds of all units on the filesystem of `full` that no deploy needs. Returns whether there was one.
async fn remove_prefetched(ctx: &Context, full: &Path) -> bool {
    let mut has_removed = false;
    for unit in units_on(ctx, full) {
        // Another unit's hook may hold its disk for minutes, so only this unit's disk is waited for.
        let is_removed = if unit.unit == ctx.unit {
            pruning::prune_staged(&unit, Vec::new()).await
        } else {
            pruning::prune_staged_if_idle(&unit, Vec::new()).await
        };
        if is_removed {
            tracing::info!(unit = %unit.unit, "{}: {} removed prefetched builds of {}, because a deploy of {} needs their disk space", ctx.unit, ctx.agent.node, unit.unit, ctx.unit);
            unit.gave_way.notify_one();
            has_removed = true;
        }
    }
    has_removed
}
