//! The fleet: Consul, a store, and on every node an app and a cutover agent. Each a process, all in one directory.
//!
//! ```text
//! <dir>/consul/n1/          a Consul agent's configuration, data and log
//! <dir>/store/              the artifact store
//! <dir>/builds/1/           what "CI" has built
//! <dir>/n1/agent.toml       the cutover agent's settings; agent.log, app.log
//! <dir>/n1/cache/           its downloads
//! <dir>/n1/shop/            deploy_to: current, releases/, shared/
//! ```
//!
//! Dropping a [`Fleet`] kills everything; [`Fleet::stop`] ends the agents in order first, so that no hook outlives them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use super::StoreKind;
use super::builds::{create, write};
use super::cluster::{Cluster, ClusterSpec, NodeConfig};
use super::commands::{Commands, own_environment};
use super::error::DemoError;
use super::process::Process;
#[cfg(feature = "s3-server")]
use super::s3::S3Server;
use crate::artifact::store::S3Credentials;

/// Where the S3 server of the demo keeps archives.
#[cfg(feature = "s3-server")]
const BUCKET: &str = "artifacts";
/// What the S3 server of the demo calls its region; it takes any.
const REGION: &str = "us-east-1";
/// The cutover agent's own port.
const AGENT_PORT: u16 = 8740;
/// How long agents may take to stop: a switch under way is finished, and hooks get 5 s between TERM and KILL.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How many lines of a log an error shows.
const SHOWN_LINES: usize = 12;
/// The watch that every node's Consul agent gets, as it is shipped.
const WATCHES: &str = include_str!("../../consul/watches.json");
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
    /// What it holds of the demo.
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

/// Where archives lie.
#[derive(Debug)]
struct Store {
    dir: PathBuf,
    url: String,
    /// An S3 server's address.
    endpoint: Option<String>,
    #[cfg(feature = "s3-server")]
    _server: Option<S3Server>,
}

/// A running fleet.
#[derive(Debug)]
pub(super) struct Fleet {
    // Fields are dropped in this order: whoever needs Consul goes before it.
    agents: Vec<Process>,
    apps: Vec<Process>,
    _cluster: Cluster,
    store: Store,
    members: Vec<Member>,
    commands: Commands,
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
        let store = Store::open(&dir.join("store"), kind).await?;
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
        let cutover =
            std::env::current_exe().map_err(|source| DemoError::Command { line: "cutover".to_owned(), source })?;
        let mut variables = store.variables();
        // Any node's would do; commands need no cutover agent beside them.
        variables.insert("CONSUL_HTTP_ADDR", members.first().map(|m| m.consul.clone()).unwrap_or_default());
        let commands = Commands { cutover, consul, variables, dir: dir.to_owned() };
        Ok(Self { agents: Vec::new(), apps: Vec::new(), _cluster: cluster, store, members, commands })
    }

    /// Starts an app on every node, and does not wait until they listen.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`], [`DemoError::Process`].
    pub(super) fn start_apps(&mut self) -> Result<(), DemoError> {
        for member in &self.members {
            create(&member.shared())?;
            // For the check hook, which gets no PATH to this binary.
            let link = member.shared().join("cutover");
            std::os::unix::fs::symlink(&self.commands.cutover, &link)
                .map_err(|source| DemoError::file("create the link", &link, source))?;
            write(&member.shared().join("schema.txt"), "1\n")?;
            let mut command = own_environment(&self.commands.cutover);
            command.args(["demo-app", "serve", "--listen", &format!("{}:0", member.address), "--root"]);
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

    /// Where archives lie, as URL.
    pub(super) fn store_url(&self) -> String {
        self.store.endpoint.as_ref().map_or_else(|| self.store.url.clone(), |at| format!("{} at {at}", self.store.url))
    }

    /// What `cutover publish` needs to be told beside `CUTOVER_STORE`.
    pub(super) fn store_flags(&self) -> Vec<&str> {
        let endpoint = self.store.endpoint.iter().map(String::as_str);
        endpoint.flat_map(|endpoint| ["--store-endpoint", endpoint, "--store-path-style"]).collect()
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

    /// Takes the store away, so that nothing can be fetched.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`].
    pub(super) fn hide_store(&self) -> Result<(), DemoError> {
        rename(&self.store.dir, &hidden(&self.store.dir))
    }

    /// Brings the store back.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`].
    pub(super) fn bring_store_back(&self) -> Result<(), DemoError> {
        rename(&hidden(&self.store.dir), &self.store.dir)
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

impl Store {
    #[cfg_attr(
        not(feature = "s3-server"),
        expect(clippy::unused_async, reason = "the S3 server is started by waiting")
    )]
    async fn open(dir: &Path, kind: StoreKind) -> Result<Self, DemoError> {
        create(dir)?;
        match kind {
            StoreKind::Directory => Ok(Self {
                url: format!("dir://{}", dir.display()),
                dir: dir.to_owned(),
                endpoint: None,
                #[cfg(feature = "s3-server")]
                _server: None,
            }),
            #[cfg(feature = "s3-server")]
            StoreKind::S3 => {
                let server = S3Server::start(Ipv4Addr::LOCALHOST.into(), dir, BUCKET, &keys()).await?;
                let (url, endpoint) = (format!("s3://{BUCKET}/builds"), Some(server.endpoint()));
                Ok(Self { url, dir: dir.to_owned(), endpoint, _server: Some(server) })
            }
            #[cfg(not(feature = "s3-server"))]
            StoreKind::S3 => Err(DemoError::NoS3Server),
        }
    }

    /// What a user would export to publish.
    fn variables(&self) -> BTreeMap<&'static str, String> {
        let mut variables = self.credentials();
        variables.insert("CUTOVER_STORE", self.url.clone());
        variables
    }

    /// What an S3 client finds in its environment.
    fn credentials(&self) -> BTreeMap<&'static str, String> {
        if self.endpoint.is_none() {
            return BTreeMap::new();
        }
        let S3Credentials { access_key, secret_key } = keys();
        let region = REGION.to_owned();
        BTreeMap::from([
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
            ("AWS_REGION", region),
        ])
    }
}

