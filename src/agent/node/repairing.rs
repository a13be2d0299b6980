//! `cutover node repair`: after `current` was moved by hand, points it back to the release that the node's own journal
//! names.
//!
//! The unit's owner runs it between two events. The `switched` and `check` hooks do not run, because they succeeded
//! when the node switched to this release. The repair is refused while a deploy is unfinished on this node, because
//! then the barrier decides where `current` points. An operator must reload every service that has read the moved link.

use crate::agent::daemon::context::Context;
use crate::protocol::participant::Participant;
use crate::protocol::record::{Finding, Mark, Release, Step};
use crate::release::{CurrentLink, LinkTarget};

/// The subject of the finding.
const ABOUT: &str = "repair";

/// Points `current` back to the release of the journal. The finding names the reason if that is refused or fails.
///
/// # Cancel safety
///
/// Safe: the link is either unchanged or restored.
pub(crate) async fn repair(ctx: &Context, participant: &Participant) -> Finding {
    let journal = participant.journal();
    if let Some(record) = journal.record.as_ref().filter(|record| !record.phase.is_settled()) {
        let says = format!("a deploy is under way: deploy #{} is in phase {}", record.epoch, record.phase.as_str());
        return bad(&says, "the deploy sets current when it ends");
    }
    if participant.is_working() || journal.moving.is_some() {
        return bad(
            "this node has not finished a switch",
            "the node retries the switch by itself, and the switch sets current",
        );
    }
    let Some(runs) = journal.runs.clone() else {
        return bad("the journal of this node names no release", "deploy to the group");
    };
    // Pruning and prefetching may hold the lock for long. The owner must handle events, so it does not wait for them.
    let Ok(_one) = ctx.disk.try_lock() else {
        return bad("this node is placing or pruning releases right now", "try again in a few seconds");
    };
    let release = runs.clone();
    let looked =
        ctx.on_disk(Step::Switch, move |site| Ok::<_, std::io::Error>((site.current()?, site.holds(&release)?)));
    let (current, is_held) = match looked.await {
        Ok(found) => found,
        Err(fault) => return bad(&fault.reason, "see the agent's log"),
    };
    if current == CurrentLink::Release(runs.release.clone()) {
        return Finding::new(ABOUT, Mark::Good, &format!("current already points to releases/{}", runs.release));
    }
    if !is_held {
        let says = format!("releases/{} is no longer complete on this node", runs.release);
        return bad(&says, "deploy with --again, which makes a new release");
    }
    put_back(ctx, &runs, &current).await
}

async fn put_back(ctx: &Context, runs: &Release, current: &CurrentLink) -> Finding {
    let was = match current {
        CurrentLink::Absent => "was missing".to_owned(),
        CurrentLink::Elsewhere(path) => format!("was {}", path.display()),
        CurrentLink::NotALink => "was not a link".to_owned(),
        CurrentLink::Release(name) => format!("was releases/{name}"),
    };
    let target = LinkTarget::Release(runs.release.clone());
    match ctx.on_disk(Step::Switch, move |site| site.switch(&target)).await {
        Ok(_) => {
            tracing::info!(unit = %ctx.unit, release = %runs.release, %was, "{}: {} put current back to releases/{}; it {was}", ctx.unit, ctx.agent.node, runs.release);
            let says =
                format!("current points to releases/{} again, which is {}; it {was}", runs.release, runs.artifact);
            Finding::new(ABOUT, Mark::Good, &says)
        }
        Err(fault) => bad(&fault.reason, ""),
    }
}

fn bad(says: &str, remedy: &str) -> Finding {
    Finding::new(ABOUT, Mark::Bad, says).remedy(remedy)
}
