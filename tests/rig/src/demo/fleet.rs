//! The fleet: Consul, a store, and on every node an app and a cutover agent. Each a process, all in one directory.
//!
//! ```text
//! <dir>/consul/n1/          a Consul agent's configuration, data and log
//! <dir>/cutover             a link to this program, which is Cutover under that name
//! <dir>/store/              the artifact store
//! <dir>/builds/1/           what CI would have built
//! <dir>/n1/agent.toml       the cutover agent's settings; agent.log, app.log
//! <dir>/n1/cache/           its downloads
//! <dir>/n1/shop/            deploy_to: current, releases/, shared/
//! ```
//!
//! Dropping a [`Fleet`] kills everything; [`Fleet::stop`] ends the agents in order first, so that no hook outlives them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use super::builds::{create, write};
use super::commands::{Commands, own_environment};
use super::error::DemoError;
use super::store::DemoStore;
use super::{CUTOVER, StoreKind};
use crate::cluster::{Cluster, ClusterSpec, NodeConfig};
use crate::process::Process;

/// The cutover agent's own port.
const AGENT_PORT: u16 = 8740;
/// How long agents may take to stop: a switch under way is finished, and hooks get 5 s between TERM and KILL.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How many lines of a log an error shows.
const SHOWN_LINES: usize = 12;
/// The watch that every node's Consul agent gets, as it is shipped.
const WATCHES: &str = include_str!("../../../../consul/watches.json");
/// The address in it.
const WATCHED_AGENT: &str = "127.0.0.1:8740";

/// What the demo deploys, and where.
pub(super) const APP: &str = "shop";
pub(super) const UNIT: &str = "shop/production";
pub(super) const BRANCH: &str = "master";

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Its files.
    pub(super) dir: PathBuf,
    address: Ipv4Addr,
    /// Its Consul agent's HTTP API.
    consul: String,
}

impl Member {
    pub(super) fn deploy_to(&self) -> PathBuf {
        self.dir.join(APP)
    }

    pub(super) fn shared(&self) -> PathBuf {
        self.deploy_to().join("shared")
    }

    /// The cutover agent's HTTP API.
    pub(super) fn agent_url(&self) -> String {
        format!("http://{}:{AGENT_PORT}", self.address)
    }

    /// Where the app listens, once it does.
    pub(super) fn app_url(&self) -> Option<String> {
        // The pid is written after the address.
        let listens = self.shared().join("app.pid").exists();
        std::fs::read_to_string(self.shared().join("app.url")).ok().filter(|_| listens)
    }
}

/// A running fleet.
#[derive(Debug)]
pub(super) struct Fleet {
    // Fields are dropped in this order: whoever needs Consul goes before it.
    agents: Vec<Process>,
    apps: Vec<Process>,
    _cluster: Cluster,
    store: DemoStore,
    members: Vec<Member>,
    commands: Commands,
    /// This very program, which is also the app.
    program: PathBuf,
}

impl Fleet {
    /// Starts Consul on every node, and the store.
    ///
    /// # Errors
    ///
    /// [`DemoError::Cluster`], [`DemoError::File`], [`DemoError::Command`].
    ///
    /// # Cancel safety
    ///
    /// Safe: what was started is killed.
    pub(super) async fn start(dir: &Path, consul: PathBuf, nodes: usize, kind: StoreKind) -> Result<Self, DemoError> {
        let store = DemoStore::open(&dir.join("store"), kind).await?;
        let spec = ClusterSpec { servers: 1, clients: nodes.saturating_sub(1), ..ClusterSpec::default() };
        let mut cluster = Cluster::start(&consul, &dir.join("consul"), spec).await?;
        let mut members = Vec::new();
        for index in 0..nodes {
            let node = cluster.node(index)?;
            let (name, address, consul) = (node.name().to_owned(), node.address(), node.http_addr());
            let watches = WATCHES.replace(WATCHED_AGENT, &format!("{address}:{AGENT_PORT}"));
            cluster.add_config(index, "watches", &NodeConfig::Json(json(&watches)?))?;
            cluster.reload(index)?;
            members.push(Member { dir: dir.join(&name), name, address, consul });
        }
        let program =
            std::env::current_exe().map_err(|source| DemoError::Command { line: "cutover-demo".to_owned(), source })?;
        let cutover = dir.join(CUTOVER);
        symlink(&program, &cutover)?;
        let mut variables = store.variables();
        // Any node's would do; commands need no cutover agent beside them.
        variables.insert("CONSUL_HTTP_ADDR", members.first().map(|m| m.consul.clone()).unwrap_or_default());
        // No git knows the commits of the demo, so their files get the time of its start.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        variables.insert("SOURCE_DATE_EPOCH", now.to_string());
        let commands = Commands { cutover, consul, variables, dir: dir.to_owned() };
        Ok(Self { agents: Vec::new(), apps: Vec::new(), _cluster: cluster, store, members, commands, program })
    }