/// Guards a server on loopback that holds random digits, for a minute.
fn keys() -> S3Credentials {
    S3Credentials { access_key: "demo".to_owned(), secret_key: "demo-secret".to_owned() }
}

/// An agent's settings file.
fn settings(member: &Member, store: &Store) -> String {
    let Member { name, consul, dir, address, .. } = member;
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let [url, deploy_to, cache] =
        [store.url.clone(), text(&member.deploy_to()), text(&dir.join("cache"))].map(|text| quoted(&text));
    let endpoint = store.endpoint.as_ref().map_or_else(String::new, |endpoint| {
        format!("region = \"{REGION}\"\nendpoint = {}\nforce_path_style = true\n", quoted(endpoint))
    });
    format!(
        r#"node = "{name}"
[consul]
address = "{consul}"
[store]
url = {url}
{endpoint}[api]
listen = "{address}:{AGENT_PORT}"
[cache]
dir = {cache}
[deploy."{UNIT}"]
deploy_to = {deploy_to}
prefetch = ["{BRANCH}"]
[deploy."{UNIT}".hooks]
prepare  = {{ command = ["./bin/prepare"], timeout = "10s" }}   # may this node say yes?
switched = {{ command = ["./bin/switched"], timeout = "10s" }}  # the app loads the release
check    = {{ command = ["./bin/check"], timeout = "20s" }}     # is it well? if not, everyone goes back
reverted = {{ command = ["./bin/switched"], timeout = "10s" }}
"#
    )
}

fn text(path: &Path) -> String {
    path.display().to_string()
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

fn hidden(dir: &Path) -> PathBuf {
    dir.with_extension("away")
}

fn rename(from: &Path, to: &Path) -> Result<(), DemoError> {
    rustix::fs::rename(from, to).map_err(|source| DemoError::file("rename", from, source.into()))
}

/// Finds a Consul binary: `$CONSUL_BIN`, `consul` on `PATH`, else what `scripts/get-consul` of the repository that this
/// binary was built in fetches.
///
/// # Errors
///
/// [`DemoError::NoConsul`] says what to do.
///
/// # Cancel safety
///
/// Safe: the script is killed, and begins again the next time.
pub(super) async fn find_consul() -> Result<PathBuf, DemoError> {
    if let Some(bin) = std::env::var_os("CONSUL_BIN").filter(|bin| !bin.is_empty()) {
        return absolute(Path::new(&bin)).ok_or_else(|| DemoError::NoConsul {
            tried: format!("CONSUL_BIN is {}, which is no file", bin.display()),
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("consul")).find_map(|bin| absolute(&bin));
    if let Some(bin) = on_path {
        return Ok(bin);
    }
    let tried = |more: &str| DemoError::NoConsul { tried: format!("CONSUL_BIN is not set, none on PATH, {more}") };
    let exe = std::env::current_exe().map_err(|source| DemoError::Command { line: "cutover".to_owned(), source })?;
    let script = exe.ancestors().map(|dir| dir.join("scripts/get-consul")).find(|script| script.is_file());
    let Some(script) = script else { return Err(tried("and no scripts/get-consul near this binary")) };
    let mut command = Command::new(&script);
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).process_group(0);
    let output = command.output().await;
    let output = output.map_err(|source| DemoError::Command { line: text(&script), source })?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    absolute(Path::new(&found))
        .filter(|_| output.status.success())
        .ok_or_else(|| tried(&format!("and {} has not found one", script.display())))
}

fn absolute(bin: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(bin).ok().filter(|bin| bin.is_file())
}
