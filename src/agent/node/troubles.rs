//! Collects the problems that tasks of a unit report: with Consul, with the coordinator, or with newer agents.
//!
//! Each task clears only the problems that it has reported itself. The unit's checks and its record show the current
//! ones.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::current_troubles::{CurrentTroubles, Need, Trouble};
use crate::consul::{Client, Consistency, Entry};
use crate::protocol::ids::Unit;
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{RecordError, RefusedBuild, newer_agents, upgrade_hint};

/// How long to wait for the names of nodes with newer agents.
const NAMES_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Troubles {
    unit: Unit,
    keys: UnitKeys,
    consul: Client,
    current: watch::Sender<CurrentTroubles>,
}

impl Troubles {
    pub(crate) fn new(unit: Unit, keys: UnitKeys, consul: Client) -> Self {
        Self { unit, keys, consul, current: watch::Sender::default() }
    }

    pub(crate) fn now(&self) -> watch::Ref<'_, CurrentTroubles> {
        self.current.borrow()
    }

    /// Follows the problems. The current ones do not count as a change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<CurrentTroubles> {
        self.current.subscribe()
    }

    pub(crate) fn has_consul(&self, need: Need) {
        self.current.send_if_modified(|current| current.need(need).take().is_some());
    }

    /// Notes that Consul fails for `need`. The first reason stays, and so does its time, until
    /// [`Troubles::has_consul`].
    pub(crate) fn lacks_consul(&self, need: Need, what: String) {
        self.current.send_if_modified(|current| {
            let place = current.need(need);
            let is_new = place.is_none();
            place.get_or_insert(Trouble { since: Instant::now(), what });
            is_new
        });
    }

    /// Notes whether an agent holds the coordinator's lock; none: the key of the lock is absent.
    pub(crate) fn sees_lock(&self, lock: Option<&Entry>) {
        if lock.is_some_and(|entry| entry.session.is_some()) {
            self.has_coordinator();
        } else {
            self.lacks_coordinator();
        }
    }

    /// Notes that an agent holds the coordinator's lock.
    pub(crate) fn has_coordinator(&self) {
        self.current.send_if_modified(|current| current.uncoordinated.take().is_some());
    }

    fn lacks_coordinator(&self) {
        self.current.send_if_modified(|current| {
            let is_new = current.uncoordinated.is_none();
            let what = "no agent coordinates this group, so requests wait; start an agent with coordinate = true";
            current.uncoordinated.get_or_insert_with(|| Trouble { since: Instant::now(), what: what.to_owned() });
            is_new
        });
    }

    /// Notes why this coordinator must not act; none if it may act or this agent does not coordinate. Returns whether
    /// that has changed.
    pub(crate) fn set_halted(&self, reason: Option<String>) -> bool {
        self.current.send_if_modified(|current| {
            let is_new = current.halted != reason;
            current.halted = reason;
            is_new
        })
    }

    /// Notes why a new node could not join; none if it could or this agent does not coordinate. Returns whether that
    /// has changed.
    pub(crate) fn set_unjoinable(&self, what: Option<String>) -> bool {
        self.current.send_if_modified(|current| {
            let is_new = current.unjoinable.as_ref().map(|trouble| &trouble.what) != what.as_ref();
            if is_new {
                current.unjoinable = what.map(|what| Trouble { since: Instant::now(), what });
            }
            is_new
        })
    }

    /// Notes the builds that this node could not prefetch, and why.
    pub(crate) fn set_refused(&self, refused: Vec<RefusedBuild>) {
        self.current.send_if_modified(|current| {
            let is_new = current.refused != refused;
            current.refused = refused;
            is_new
        });
    }

    /// Notes that a newer program wrote a record or file that this agent needs. The agent leaves the unit as it runs,
    /// and its check reports this until [`Troubles::reads_again`]. An error of another kind is ignored.
    pub(crate) async fn meets_newer(&self, error: &RecordError) {
        // Once for each record: callers retry every few seconds, and the list of nodes may be long.
        if !error.is_newer() || self.current.borrow().newer.contains_key(error.key()) {
            return;
        }
        let sentence = format!("{error}; {}", upgrade_hint(&self.newer_agents().await));
        tracing::error!(unit = %self.unit, "{}: {sentence}; this agent leaves {} as it runs", self.unit, self.unit);
        self.current.send_modify(|current| drop(current.newer.insert(error.key().to_owned(), sentence)));
    }

    /// Notes that the record or file is gone or readable.
    pub(crate) fn reads_again(&self, key: &str) {
        let was_newer = self.current.send_if_modified(|current| current.newer.remove(key).is_some());
        if was_newer {
            tracing::info!(unit = %self.unit, "{}: {key} can be read again", self.unit);
        }
    }

    /// Notes that every record under the prefix is gone or readable.
    pub(crate) fn reads_again_below(&self, prefix: &str) {
        let keys: Vec<String> = self.current.borrow().newer.keys().cloned().collect();
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            self.reads_again(key);
        }
    }

    /// The nodes whose agents are newer. Also empty if Consul does not answer: the names are only a hint in the
    /// message.
    async fn newer_agents(&self) -> Vec<String> {
        let prefix = self.keys.nodes();
        let nodes = self.consul.kv_list(&prefix, Consistency::Stale);
        let Ok(Ok(nodes)) = tokio::time::timeout(NAMES_LIMIT, nodes).await else { return Vec::new() };
        let named = nodes.iter().filter_map(|it| Some((it.key.strip_prefix(&prefix)?, it.value.as_slice())));
        newer_agents(named)
    }
}
