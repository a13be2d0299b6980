//! Where the tasks of a unit report trouble with Consul, with the coordinator, or with newer agents.
//!
//! Every task reports its own trouble, and takes only that back. The unit's checks and its record show what stands.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::outlook::{Need, Outlook, Trouble};
use crate::consul::{Client, Consistency};
use crate::protocol::ids::Unit;
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{RecordError, newer_agents, upgrade_hint};

/// How long the names of newer agents are waited for.
const NAMES_LIMIT: Duration = Duration::from_secs(5);

/// The troubles of one unit.
#[derive(Debug)]
pub(crate) struct Troubles {
    unit: Unit,
    keys: UnitKeys,
    consul: Client,
    outlook: watch::Sender<Outlook>,
}

impl Troubles {
    pub(crate) fn new(unit: Unit, keys: UnitKeys, consul: Client) -> Self {
        Self { unit, keys, consul, outlook: watch::Sender::default() }
    }

    pub(crate) fn now(&self) -> watch::Ref<'_, Outlook> {
        self.outlook.borrow()
    }

    /// Follows the troubles. What stands now is not reported as a change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Outlook> {
        self.outlook.subscribe()
    }

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

    /// An agent holds the coordinator's lock.
    pub(crate) fn has_coordinator(&self) {
        self.outlook.send_if_modified(|outlook| outlook.uncoordinated.take().is_some());
    }

    /// No agent holds the coordinator's lock.
    pub(crate) fn lacks_coordinator(&self) {
        self.outlook.send_if_modified(|outlook| {
            let is_new = outlook.uncoordinated.is_none();
            let what = "no agent coordinates this group, so requests wait; start an agent with coordinate = true";
            outlook.uncoordinated.get_or_insert_with(|| Trouble { since: Instant::now(), what: what.to_owned() });
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
    /// its check says so until [`Troubles::reads_again`]. An error of another kind changes nothing.
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
        let prefix = self.keys.nodes();
        let nodes = self.consul.kv_list(&prefix, Consistency::Stale);
        let Ok(Ok(nodes)) = tokio::time::timeout(NAMES_LIMIT, nodes).await else { return Vec::new() };
        let named = nodes.iter().filter_map(|it| Some((it.key.strip_prefix(&prefix)?, it.value.as_slice())));
        newer_agents(named)
    }
}
