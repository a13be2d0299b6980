//! What a unit's owner logs about deploys and its work on the disk.

use tracing::field::display;

use crate::agent::daemon::context::Context;
use crate::kind::HasKind;
use crate::protocol::journal::Target;
use crate::protocol::participant::IllegalEvent;
use crate::protocol::record::{Barrier, Fault, Release};

/// Logs the phase that the node follows from now on.
pub(super) fn phase(ctx: &Context, record: &Barrier) {
    let target = record.target();
    let what = target.map(|release| format!(" of {}", release.artifact)).unwrap_or_default();
    tracing::info!(
        unit = %ctx.unit, epoch = %record.epoch, phase = record.phase.as_str(),
        artifact = target.map(|release| display(release.artifact.clone())),
        "{}: deploy #{}{what} is in phase {}", ctx.unit, record.epoch, record.phase.as_str()
    );
}

pub(super) fn prepare_ended(ctx: &Context, result: &Result<(), Fault>) {
    if let Err(fault) = result {
        failed(ctx, "prepare", fault);
    }
}

pub(super) fn switch_ended(ctx: &Context, to: &Target, result: &Result<(), Fault>) {
    let (unit, node, epoch) = (&ctx.unit, &ctx.agent.node, ctx.deploy().map(display));
    match (result, to) {
        (Ok(()), Target::Release(Release { release, artifact, .. })) => {
            tracing::info!(%unit, epoch, %release, %artifact, "{unit}: {node} switched to {artifact} (release {release})");
        }
        (Ok(()), Target::Origin) => {
            tracing::info!(%unit, epoch, "{unit}: {node} switched back to what ran before Cutover");
        }
        (Err(fault), Target::Release(_) | Target::Origin) => failed(ctx, "switch", fault),
    }
}

fn failed(ctx: &Context, what: &str, fault: &Fault) {
    tracing::warn!(
        unit = %ctx.unit, epoch = ctx.deploy().map(display), step = fault.step.as_str(), reason = %fault.reason,
        output = %fault.output, "{}: {what} failed on {} (step {}): {}", ctx.unit, ctx.agent.node, fault.step.as_str(), fault.reason
    );
}

/// Logs a bug of this program. The participant has ignored the event, and the agent continues.
pub(super) fn illegal_event(ctx: &Context, illegal: &IllegalEvent) {
    tracing::error!(unit = %ctx.unit, kind = illegal.kind(), "{}: {} ignores an event, which is a bug in the agent: {illegal}", ctx.unit, ctx.agent.node);
}
