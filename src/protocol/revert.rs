//! Step C7: the rollback that waits while a deploy is reverted.
//!
//! The author of such a rollback wants to leave the failed deploy, and the revert does just that. Taken after the
//! revert, the same request would take the fleet back one release further than its author meant. So the transaction
//! that writes `reverted` answers the request, and applies only while that request is the one that was read.

use super::barrier::Cause;
use super::coordinator::{Attribution, Coordinator, Round};
use super::ids::Epoch;
use super::record::{History, Outcome, Release, Request, Wanted};
use super::rule::{Rule, holds};
use super::transition::{EndOfRevert, Op};

impl Coordinator {
    /// C7. Answers the waiting rollback, or checks that none has come since the read.
    pub(super) fn end_of_revert(&self, round: Round<'_>, incomplete: Option<Cause>) -> EndOfRevert {
        let view = round.view;
        let Some(slot) = &view.deploy else { return EndOfRevert::default() };
        match self.answered_by(round, incomplete) {
            Some(answered) => EndOfRevert {
                guards: [Op::take_request(slot.index)]
                    .into_iter()
                    .chain(Op::remove_attestations(view.attestations.as_ref()))
                    .collect(),
                answered: Some(answered),
            },
            None => EndOfRevert { guards: Op::check_request(slot.index).into_iter().collect(), answered: None },
        }
    }

    /// The history of the waiting request, where the revert answers it.
    fn answered_by(&self, round: Round<'_>, incomplete: Option<Cause>) -> Option<History> {
        let Round { now, view, .. } = round;
        let barrier = round.barrier();
        let slot = view.deploy.as_ref()?;
        let epoch = Epoch { era: barrier.epoch.era, number: slot.index.0 };
        let request = Request::parse(&slot.value).ok()?;
        let is_answered = asks_for_revert(&request, barrier.from.as_ref()) && holds(Rule::RevertAnswers);
        // An index that is not above the last epoch is damage to the keys, and C2 halts on it.
        if !is_answered || epoch <= barrier.epoch {
            return None;
        }
        let mut history = self.taken(now, epoch, &slot.value, Some(&request)).history();
        history.verified = view.attestations.as_ref().map(|attestations| attestations.identity.clone());
        // An unverified author is refused by C2, which gives the reason.
        if self.attribution == Attribution::Required && history.verified.is_none() {
            return None;
        }
        let to = barrier.from.as_ref();
        let target = to.map_or_else(|| "what ran before Cutover".to_owned(), |release| release.artifact.to_string());
        history.notes.push(format!(
            "deploy #{} was being reverted to {target} when this rollback was requested: the revert answers it, and \
             nothing else is rolled back",
            barrier.epoch
        ));
        history.artifact = to.map(|release| release.artifact.clone());
        history.release = to.map(|release| release.release.clone());
        // The request ends as the revert does: its author reads which nodes did not follow, and why.
        let outcome = match incomplete {
            Some(cause) => {
                history.set_cause(cause);
                Outcome::Failed
            }
            None => Outcome::Done,
        };
        history.end(outcome, now.wall);
        Some(history)
    }
}

/// Whether the request is a rollback that the revert to `from` fulfils.
fn asks_for_revert(request: &Request, from: Option<&Release>) -> bool {
    match &request.wanted {
        Wanted::Deploy(_) => false,
        Wanted::Rollback(None) => true,
        Wanted::Rollback(Some(artifact)) => from.is_some_and(|from| from.artifact == *artifact),
    }
}
