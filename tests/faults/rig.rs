//! What every cell runs on: the hosts, the cluster, the agents, and the two proxies that can hold and turn traffic.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cutover_rig::cluster::NodeConfig;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::fleet::consul::{Consul, Entry};
use crate::fleet::{Build, Fleet, FleetSpec, PREFIX, wait_until};
use crate::network::Net;
use crate::proxy::{Fault, Proxy};

/// Consul servers; a majority of them lives through the loss of one.
pub(crate) const SERVERS: usize = 3;
/// Nodes with agents.
pub(crate) const NODES: usize = 5;
/// How long anything but the end of a cell may take; a busy machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// Consul's HTTP.
const HTTP_PORT: u16 = 8500;

/// The files of every build, in the order in which they are packed and fetched, in bytes; packing does not make them
/// smaller. An agent hands what it fetches on in pieces of 1 MiB, and unpacks in blocks of 256 KiB: of the first piece
/// the first file gets whole onto the disk, and the second does not.
pub(crate) const FIRST_FILE_BYTES: usize = 500_000;
const SECOND_FILE_BYTES: usize = 1_300_000;

/// The running thing. Dropped, it takes everything with it.
pub(crate) struct Rig {
    /// Its `consul` leads over [`Rig::look_through`]'s relay.
    pub(crate) fleet: Fleet,
    /// Between the agents and the store: holds what is fetched.
    pub(crate) gate: Proxy,
    relay: Proxy,
    built: usize,
    _runtime: Runtime,
    pub(crate) net: Net,
}

/// Limits that let each cell end within a minute, and leave a loaded machine the time to get where a fault is to hit.
fn impatient(_: usize, _: &Path) -> String {
    "prefetch = []\nprepare_timeout = \"25s\"\nswitch_timeout = \"15s\"\nrevert_timeout = \"10s\"\nabsence_grace = \"3s\"\n"
        .to_owned()
}

impl Rig {
    /// Starts it, and waits until every node is present and somebody coordinates. The calling thread is in the hub then.
    pub(crate) fn start() -> Self {
        let net = Net::make(SERVERS + NODES);
        net.enter();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let gate = runtime.block_on(Proxy::start_at(Net::address(None).into(), nowhere, &[], Fault::Pass));
        let late: &[usize] = &[0, 1, 2, 3, 4];
        // A server that is cut off for a while is to come back as the voter that it was.
        let consul = json!({"leave_on_terminate": false, "autopilot": {"cleanup_dead_servers": false}});
        let spec = FleetSpec {
            servers: SERVERS,
            nodes: NODES,
            places: net.places(),
            consul: vec![NodeConfig::Json(consul)],
            late,
            acl: true,
            s3: true,
            endpoint: Some(gate.endpoint()),
            hooks: true,
            settings: impatient,
            ..FleetSpec::default()
        };
        let mut fleet = Fleet::start(&spec);
        gate.turn_to(fleet.s3_address().unwrap());
        let server: SocketAddr = fleet.consul.address.parse().unwrap();
        let relay = runtime.block_on(Proxy::start(server, &[], Fault::Pass));
        relay.endpoint().trim_start_matches("http://").clone_into(&mut fleet.consul.address);
        let rig = Self { fleet, gate, relay, built: 0, _runtime: runtime, net };
        // Servers give no tokens before each knows that the others can: for seconds, with more than one.
        rig.must("GET", "acl/policies", b"");
        for node in 0..NODES {
            rig.grant(node);
            rig.fleet.start_agent(node);
        }
        rig.fleet.wait_for_presence(late);
        rig
    }

    /// The host of a node; servers are hosts 0 and up.
    pub(crate) fn host(node: usize) -> usize {
        SERVERS + node
    }

    /// From now on the test, and its judge, look at Consul through this server.
    pub(crate) fn look_through(&self, server: usize) {
        self.relay.turn_to((Net::address(Some(server)), HTTP_PORT).into());
    }

    /// Which server leads, as the one that is looked through knows.
    pub(crate) fn leader(&self) -> Option<usize> {
        let reply = self.fleet.consul.call("GET", "status/leader", b"").ok().filter(|reply| reply.status == 200)?;
        let address: SocketAddr = serde_json::from_slice::<String>(&reply.body).ok()?.parse().ok()?;
        (0..SERVERS).find(|server| Net::address(Some(*server)) == address.ip())
    }

