//! What a unit's check says besides its node's own state: that Consul does not answer, that nobody coordinates.
//!
//! Each watch that learns of such a thing notes it here. It is said once it has lasted for [`PATIENCE`]: a new leader of
//! Consul's, or a coordinator that hands over, takes a second or two and concerns nobody. Nothing here changes what runs.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a trouble is waited out before it is said. A takeover after a goodbye takes under 2 s, an election of
/// Consul's some 2 s (measured); within 10 s it is to be said.
const PATIENCE: Duration = Duration::from_secs(5);

/// A part of the agent's work that needs Consul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Reading `barrier`.
    Barrier,
    /// Keeping the node's session.
    Session,
}

/// A trouble, and since when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) what: String,
}

/// What is known of the unit's surroundings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    barrier: Option<Trouble>,
    session: Option<Trouble>,
    pub(super) uncoordinated: Option<Trouble>,
    /// That a new node could not join, as this agent has found, which coordinates.
    pub(super) unjoinable: Option<Trouble>,
    /// Why this agent, which holds the coordinator's lock, must not act.
    pub(super) halted: Option<String>,
    /// Records and files that a newer program wrote, by key or path, and the sentence that says so. While one stands,
    /// this agent leaves the unit as it runs.
    pub(super) newer: BTreeMap<String, String>,
}

impl Outlook {
    pub(super) fn need(&mut self, need: Need) -> &mut Option<Trouble> {
        match need {
            Need::Barrier => &mut self.barrier,
            Need::Session => &mut self.session,
        }
    }

    /// Since when nobody coordinates, as far as this agent has seen; none: somebody does.
    pub(crate) fn uncoordinated_since(&self) -> Option<Instant> {
        self.uncoordinated.as_ref().map(|trouble| trouble.since)
    }

    /// What is to be said at `now`; what Consul does not tell comes first, for the rest may be out of date then.
    pub(crate) fn complaint(&self, now: Instant) -> Option<&str> {
        let is_due = |trouble: &&Trouble| trouble.since + PATIENCE <= now;
        self.troubles().find(is_due).map(|trouble| trouble.what.as_str())
    }

    /// Why this agent, which holds the coordinator's lock, must not act. The node's own record says it too, for everyone
    /// who looks at the unit: it does not end by itself.
    pub(crate) fn halted(&self) -> Option<String> {
        self.halted.clone()
    }

    /// The sentence about a record that a newer program wrote; the node's own record says it too.
    pub(crate) fn newer(&self) -> Option<String> {
        self.newer.values().next().cloned()
    }

    /// When [`Outlook::complaint`] will have more to say by time alone.
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
        let mut outlook = Outlook { uncoordinated: trouble("nobody", 0), ..Outlook::default() };
        assert_eq!((outlook.complaint(start), outlook.due(start)), (None, Some(start + PATIENCE)));
        assert_eq!((outlook.complaint(start + PATIENCE), outlook.due(start + PATIENCE)), (Some("nobody"), None));
        outlook.session = trouble("no session", 1);
        let later = start + PATIENCE + Duration::from_secs(1);
        assert_eq!(
            (outlook.complaint(later - Duration::from_millis(1)), outlook.due(start + PATIENCE)),
            (Some("nobody"), Some(later))
        );
        assert_eq!(outlook.complaint(later), Some("no session"));
    }
}
