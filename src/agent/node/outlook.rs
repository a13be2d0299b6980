//! What a unit's check says besides its node's own state: that Consul does not answer, that nobody coordinates.
//!
//! Each watch that learns of such a thing notes it here. It is said once it has lasted for [`PATIENCE`]: a new leader of
//! Consul's, or a coordinator that hands over, takes a second or two and concerns nobody. Nothing here changes what runs.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::daemon::context::Context;
use crate::consul::Consistency;
use crate::protocol::record::{RecordError, newer_agents, upgrade_hint};

/// How long a trouble is waited out before it is said. A takeover after a goodbye takes under 2 s, an election of
/// Consul's some 2 s (measured); within 10 s it is to be said.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the names of newer agents are waited for.
const NAMES_LIMIT: Duration = Duration::from_secs(5);

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
struct Trouble {
    since: Instant,
    what: String,
}

/// What is known of the unit's surroundings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    barrier: Option<Trouble>,
    session: Option<Trouble>,
    uncoordinated: Option<Trouble>,
    /// That a new node could not join, as this agent has found, which coordinates.
    unjoinable: Option<Trouble>,
    /// Why this agent, which holds the coordinator's lock, must not act.
    halted: Option<String>,
    /// Records and files that a newer program wrote, by key or path, and the sentence that says so. While one stands,
    /// this agent leaves the unit as it runs.
    newer: BTreeMap<String, String>,
}

impl Outlook {
    fn need(&mut self, need: Need) -> &mut Option<Trouble> {
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

impl Context {
    /// Consul did what was needed.
    pub(crate) fn has_consul(&self, need: Need) {
        self.outlook.send_if_modified(|outlook| outlook.need(need).take().is_some());
    }

    /// Consul did not do what is needed. The first reason stays: those after it are of the same trouble.
    pub(crate) fn lacks_consul(&self, need: Need, what: String) {
        self.outlook.send_if_modified(|outlook| {
            let place = outlook.need(need);
            let is_new = place.is_none();
            place.get_or_insert(Trouble { since: Instant::now(), what });
            is_new
        });
    }

    /// Whether somebody holds the coordinator's lock.
    pub(crate) fn is_coordinated(&self, is: bool) {
        self.outlook.send_if_modified(|outlook| {
            let is_new = outlook.uncoordinated.is_some() == is;
            if is {
                outlook.uncoordinated = None;
            } else {
                let what = "nobody coordinates, so no request is taken; is an agent with coordinate = true running?";
                outlook.uncoordinated.get_or_insert_with(|| Trouble { since: Instant::now(), what: what.to_owned() });
            }
            is_new
        });
    }

    /// Why this agent coordinates and does nothing; none: it does, or does not coordinate. Whether that is new.
    pub(crate) fn set_halted(&self, reason: Option<String>) -> bool {
        self.outlook.send_if_modified(|outlook| {
            let is_new = outlook.halted != reason;
            outlook.halted = reason;
            is_new
        })
    }

    /// That a new node could not join; none: it could, or this agent does not coordinate. Whether that is new.
    pub(crate) fn set_unjoinable(&self, what: Option<String>) -> bool {
        self.outlook.send_if_modified(|outlook| {
            let is_new = outlook.unjoinable.as_ref().map(|trouble| &trouble.what) != what.as_ref();
            if is_new {
                outlook.unjoinable = what.map(|what| Trouble { since: Instant::now(), what });
            }
            is_new
        })
    }

    /// A record or file that this agent needs was written by a newer program: the agent leaves the unit as it runs, and
    /// its check says so until [`Context::reads_again`]. An error of another kind changes nothing.
    pub(crate) async fn meets_newer(&self, error: &RecordError) {
        // Once for each record: the list of nodes is long, and a retry asks every few seconds.
        if !error.is_newer() || self.outlook.borrow().newer.contains_key(error.key()) {
            return;
        }
        let sentence = format!("{error}; {}", upgrade_hint(&self.newer_agents().await));
        tracing::error!(unit = %self.unit, "{}: {sentence}; this agent leaves {} as it runs", self.unit, self.unit);
        self.outlook.send_modify(|outlook| drop(outlook.newer.insert(error.key().to_owned(), sentence)));
    }

    /// The record or file is gone, or readable.
    pub(crate) fn reads_again(&self, key: &str) {
        let was_newer = self.outlook.send_if_modified(|outlook| outlook.newer.remove(key).is_some());
        if was_newer {
            tracing::info!(unit = %self.unit, "{}: {key} can be read again", self.unit);
        }
    }

    /// Every record under the prefix is gone, or readable.
    pub(crate) fn reads_again_below(&self, prefix: &str) {
        let keys: Vec<String> = self.outlook.borrow().newer.keys().cloned().collect();
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            self.reads_again(key);
        }
    }

    /// The nodes whose agents are newer; empty also where Consul does not answer, since nothing waits for the names.
    async fn newer_agents(&self) -> Vec<String> {
        let prefix = self.at.nodes();
        let nodes = self.consul.kv_list(&prefix, Consistency::Stale);
        let Ok(Ok(nodes)) = tokio::time::timeout(NAMES_LIMIT, nodes).await else { return Vec::new() };
        let named = nodes.iter().filter_map(|it| Some((it.key.strip_prefix(&prefix)?, it.value.as_slice())));
        newer_agents(named)
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
