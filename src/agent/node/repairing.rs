//! `cutover node repair`: `current` was moved by hand, and goes back to the release that the node's own journal says it
//! runs.
//!
//! Run by the unit's owner, between two events. It decides nothing: the release is the one that was switched to, with its
//! hooks content, so neither `switched` nor `check` runs again. Refused while a deploy is not finished here: the barrier
//! says then what `current` is to be. A service that has read the moved link is for a person to reload.

use crate::agent::daemon::context::Context;
use crate::protocol::participant::Participant;
use crate::protocol::record::{Finding, Mark, Release, Step};
use crate::release::{CurrentLink, LinkTarget};

/// About what the finding is.
const ABOUT: &str = "repair";

/// Puts `current` back, or says why not.
///
/// # Cancel safety
///
/// Safe: the link is what it was, or what it is to be.
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
    // Pruning and prefetching hold it for a while; the owner does not wait for them.
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
            tracing::info!(unit = %ctx.unit, release = %runs.release, %was, "{}: {} put current back to releases/{}; it {was}", ctx.unit, ctx.node, runs.release);
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
