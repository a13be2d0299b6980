//! Status and output of the unit's checks in Consul.

use crate::consul::CheckStatus;
use crate::document::refusal_words;
use crate::protocol::participant::Participant;
use crate::protocol::record::{Barrier, NodeRecord, Phase};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(super) status: CheckStatus,
    pub(super) output: String,
    /// Whether the node knows of a committed release that it does not run.
    pub(super) is_behind: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self { status: CheckStatus::Warning, output: "the agent is starting".to_owned(), is_behind: false }
    }
}

impl Health {
    /// The health that follows from the participant's state and the node's record.
    pub(crate) fn of(participant: &Participant, record: &NodeRecord) -> Self {
        let runs = record
            .runs
            .as_ref()
            .map_or("no release of Cutover".to_owned(), |runs| format!("{} (release {})", runs.artifact, runs.release));
        let is_behind = !participant.has_arrived();
        let is_in_step = switches_with_the_fleet(participant);
        let (status, output) = match (&record.alarm, is_behind, is_in_step) {
            // A complaint that is not about this deploy stays: Consul writes each change of the status.
            (None, _, true) if !record.unremovable.is_empty() || !record.refused.is_empty() => {
                (CheckStatus::Warning, format!("switching; runs {runs}"))
            }
            (_, _, true) => (CheckStatus::Passing, format!("switching; runs {runs}")),
            (Some(alarm), true, _) => {
                (CheckStatus::Critical, format!("does not run the committed release: {alarm}; runs {runs}"))
            }
            (None, true, _) => (CheckStatus::Critical, format!("does not run the committed release yet; runs {runs}")),
            (Some(alarm), false, _) => (CheckStatus::Warning, format!("{alarm}; runs {runs}")),
            (None, false, _) if record.has_drifted() => (
                CheckStatus::Warning,
                format!(
                    "current was moved by hand: it is {}, but should be {runs}",
                    record.current.as_deref().unwrap_or("gone")
                ),
            ),
            (None, false, _) if let Some(stays) = record.unremovable.first() => {
                let more = match record.unremovable.len() {
                    1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                (CheckStatus::Warning, format!("{}{more}; runs {runs}", stays.sentence()))
            }
            (None, false, _) if let Some(build) = record.refused.first() => {
                let more = match record.refused.len() {
                    1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                let (artifact, why) = (&build.artifact, refusal_words(&build.why));
                (CheckStatus::Warning, format!("cannot prefetch {artifact}{more}: {why}; runs {runs}"))
            }
            (None, false, _) => (CheckStatus::Passing, format!("runs {runs}")),
        };
        Self { status, output, is_behind: is_behind && !is_in_step }
    }

    /// The health of a unit that this agent leaves as it runs, because of a newer record.
    pub(crate) fn left_alone(reason: String) -> Self {
        Self { status: CheckStatus::Warning, output: reason, is_behind: false }
    }

    pub(crate) const fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// This health with a complaint in front, which turns a passing check to warning.
    pub(super) fn with(self, complaint: Option<&str>) -> Self {
        let Some(complaint) = complaint else { return self };
        let status = if self.status == CheckStatus::Passing { CheckStatus::Warning } else { self.status };
        Self { status, output: format!("{complaint}; {}", self.output), ..self }
    }
}

/// Whether the node switches together with the whole fleet. A node that catches up does not: it fetches and prepares
/// within its switch, and until it has arrived it runs another release than the rest of the fleet.
fn switches_with_the_fleet(participant: &Participant) -> bool {
    let journal = participant.journal();
    let is_the_fleets = |record: &Barrier| matches!(record.phase, Phase::Commit | Phase::Revert);
    let is_called = journal.member == Some(true) && journal.record.as_ref().is_some_and(is_the_fleets);
    is_called && participant.is_switching()
}
