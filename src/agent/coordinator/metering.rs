//! From what an agent does to what its metrics say.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::daemon::context::Context;
use crate::consul::{Asked, Observer, Reply};
use crate::metrics::{Metrics, Phase};
use crate::protocol::record::History;

impl Observer for Metrics {
    fn asked(&self, asked: &Asked) {
        let took = (!asked.rested).then_some(asked.took);
        match asked.reply {
            Reply::Status(status) => {
                self.consul_asked(asked.verb, status.as_str(), took);
                self.consul_answered(Timestamp::now());
            }
            // A query that rests and is never answered is as much a failure as any other.
            Reply::Silence(word) => self.consul_asked(asked.verb, word, Some(asked.took)),
        }
    }
}

/// Counts a request that has ended by `history`, as this node's coordinator has written it; one that has not ended is
/// passed over.
pub(crate) fn count_end(ctx: &Context, history: &History) {
    let (Some(outcome), Some(ended)) = (history.outcome, history.ended_at) else { return };
    ctx.metrics.deploy_ended(&ctx.unit, outcome.as_str());
    // Refused or overtaken before it began, it had no phase.
    if history.release.is_none() {
        return;
    }
    let decided = [history.committed_at, history.reverted_at];
    let phases = [
        (Phase::Prepare, Some(history.started_at), decided[0].or(Some(ended))),
        (Phase::Commit, decided[0], decided[1].or(Some(ended))),
        (Phase::Revert, decided[1], Some(ended)),
    ];
    for (phase, from, to) in phases {
        let Some((from, to)) = from.zip(to) else { continue };
        // Two coordinators' clocks may differ: what would be less than nothing is nothing.
        let took = Duration::try_from(to.duration_since(from)).unwrap_or_default();
        ctx.metrics.phase_took(phase, took);
    }
}
