//! What a node does about a release that was changed on its disk: see [`crate::release::Checked`].

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::agent::node::slots::stopped;
use crate::plan::retention::RunResult;
use crate::plan::verify::Differences;
use crate::protocol::record::{Fault, Release, Step};
use crate::release::{Checked, Control};

/// How a release was changed on the disk while it did not run.
#[derive(Debug)]
pub(super) struct Damage {
    differences: Differences,
    /// How it ran before; none if it never ran here.
    ran: Option<RunResult>,
}

/// Checks a release on the disk; none if nothing speaks against a switch to it.
///
/// # Errors
///
/// A fault of [`Step::Verify`]: the disk cannot be read; also if halted.
pub(super) async fn damage(
    ctx: &Arc<Context>,
    release: &Release,
    halt: &CancellationToken,
) -> Result<Option<Damage>, Fault> {
    let control = Arc::new(Control::default());
    let (name, stop) = (release.release.clone(), Arc::clone(&control));
    let checked = tokio::select! {
        checked = ctx.on_disk(Step::Verify, move |site| site.check(&name, &control)) => checked?,
        () = halt.cancelled() => {
            stop.cancel();
            return Err(stopped());
        }
    };
    match checked {
        Checked::AsMade | Checked::Unchecked => Ok(None),
        Checked::Changed { differences, ran } => Ok(Some(Damage { differences, ran })),
        Checked::MayBeOwn(differences) => {
            let (unit, node, name) = (&ctx.unit, &ctx.agent.node, &release.release);
            tracing::info!(%unit, release = %name, "{unit}: on {node}, release {name} is not as it was made, but it ran since, so its application may have changed it: {differences}");
            Ok(None)
        }
    }
}

/// Notes that nobody has a reason to change a release from now on. A failure is only logged: then the next check is less strict.
pub(super) async fn mark_unused(ctx: &Arc<Context>, release: &Release) {
    let name = release.release.clone();
    if let Err(fault) = ctx.on_disk(Step::Verify, move |site| site.mark_unused(&name)).await {
        tracing::warn!(unit = %ctx.unit, reason = %fault.reason, "{}: {} cannot note since when release {} is not used: {}", ctx.unit, ctx.agent.node, release.release, fault.reason);
    }
}

impl Damage {
    /// Logs that the release is made anew.
    pub(super) fn warn(&self, ctx: &Context, release: &Release) {
        let (unit, node, name) = (&ctx.unit, &ctx.agent.node, &release.release);
        tracing::warn!(%unit, release = %name, "{unit}: on {node}, release {name} was changed while it did not run, so it is unpacked anew: {}", self.differences);
    }

    /// The fault of a node that has promised the release, and must not run it.
    pub(super) fn broken_promise(&self, ctx: &Context, release: &Release) -> Fault {
        let reason = format!(
            "{} was changed after this node had prepared it, so it is not run: {}. Find out what writes there, then deploy again",
            ctx.release_path(release).display(),
            self.differences
        );
        Fault::new(Step::Verify, &reason)
    }

    /// Decides about a changed release that cannot be made anew. What ran well here and lacks nothing runs again: it may be the only
    /// way out while the store is away.
    ///
    /// # Errors
    ///
    /// The fault of the node that must not run it.
    pub(super) fn run_anyway(self, ctx: &Context, release: &Release, unstaged: &Fault) -> Result<(), Fault> {
        let (unit, node, differences) = (&ctx.unit, &ctx.agent.node, self.differences);
        if self.ran == Some(RunResult::Done) && !differences.has_missing() {
            let (name, reason) = (&release.release, &unstaged.reason);
            tracing::warn!(%unit, release = %name, reason, "{unit}: on {node}, release {name} cannot be unpacked anew, and runs as it is, because it ran well before: {reason}");
            return Ok(());
        }
        let reason = format!(
            "{} was changed while it did not run: {differences}. It cannot be unpacked anew: {}",
            ctx.release_path(release).display(),
            unstaged.reason
        );
        Err(Fault::new(unstaged.step, &reason))
    }
}
