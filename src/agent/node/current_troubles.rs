//! Problems around a node that its unit's check reports, for example that Consul does not answer or that no agent
//! coordinates.
//!
//! Each task notes here the problems that it finds. The check reports a problem only once it has lasted for
//! [`PATIENCE`]: a leader election in Consul or a change of coordinator takes a second or two and needs no operator.
//! Nothing here changes which release runs.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::record::RefusedBuild;

/// How long a problem must last before the check reports it. Measured: a new coordinator takes over within 2 s of a
/// clean stop, and a leader election in Consul takes about 2 s. The check must report a lasting problem within 10 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// A part of the agent's work that needs Consul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Barrier,
    Session,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) what: String,
}

/// The problems of a unit that this agent knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CurrentTroubles {
    barrier: Option<Trouble>,
    session: Option<Trouble>,
    pub(super) uncoordinated: Option<Trouble>,
    /// Why a new node could not join. Only the coordinator checks this.
    pub(super) unjoinable: Option<Trouble>,
    /// Why this coordinator must not act.
    pub(super) halted: Option<String>,
    /// Builds that this node could not prefetch, and why.
    pub(super) refused: Vec<RefusedBuild>,
    /// Key or path of each record or file that a newer program wrote, with the message about it. While there is one,
    /// this agent leaves the unit as it runs.
    pub(super) newer: BTreeMap<String, String>,
}

impl CurrentTroubles {
    pub(super) fn need(&mut self, need: Need) -> &mut Option<Trouble> {
        match need {
            Need::Barrier => &mut self.barrier,
            Need::Session => &mut self.session,
        }
    }

    /// When this agent first saw the unit without a coordinator; none while it has one.
    pub(crate) fn uncoordinated_since(&self) -> Option<Instant> {
        self.uncoordinated.as_ref().map(|trouble| trouble.since)
    }

    /// The problem to report at `now`. An unreachable Consul comes first, because the other problems may be out of date
    /// then.
    pub(crate) fn complaint(&self, now: Instant) -> Option<&str> {
        let is_due = |trouble: &&Trouble| trouble.since + PATIENCE <= now;
        self.troubles().find(is_due).map(|trouble| trouble.what.as_str())
    }

    /// Why this coordinator must not act. The node's own record shows it to everyone, because an operator has to act.
    pub(crate) fn halted(&self) -> Option<String> {
        self.halted.clone()
    }

    /// The message about a record or file that a newer program wrote. The node's own record shows it too.
    pub(crate) fn newer(&self) -> Option<String> {
        self.newer.values().next().cloned()
    }

    /// When the passing of time alone can next change [`CurrentTroubles::complaint`].
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        self.troubles().map(|trouble| trouble.since + PATIENCE).filter(|due| *due > now).min()
    }

    fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        [&self.barrier, &self.session, &self.uncoordinated, &self.unjoinable].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_when_it_has_lasted_and_consuls_silence_first() {
        let start = Instant::now();
        let trouble =
            |what: &str, after: u64| Some(Trouble { since: start + Duration::from_secs(after), what: what.to_owned() });
        let mut current = CurrentTroubles { uncoordinated: trouble("nobody", 0), ..CurrentTroubles::default() };
        assert_eq!((current.complaint(start), current.due(start)), (None, Some(start + PATIENCE)));
        assert_eq!((current.complaint(start + PATIENCE), current.due(start + PATIENCE)), (Some("nobody"), None));
        current.session = trouble("no session", 1);
        let later = start + PATIENCE + Duration::from_secs(1);
        assert_eq!(
            (current.complaint(later - Duration::from_millis(1)), current.due(start + PATIENCE)),
            (Some("nobody"), Some(later))
        );
        assert_eq!(current.complaint(later), Some("no session"));
    }
}
