//! What Consul itself counts: entries of its log by kind, and HTTP requests to one of its agents.

use std::collections::BTreeMap;

use cutover_rig::cluster::NodeConfig;
use serde_json::{Value, json};

use super::consul::Consul;
use crate::fleet::{Fleet, LIMIT, wait_until};

/// Turns an agent's counters on. Network coordinates are off: each agent's are a write every few seconds. The text of
/// a check goes to the catalog at once, and not within five minutes: else it would be counted by chance.
pub(crate) fn settings() -> NodeConfig {
    NodeConfig::Json(json!({
        "check_update_interval": "0s",
        "disable_coordinates": true,
        "telemetry": {"prometheus_retention_time": "24h", "disable_hostname": true},
    }))
}

/// What one Consul agent has counted since it started, by name and labels.
#[derive(Clone, Debug)]
pub(crate) struct Counters(BTreeMap<String, u64>);

/// The entries of Consul's log between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    /// All entries, whatever they are: the difference of the log's last index.
    pub(crate) entries: u64,
    /// Transactions.
    pub(crate) txns: u64,
    /// Single writes of a key.
    pub(crate) puts: u64,
    /// Sessions made or ended.
    pub(crate) sessions: u64,
    /// Services and checks that reached the catalog.
    pub(crate) registrations: u64,
}

impl Counters {
    /// Reads an agent's counters.
    pub(crate) fn of(consul: &Consul) -> Self {
        let reply = consul.call("GET", "agent/metrics?format=prometheus", b"").unwrap();
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        let text = String::from_utf8(reply.body).unwrap();
        let mut counts = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.rsplit_once(' ').unwrap();
            // A summary's `_count` is whole; everything else here is a gauge or a time.
            if let (true, Ok(number)) = (name.contains("_count"), number.parse()) {
                counts.insert(name.to_owned(), number);
            }
        }
        Self(counts)
    }

    /// The sum of all whose name begins so, whatever their labels.
    fn sum(&self, name: &str) -> u64 {
        self.0.iter().filter(|(found, _)| found.starts_with(name)).map(|(_, count)| count).sum()
    }

    /// HTTP requests whose path begins so (as `PUT_v1_session_renew`), by the names of Consul 1.8 and of later ones.
    pub(crate) fn requests(&self, method: &str, path: &str) -> u64 {
        let labels = [format!("method=\"{method}\""), format!("path=\"{path}")];
        let is_later =
            |name: &str| name.starts_with("consul_api_http_count") && labels.iter().all(|label| name.contains(label));
        let later: u64 = self.0.iter().filter(|(name, _)| is_later(name)).map(|(_, count)| count).sum();
        self.sum(&format!("consul_http_{method}_{path}")) + later
    }
}

impl std::ops::AddAssign for Log {
    fn add_assign(&mut self, more: Self) {
        self.entries += more.entries;
        self.txns += more.txns;
        self.puts += more.puts;
        self.sessions += more.sessions;
        self.registrations += more.registrations;
    }
}

/// Waits until every agent has renewed its session, and with that seen to what it had still to write.
pub(crate) fn rest(fleet: &Fleet) {
    let renewals = |index: usize| Counters::of(&fleet.local_consul(index)).requests("PUT", "v1_session_renew");
    let before: Vec<u64> = (0..fleet.nodes.len()).map(renewals).collect();
    // On one node the coordinator's session is renewed as well: among three is one of the node's own.
    for (index, before) in before.iter().enumerate() {
        wait_until(LIMIT, "its session is renewed", || (renewals(index) >= before + 3).then_some(()));
    }
}

/// Where a server's log ends, and what it has applied by kind.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    last: u64,
    counters: Counters,
}

impl Mark {
    /// Takes the log's end at a server.
    pub(crate) fn of(server: &Consul) -> Self {
        let reply = server.call("GET", "agent/self", b"").unwrap();
        let document: Value = serde_json::from_slice(&reply.body).unwrap();
        let last = document["Stats"]["raft"]["last_log_index"].as_str().and_then(|text| text.parse().ok());
        Self { last: last.expect("a server tells where its log ends"), counters: Counters::of(server) }
    }

    /// What the log has got since an earlier mark.
    pub(crate) fn since(&self, earlier: &Self) -> Log {
        let by = |name: &str| self.counters.sum(name) - earlier.counters.sum(name);
        Log {
            entries: self.last - earlier.last,
            txns: by("consul_fsm_txn_count"),
            puts: by("consul_fsm_kvs_count"),
            sessions: by("consul_fsm_session_count"),
            registrations: by("consul_fsm_register_count") + by("consul_fsm_deregister_count"),
        }
    }
}
