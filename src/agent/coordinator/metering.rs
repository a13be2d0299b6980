//! Feeds an agent's metrics: calls to Consul, and the outcome and phases of deploys.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::daemon::context::Context;
use crate::consul::{Observer, Reply, RequestKind, RequestReport};
use crate::metrics::{Metrics, Phase};
use crate::protocol::record::History;

impl Observer for Metrics {
    fn request_ended(&self, request: &RequestReport) {
        let took = match request.kind {
            RequestKind::Blocking => None,
            RequestKind::Immediate => Some(request.took),
        };
        match request.reply {
            Reply::Status(status) => {
                self.consul_request(request.verb, status.as_str(), took);
                self.consul_answered(Timestamp::now());
            }
            // A blocking query without any answer failed, so its duration counts like that of other failures.
            Reply::NoAnswer(word) => self.consul_request(request.verb, word, Some(request.took)),
        }
    }
}

/// Counts a request whose outcome this node's coordinator has just written. Ignores a request without an outcome.
pub(crate) fn count_end(ctx: &Context, history: &History) {
    let (Some(outcome), Some(ended)) = (history.outcome, history.ended_at) else { return };
    ctx.agent.metrics.deploy_ended(&ctx.unit, outcome.as_str());
    // A request that was refused or superseded before it began has no phases.
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
        // Two coordinators may have written the times, and their clocks may differ: a negative duration counts as zero.
        let took = Duration::try_from(to.duration_since(from)).unwrap_or_default();
        ctx.agent.metrics.phase_took(phase, took);
    }
}