    /// Starts an app on every node, and does not wait until they listen.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`], [`DemoError::Process`].
    pub(super) fn start_apps(&mut self) -> Result<(), DemoError> {
        for member in &self.members {
            create(&member.shared())?;
            // For the check hook, which gets no PATH to this program.
            symlink(&self.program, &member.shared().join("demo"))?;
            write(&member.shared().join("schema.txt"), "1\n")?;
            let mut command = own_environment(&self.program);
            command.args(["app", "serve", "--listen", &format!("{}:0", member.address), "--root"]);
            command.arg(member.deploy_to());
            let name = format!("the app on {}", member.name);
            self.apps.push(Process::spawn(name, command, &member.dir.join("app.log"))?);
        }
        Ok(())
    }

    /// Starts an agent on every node, and does not wait until they are ready.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`], [`DemoError::Process`].
    pub(super) fn start_agents(&mut self) -> Result<(), DemoError> {
        for member in &self.members {
            let config = member.dir.join("agent.toml");
            write(&config, &settings(member, &self.store))?;
            let mut command = own_environment(&self.commands.cutover);
            command.arg("agent").arg("--config").arg(&config).envs(self.store.credentials());
            let name = format!("the agent on {}", member.name);
            self.agents.push(Process::spawn(name, command, &member.dir.join("agent.log"))?);
        }
        Ok(())
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn commands(&self) -> &Commands {
        &self.commands
    }

    pub(super) fn store(&self) -> &DemoStore {
        &self.store
    }

    /// Whether everything still runs.
    ///
    /// # Errors
    ///
    /// [`DemoError::Ended`] names what does not.
    pub(super) fn check_running(&mut self) -> Result<(), DemoError> {
        for (what, processes) in [("app", &mut self.apps), ("agent", &mut self.agents)] {
            for (member, process) in self.members.iter().zip(processes) {
                if let Some(status) = process.ended()? {
                    let name = format!("the {what} on {}", member.name);
                    return Err(DemoError::Ended { name, status, tail: process.log_tail(SHOWN_LINES) });
                }
            }
        }
        Ok(())
    }

    /// The last lines of each agent's log.
    pub(super) fn log_tails(&self, lines: usize) -> Vec<(String, String)> {
        let tail = |(member, agent): (&Member, &Process)| (member.name.clone(), agent.log_tail(lines));
        self.members.iter().zip(&self.agents).map(tail).collect()
    }

    /// Ends everything: the agents in order, so that no hook is left, then the rest at once.
    ///
    /// # Cancel safety
    ///
    /// Safe: dropping the fleet kills what is left.
    pub(super) async fn stop(mut self) {
        for agent in &mut self.agents {
            // One that cannot be asked is killed below.
            _ = agent.signal(Signal::TERM);
        }
        let deadline = tokio::time::Instant::now() + STOP_LIMIT;
        for agent in &mut self.agents {
            // As above.
            _ = agent.wait(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        }
        drop(self);
    }
}

/// An agent's settings file.
fn settings(member: &Member, store: &DemoStore) -> String {
    let Member { name, consul, dir, address, .. } = member;
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let (deploy_to, cache, store) = (quoted(&member.deploy_to()), quoted(&dir.join("cache")), store.settings());
    format!(
        r#"node = "{name}"
[consul]
address = "{consul}"
[store]
{store}[api]
listen = "{address}:{AGENT_PORT}"
[cache]
dir = {cache}
[fetch]
spread = "0s"   # three nodes need not take turns at the store
[deploy."{UNIT}"]
deploy_to = {deploy_to}
prefetch = ["{BRANCH}"]
[deploy."{UNIT}".hooks]
prepare  = {{ command = ["./bin/prepare"], timeout = "10s" }}   # can this node run the build?
switched = {{ command = ["./bin/switched"], timeout = "10s" }}  # the app loads the release
check    = {{ command = ["./bin/check"], timeout = "20s" }}     # is the app healthy? if not, every node goes back
reverted = {{ command = ["./bin/switched"], timeout = "10s" }}
"#
    )
}

fn symlink(target: &Path, link: &Path) -> Result<(), DemoError> {
    std::os::unix::fs::symlink(target, link).map_err(|source| DemoError::file("create the link", link, source))
}

fn json(text: &str) -> Result<Value, DemoError> {
    serde_json::from_str(text).map_err(|error| {
        DemoError::file(
            "read",
            Path::new("consul/watches.json"),
            std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        )
    })
}
