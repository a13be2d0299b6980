//! What the unit's checks in Consul say.

use crate::consul::CheckStatus;
use crate::protocol::participant::Participant;
use crate::protocol::record::{Barrier, NodeRecord, Phase};

/// What the checks say.
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
    /// What follows from what the node is doing.
    pub(crate) fn of(participant: &Participant, record: &NodeRecord) -> Self {
        let runs = record
            .runs
            .as_ref()
            .map_or("no release of Cutover".to_owned(), |runs| format!("{} (release {})", runs.artifact, runs.release));
        let is_behind = !participant.has_arrived();
        let is_in_step = switches_with_the_fleet(participant);
        let (status, output) = match (&record.alarm, is_behind, is_in_step) {
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
            (None, false, _) => (CheckStatus::Passing, format!("runs {runs}")),
        };
        Self { status, output, is_behind: is_behind && !is_in_step }
    }

    /// A unit that this agent leaves as it runs, for this reason.
    pub(crate) fn left_alone(reason: String) -> Self {
        Self { status: CheckStatus::Warning, output: reason, is_behind: false }
    }

    /// Whether the node knows of a committed release that it does not run.
    pub(crate) const fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The same for the agent's own check, with what its surroundings lack.
    pub(super) fn with(self, complaint: Option<&str>) -> Self {
        let Some(complaint) = complaint else { return self };
        let status = if self.status == CheckStatus::Passing { CheckStatus::Warning } else { self.status };
        Self { status, output: format!("{complaint}; {}", self.output), ..self }
    }
}

/// Whether the node switches because, and while, the whole fleet does. One that catches up fetches and prepares within
/// its switch: it serves what nobody else does until it has arrived.
fn switches_with_the_fleet(participant: &Participant) -> bool {
    let journal = participant.journal();
    let is_the_fleets = |record: &Barrier| matches!(record.phase, Phase::Commit | Phase::Revert);
    let is_called = journal.member == Some(true) && journal.record.as_ref().is_some_and(is_the_fleets);
    is_called && participant.is_switching()
}