    /// Gives a node's agent a token of its own, with the rights of the shipped policy; it is read at the next start.
    pub(crate) fn grant(&self, node: usize) {
        let node = &self.fleet.nodes[node];
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("consul/policies/coordinator.hcl");
        let rules = std::fs::read_to_string(path).unwrap();
        let rules = rules.replace("{{app}}", "shop").replace("{{group}}", "production").replace("{{node}}", &node.name);
        let policy = format!("{}-{}", node.name, fastrand::u64(..));
        node.set_token(&self.fleet.token(&policy, &rules));
    }

    /// Publishes a build that no node has yet.
    pub(crate) fn publish(&mut self, name: &str) -> Build {
        self.built += 1;
        let mut noise = fastrand::Rng::new();
        let files = [("a-first", FIRST_FILE_BYTES), ("b-second", SECOND_FILE_BYTES)];
        self.fleet.publish_with(&format!("{name}-{}", self.built), |tree| {
            for (file, bytes) in files {
                let content: Vec<u8> = std::iter::repeat_with(|| noise.u8(..)).take(bytes).collect();
                std::fs::write(tree.join(file), content).unwrap();
            }
        })
    }

    /// Asks for a deploy, as a person with nothing but Consul does, and answers the request's own index: its epoch.
    pub(crate) fn ask(&self, artifact: &str) -> u64 {
        let key = format!("{PREFIX}deploy");
        // A transaction answers with the index that the write got.
        let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, artifact);
        let ops = json!([{"KV": {"Verb": "set", "Key": key, "Value": value}}]).to_string();
        let reply = self.fleet.consul.call("PUT", "txn", ops.as_bytes()).unwrap();
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        let results: Value = serde_json::from_slice(&reply.body).unwrap();
        results["Results"][0]["KV"]["ModifyIndex"].as_u64().unwrap()
    }

    /// The barrier and its index.
    pub(crate) fn barrier(&self) -> Option<(Entry, Value)> {
        let entry = self.fleet.entry("barrier")?;
        let record = entry.json()?;
        Some((entry, record))
    }

    /// The record of a request that has ended, by its number, which no era has twice.
    pub(crate) fn outcome(&self, epoch: u64) -> Option<Value> {
        let (_, entries) = self.fleet.consul.keys(&format!("{PREFIX}history/"), "recurse&consistent").ok()?;
        let mut records = entries.iter().filter_map(Entry::json);
        records.find(|record| record["epoch"] == epoch && record["outcome"].is_string())
    }

    /// Who holds the coordinator's lock, and by which session.
    pub(crate) fn holder(&self) -> Option<(usize, String)> {
        let entry = self.fleet.entry("coordinator")?;
        let name = String::from_utf8_lossy(&entry.value).into_owned();
        Some((self.fleet.nodes.iter().position(|node| node.name == name)?, entry.session?))
    }

    /// What a node has answered to an epoch.
    pub(crate) fn answer(&self, node: usize, epoch: u64) -> Option<String> {
        let ack = self.fleet.json(&format!("acks/{}", self.fleet.nodes[node].name))?;
        (ack["epoch"] == epoch).then(|| ack["answer"].as_str().unwrap_or_default().to_owned())
    }

    /// The session that a node's presence is held by.
    pub(crate) fn session(&self, node: usize) -> Option<String> {
        self.fleet.entry(&format!("nodes/{}", self.fleet.nodes[node].name))?.session
    }

    /// Sends a signal to a node's agent.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        self.fleet.nodes[node].agent.lock().unwrap().as_mut().unwrap().signal(signal).unwrap();
    }

    /// Kills a node's agent if it runs, and starts it again.
    pub(crate) fn restart(&self, node: usize) {
        if self.fleet.nodes[node].is_running() {
            self.fleet.kill(node);
        }
        self.fleet.start_agent(node);
    }

    /// A call that must succeed, tried while Consul has no leader.
    pub(crate) fn must(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        wait_until(LIMIT, &format!("{method} {path}"), || {
            let reply = self.fleet.consul.call(method, path, body).ok()?;
            (reply.status == 200).then_some(reply.body)
        })
    }

    /// As another, by its token.
    pub(crate) fn consul_as(&self, token: String) -> Consul {
        Consul { token: Some(token), ..self.fleet.consul.clone() }
    }
}
