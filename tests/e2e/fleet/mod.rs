//! A fleet to test against: a Consul cluster, a directory as artifact store, and one real `cutover agent` per node.
//!
//! Everything is done by the commands that users have. A fleet takes its processes, mounts and files with it when it
//! is dropped; if that is because a test failed, the ends of all logs are printed first.

pub(crate) mod consul;
pub(crate) mod counters;
pub(crate) mod judge;
pub(crate) mod node;
pub(crate) mod receiver;
pub(crate) mod run;
pub(crate) mod sse;
pub(crate) mod web;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use cutover::artifact::store::S3Credentials;
use cutover_rig::cluster::{Cluster, ClusterSpec, NodeConfig, Place};
use cutover_rig::process::Process;
use cutover_rig::s3::S3Server;
use cutover_rig::slots::{Pool, Slots};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::consul::{Consul, Entry};
use self::judge::{Judge, Watched};
use self::node::Node;
use self::run::{Output, Running};

/// Far beyond what anything here takes on a busy machine; only a hang reaches it.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);
/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(15);
/// Slots for fleets that run at the same time. A fleet is about eight processes, which mostly wait for each other: on the
/// two cores of CI six fleets take a third of the time that two take. `.cargo/config.toml` starts as many tests.
static SLOTS: Pool = Pool::new(6);

/// What the names of all fleets' directories begin with; the process's id follows.
pub(crate) const DIR: &str = "cutover-e2e-";

/// Key and secret of the S3 server, which lives as long as its fleet, on loopback.
const S3_CREDENTIALS: [&str; 2] = ["cutover", "not-a-secret"];

/// The unit that all tests deploy.
pub(crate) const UNIT: &str = "shop/production";
/// Where its keys lie.
pub(crate) const PREFIX: &str = "cutover/shop/production/";

/// What to start.
pub(crate) struct FleetSpec {
    /// How many Consul servers; no agent runs beside them.
    pub(crate) servers: usize,
    /// How many nodes, each with its own Consul client.
    pub(crate) nodes: usize,
    /// Where servers and nodes live; none: on loopback.
    pub(crate) places: Vec<Place>,
    /// More configuration for every Consul agent.
    pub(crate) consul: Vec<NodeConfig>,
    /// Nodes whose agent is not started with the fleet.
    pub(crate) late: &'static [usize],
    pub(crate) acl: bool,
    /// Whether the archives lie on an S3 server, and not in a directory.
    pub(crate) s3: bool,
    /// Under which endpoint the S3 server is known; none: its own.
    pub(crate) endpoint: Option<String>,
    /// Whether Consul watches ring the agents.
    pub(crate) watches: bool,
    /// Whether all four hooks are set, to a script that [`Node::hold`], [`Node::fail`] and [`Node::hook_env`] drive.
    pub(crate) hooks: bool,
    /// More lines for a node's `[deploy."shop/production"]`, from its number and the fleet's directory.
    pub(crate) settings: fn(usize, &Path) -> String,
    /// More lines for every node's `[store]`.
    pub(crate) store: &'static str,
    /// More variables for every agent.
    pub(crate) env: &'static [(&'static str, &'static str)],
    /// Under which program every agent runs, with its arguments; none: under none.
    pub(crate) under: &'static [&'static str],
    /// What becomes of a node's directory before its agent starts.
    pub(crate) furnish: fn(&Fleet, &Node),
    /// How many of the [`SLOTS`] it takes: more than one if something beside it needs much of a core.
    pub(crate) slots: usize,
}

impl Default for FleetSpec {
    fn default() -> Self {
        let settings = |_: usize, _: &Path| String::new();
        let furnish = |_: &Fleet, _: &Node| {};
        let (acl, s3, watches, hooks) = (false, false, false, false);
        let (places, consul) = (Vec::new(), Vec::new());
        let (late, endpoint) = (&[], None);
        let (store, env, under): (_, &[_], &[_]) = ("", &[], &[]);
        Self {
            servers: 1,
            nodes: 3,
            places,
            consul,
            late,
            acl,
            s3,
            endpoint,
            watches,
            hooks,
            settings,
            store,
            env,
            under,
            furnish,
            slots: 1,
        }
    }
}

/// A running fleet.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) consul: Consul,
    pub(crate) dir: TempDir,
    /// Where the archives lie.
    pub(crate) store: PathBuf,
    /// The first nodes of the cluster are servers; the others are those of `nodes`.
    servers: usize,
    cluster: Option<Cluster>,
    s3: Option<S3Server>,
    endpoint: Option<String>,
    env: &'static [(&'static str, &'static str)],
    under: &'static [&'static str],
    runtime: Runtime,
    undo: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    _slots: Slots,
}

/// A published build.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) artifact: String,
    pub(crate) commit: String,
}

/// Waits for an answer, looking again and again.
pub(crate) fn wait_until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// The Consul binary, or a failure that says what to do.
pub(crate) fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/get-consul");
        let output = Command::new(script).output().expect("scripts/get-consul does not run");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "these tests need a Consul binary: {talk}");
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

impl Fleet {
    /// Starts the cluster and the agents, and waits until each is a registered node.
    pub(crate) fn start(spec: &FleetSpec) -> Self {
        let slots = SLOTS.take(spec.slots);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::Builder::new().prefix(&format!("{DIR}{}-", std::process::id())).tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let servers = spec.servers;
        let extra = (0..servers + spec.nodes).map(|index| (index, spec.consul.clone())).collect();
        let shape = ClusterSpec { servers, clients: spec.nodes, acl: spec.acl, extra, places: spec.places.clone() };
        let cluster = runtime.block_on(Cluster::start(bin(), &dir.path().join("consul"), shape));
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let address = |index: usize| cluster.node(index).unwrap().http_addr().trim_start_matches("http://").to_owned();
        let token = cluster.management_token().map(|token| token.expose().to_owned());
        let consul = Consul { address: address(0), token };
        let node = |index: usize| {
            // Where ACLs are on, a node's name is its Consul agent's: the shipped policies have one name for both.
            let name = if spec.acl { format!("n{}", servers + index + 1) } else { format!("web-{}", index + 1) };
            let host = address(servers + index).replace(":8500", "");
            let dir = dir.path().join(&name);
            Node { deploy_to: dir.join("srv"), name, dir, api: format!("{host}:8740"), agent: Mutex::new(None) }
        };
        let nodes: Vec<Node> = (0..spec.nodes).map(node).collect();
        let s3 = spec.s3.then(|| {
            let [access_key, secret_key] = S3_CREDENTIALS.map(str::to_owned);
            let credentials = S3Credentials { access_key, secret_key };
            let server = S3Server::start(Ipv4Addr::LOCALHOST.into(), &store, "builds", &credentials);
            runtime.block_on(server).unwrap_or_else(|error| panic!("{error}"))
        });
        let endpoint = spec.endpoint.clone().or_else(|| s3.as_ref().map(S3Server::endpoint));
        let (cluster, undo) = (Some(cluster), Mutex::default());
        let (env, under) = (spec.env, spec.under);
        let mut fleet = Self {
            nodes,
            consul,
            dir,
            store,
            servers,
            cluster,
            s3,
            endpoint,
            env,
            under,
            runtime,
            undo,
            _slots: slots,
        };
        for index in 0..spec.nodes {
            fleet.furnish(index, spec);
        }
        for index in (0..spec.nodes).filter(|index| !spec.late.contains(index)) {
            fleet.start_agent(index);
        }
        fleet.wait_for_presence(&(0..spec.nodes).filter(|index| !spec.late.contains(index)).collect::<Vec<_>>());
        fleet
    }

    fn furnish(&mut self, index: usize, spec: &FleetSpec) {
        let node = &self.nodes[index];
        std::fs::create_dir_all(&node.deploy_to).unwrap();
        std::fs::create_dir_all(node.dir.join("ctl")).unwrap();
        node.write_hook();
        (spec.furnish)(self, node);
        if spec.watches {
            let http = json!({"path": format!("http://{}/v1/watch", node.api), "method": "POST"});
            let watch = |kind: &str, key: &str, value: &str| json!({"type": kind, key: value, "handler_type": "http", "http_handler_config": http});
            let watches = json!({"watches": [watch("event", "name", "cutover-build")]});
            let index = self.servers + index;
            let cluster = self.cluster.as_mut().unwrap();
            cluster.add_config(index, "watches", &NodeConfig::Json(watches)).unwrap();
            cluster.reload(index).unwrap();
        }
        let token = self.consul.token.clone();
        let consul = self.cluster.as_ref().unwrap().node(self.servers + index).unwrap().http_addr();
        let node = &self.nodes[index];
        if let Some(token) = token {
            node.set_token(&token);
        }
        node.write_config(index, &consul, &(self.store_settings() + spec.store), spec);
    }

    /// Starts a node's agent, as its unit would.
    pub(crate) fn start_agent(&self, index: usize) {
        let node = &self.nodes[index];
        let place = self.cluster.as_ref().unwrap().node(self.servers + index).unwrap();
        let programs = self.under.iter().copied().chain([env!("CARGO_BIN_EXE_cutover")]).collect::<Vec<_>>();
        let mut command = place.command(programs[0]);
        command.args(&programs[1..]).arg("agent").arg("--config").arg(node.dir.join("cutover.toml"));
        run::clean_env(&mut command, &node.dir);
        command.envs(self.env.iter().copied());
        self.sign(&mut command);
        let process = Process::spawn(format!("agent {}", node.name), command, &node.dir.join("log")).unwrap();
        *node.agent.lock().unwrap() = Some(process);
    }

    /// Waits until these nodes hold their presence with a live session.
    pub(crate) fn wait_for_presence(&self, indexes: &[usize]) {
        if indexes.is_empty() {
            return;
        }
        for &index in indexes {
            let key = format!("nodes/{}", self.nodes[index].name);
            wait_until(LIMIT, &format!("{key} is held by a session"), || {
                assert!(self.nodes[index].is_running(), "the agent of {key} has ended");
                self.entry(&key).filter(|entry| entry.session.is_some())
            });
        }
        wait_until(LIMIT, "somebody coordinates", || self.entry("coordinator").filter(|entry| entry.session.is_some()));
    }

    /// Waits until these nodes have a build staged.
    pub(crate) fn wait_staged(&self, build: &Build) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            self.wait_staged_on(node, build);
        }
    }

    /// Waits until a node has a build staged.
    pub(crate) fn wait_staged_on(&self, node: &Node, build: &Build) {
        wait_until(LIMIT, &format!("{} stages {}", node.name, build.artifact), || {
            let record = self.json(&format!("nodes/{}", node.name))?;
            record["staged"].as_array()?.iter().any(|name| *name == build.artifact.as_str()).then_some(())
        });
    }

    /// Kills a node's agent (SIGKILL).
    pub(crate) fn kill(&self, index: usize) {
        self.nodes[index].agent.lock().unwrap().as_mut().unwrap().kill().unwrap();
    }

    /// Stops a node's agent (SIGTERM), and tells how it ended.
    pub(crate) fn term(&self, index: usize) -> ExitStatus {
        let mut agent = self.nodes[index].agent.lock().unwrap();
        self.runtime.block_on(agent.as_mut().unwrap().stop(LIMIT)).unwrap()
    }

    /// Stops or kills a Consul agent, or starts it again: the server or servers first, then the nodes' own.
    pub(crate) fn with_cluster<T>(&mut self, work: impl AsyncFnOnce(&mut Cluster) -> T) -> T {
        let cluster = self.cluster.as_mut().unwrap();
        self.runtime.block_on(work(cluster))
    }

    /// Makes an ACL token with rules of its own.
    pub(crate) fn token(&self, name: &str, rules: &str) -> String {
        let cluster = self.cluster.as_ref().unwrap();
        self.runtime.block_on(async {
            cluster.create_policy(name, rules).await.unwrap();
            cluster.create_token(name, &[name]).await.unwrap().expose().to_owned()
        })
    }

    /// Makes an ACL token with several policies of its own: names and rules.
    #[allow(dead_code, reason = "of the tests that share this file, only those of the API ask")]
    pub(crate) fn token_with(&self, name: &str, policies: &[(String, String)]) -> String {
        let cluster = self.cluster.as_ref().unwrap();
        self.runtime.block_on(async {
            for (policy, rules) in policies {
                cluster.create_policy(policy, rules).await.unwrap();
            }
            let names: Vec<&str> = policies.iter().map(|(policy, _)| policy.as_str()).collect();
            cluster.create_token(name, &names).await.unwrap().expose().to_owned()
        })
    }

    /// Something to do when the fleet ends, whatever happens.
    pub(crate) fn at_end(&self, undo: impl FnOnce() + Send + 'static) {
        self.undo.lock().unwrap().push(Box::new(undo));
    }

    /// The Consul client of a node.
    pub(crate) fn local_consul(&self, index: usize) -> Consul {
        let address = self.cluster.as_ref().unwrap().node(self.servers + index).unwrap().http_addr();
        Consul { address: address.trim_start_matches("http://").to_owned(), token: self.consul.token.clone() }
    }

    /// Runs `cutover` to its end.
    pub(crate) fn cutover(&self, arguments: &[&str]) -> Output {
        self.begin(arguments).finish()
    }

    /// Runs `cutover` with another token.
    pub(crate) fn cutover_as(&self, token: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_cutover"), arguments);
        command.env("CONSUL_HTTP_TOKEN", token);
        Running::begin(command, self.dir.path()).finish()
    }

    /// Starts `cutover` and lets it run.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Running {
        Running::begin(self.command(env!("CARGO_BIN_EXE_cutover"), arguments), self.dir.path())
    }

    /// Runs `cutover` with something on stdin.
    pub(crate) fn cutover_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        Running::begin_with_input(self.command(env!("CARGO_BIN_EXE_cutover"), arguments), self.dir.path(), input)
            .finish()
    }

    /// Starts `cutover` with a terminal, by `script`; both outputs come as one, and what is written is typed.
    pub(crate) fn begin_on_terminal(&self, arguments: &[&str]) -> (Running, ChildStdin) {
        // A terminal that nobody sits at has neither a size nor a kind. The shell outlives Ctrl-C, so that a test can look at
        // the terminal afterwards.
        let size = "trap : INT; stty rows 24 columns 120; TERM=xterm";
        let line = format!("{size} {} {}", env!("CARGO_BIN_EXE_cutover"), arguments.join(" "));
        let command = self.command("script", &["--quiet", "--return", "--command", &line, "/dev/null"]);
        Running::begin_with_keyboard(command, self.dir.path())
    }

    /// Runs `consul` to its end; it must succeed.
    pub(crate) fn consul(&self, arguments: &[&str]) -> Output {
        let output = Running::begin(self.command(bin(), arguments), self.dir.path()).finish();
        assert_eq!(output.code, 0, "consul {arguments:?}: {output}");
        output
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        run::clean_env(&mut command, self.dir.path());
        command
            .args(arguments)
            .env("CONSUL_HTTP_ADDR", &self.consul.address)
            .env("CUTOVER_STORE", self.store_url())
            .envs(self.consul.token.as_ref().map(|token| ("CONSUL_HTTP_TOKEN", token)));
        self.sign(&mut command);
        command
    }

    fn sign(&self, command: &mut Command) {
        if self.s3.is_some() {
            command.envs(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].into_iter().zip(S3_CREDENTIALS));
        }
    }

    /// What stands under `[store]`.
    fn store_settings(&self) -> String {
        let url = format!("url = \"{}\"\n", self.store_url());
        let Some(endpoint) = &self.endpoint else { return url };
        format!("{url}region = \"eu-west-1\"\nforce_path_style = true\nendpoint = \"{endpoint}\"\n")
    }

    /// Where the S3 server itself listens.
    #[allow(dead_code, reason = "of the tests that share this file, only those with a proxy before the store ask")]
    pub(crate) fn s3_address(&self) -> Option<SocketAddr> {
        self.s3.as_ref().map(S3Server::address)
    }

    fn store_url(&self) -> String {
        if self.s3.is_some() { "s3://builds/archives".to_owned() } else { format!("dir://{}", self.store.display()) }
    }

    /// Publishes a build of `master` whose content and commit follow from `version`.
    pub(crate) fn publish(&self, version: &str) -> Build {
        self.publish_with(version, |_| {})
    }

    /// As [`Fleet::publish`], with more in the tree.
    pub(crate) fn publish_with(&self, version: &str, add: impl FnOnce(&Path)) -> Build {
        self.publish_saying(version, "", add)
    }

    /// As [`Fleet::publish_with`], from a commit with this message, by Bob; from Buildkite, which says both.
    pub(crate) fn publish_saying(&self, version: &str, message: &str, add: impl FnOnce(&Path)) -> Build {
        let tree = self.dir.path().join("build").join(version);
        std::fs::create_dir_all(tree.join("bin")).unwrap();
        std::fs::write(tree.join("version"), version).unwrap();
        std::fs::write(tree.join("bin/app"), format!("#!/bin/sh\necho {version}\n")).unwrap();
        add(&tree);
        let commit = commit_of(version);
        let tree = tree.to_str().unwrap();
        let mut arguments = vec!["publish", "--app", "shop", "--branch", "master", "--commit", &commit, tree];
        if let Some(endpoint) = &self.endpoint {
            arguments.extend(["--store-region", "eu-west-1", "--store-path-style", "--store-endpoint", endpoint]);
        }
        let mut command = self.command(env!("CARGO_BIN_EXE_cutover"), &arguments);
        // There is no git here: without it the same tree, written again, would give other bytes.
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        if !message.is_empty() {
            command.envs([("BUILDKITE_COMMIT", commit.as_str()), ("BUILDKITE_MESSAGE", message)]);
            command.envs([("BUILDKITE_BUILD_AUTHOR", "Bob"), ("BUILDKITE_BUILD_CREATOR", "ann")]);
        }
        let output = Running::begin(command, self.dir.path()).finish();
        assert_eq!(output.code, 0, "publish {version}: {output}");
        Build { artifact: format!("master-{}", &commit[..8]), commit }
    }

    /// Publishes, and waits until every node that runs has it unpacked.
    pub(crate) fn publish_and_stage(&self, version: &str) -> Build {
        let build = self.publish(version);
        self.wait_staged(&build);
        build
    }

    /// Publishes and deploys; the fleet is at rest on it afterwards.
    pub(crate) fn deployed(&self, version: &str) -> Build {
        let build = self.publish_and_stage(version);
        let output = self.cutover(&["deploy", UNIT, &build.artifact]);
        assert_eq!(output.code, 0, "{output}");
        build
    }

    /// A key of the unit, read consistently.
    pub(crate) fn entry(&self, key: &str) -> Option<Entry> {
        self.consul.key(&format!("{PREFIX}{key}")).ok().flatten()
    }

    /// The JSON in a key of the unit.
    pub(crate) fn json(&self, key: &str) -> Option<Value> {
        self.entry(key)?.json()
    }

    /// The newest request that somebody took up; 0 before the first.
    pub(crate) fn newest_epoch(&self) -> u64 {
        self.history().last().map_or(0, |record| record["epoch"].as_u64().unwrap())
    }

    /// Every request's record, oldest first.
    pub(crate) fn history(&self) -> Vec<Value> {
        let (_, entries) = self.consul.keys(&format!("{PREFIX}history/"), "recurse&consistent").unwrap();
        let mut records: Vec<Value> = entries.iter().filter_map(Entry::json).collect();
        records.sort_by_key(|record| record["epoch"].as_u64());
        records
    }

    /// Does what makes a request, and waits for its record to be complete.
    pub(crate) fn outcome_of(&self, ask: impl FnOnce()) -> Value {
        let before = self.newest_epoch();
        ask();
        wait_until(LIMIT, "the request ends", || {
            let newest = self.history().pop()?;
            (newest["epoch"].as_u64()? > before && newest["outcome"].is_string()).then_some(newest)
        })
    }

    /// `consul kv put …/deploy <value>`, to its end.
    pub(crate) fn put_deploy(&self, value: &str) -> Value {
        self.outcome_of(|| {
            self.consul(&["kv", "put", &format!("{PREFIX}deploy"), value]);
        })
    }

    /// Waits until a deploy is in `phase`, and gives the barrier.
    pub(crate) fn wait_phase(&self, phase: &str) -> Value {
        wait_until(LIMIT, &format!("phase {phase}"), || self.json("barrier").filter(|it| it["phase"] == phase))
    }

    /// Fails unless every node runs `version`, in a release of the same name.
    pub(crate) fn assert_all_run(&self, version: &str) -> String {
        let links: Vec<_> = self.nodes.iter().map(Node::current).collect();
        let versions: Vec<_> = self.nodes.iter().map(|node| node.read("current/version")).collect();
        assert!(links.iter().all(|link| *link == links[0] && link.is_some()), "{links:?}");
        assert!(versions.iter().all(|it| it.as_deref() == Some(version)), "{versions:?} instead of {version}");
        links[0].clone().unwrap()
    }

    /// The judge of all nodes.
    pub(crate) fn judge(&self) -> Judge {
        let watched = |node: &Node| Watched { name: node.name.clone(), link: node.deploy_to.join("current") };
        Judge::watch(&self.consul, PREFIX, &self.nodes.iter().map(watched).collect::<Vec<_>>())
    }

    /// Ends a session by Consul's HTTP, as its time would.
    pub(crate) fn end_session(&self, session: &str) {
        let reply = self.consul.call("PUT", &format!("session/destroy/{session}"), b"").unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// Which node coordinates.
    pub(crate) fn coordinator(&self) -> usize {
        wait_until(LIMIT, "somebody coordinates", || {
            let status = self.cutover(&["status", UNIT, "--output", "json"]).json();
            let name = status["coordinator"].as_str()?.to_owned();
            self.nodes.iter().position(|node| node.name == name)
        })
    }

    /// The name of a build's object, as its record has it; after the removal of the record, as it is in the store.
    #[allow(dead_code, reason = "not every test that shares this file looks into the store")]
    pub(crate) fn object(&self, build: &Build) -> String {
        if let Some(record) = self.consul.key(&format!("cutover/shop/builds/{}", build.artifact)).unwrap() {
            return record.json().unwrap()["object"].as_str().unwrap().to_owned();
        }
        let start = format!("{}-", build.artifact);
        let mut names = std::fs::read_dir(self.store.join("shop")).unwrap().map(|entry| entry.unwrap().file_name());
        let is_archive = |name: &str| name.starts_with(&start) && !name.ends_with(".manifest.zst");
        let stored = names.find(|name| is_archive(name.to_str().unwrap()));
        stored.map_or_else(|| format!("{start}removed"), |name| name.into_string().unwrap())
    }

    /// Where the archive of a build lies, in a store that is a directory.
    #[allow(dead_code, reason = "not every test that shares this file looks into the store")]
    pub(crate) fn archive(&self, build: &Build) -> PathBuf {
        self.store.join("shop").join(self.object(build))
    }

    /// Takes the store away: whoever needs it now fails.
    pub(crate) fn hide_store(&self) {
        rustix::fs::rename(&self.store, self.store.with_extension("away")).unwrap();
    }

    /// Takes the store away as an unmount does: its mount point is still there, and empty.
    #[allow(dead_code, reason = "not every test that shares this file takes the store away")]
    pub(crate) fn unmount_store(&self) {
        self.hide_store();
        std::fs::create_dir(&self.store).unwrap();
    }

    /// Brings an unmounted store back. Nothing may have been written to the mount point meanwhile.
    #[allow(dead_code, reason = "not every test that shares this file takes the store away")]
    pub(crate) fn mount_store(&self) {
        std::fs::remove_dir(&self.store).unwrap();
        rustix::fs::rename(self.store.with_extension("away"), &self.store).unwrap();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            for node in &self.nodes {
                let tail = node.log_tail();
                writeln!(text, "--- agent {} (current: {:?}):\n{tail}", node.name, node.current()).unwrap_or_default();
            }
            let status = self.entry("status").map(|it| String::from_utf8_lossy(&it.value).into_owned());
            let barrier = self.entry("barrier").map(|it| String::from_utf8_lossy(&it.value).into_owned());
            eprintln!("{text}--- status: {status:?}\n--- barrier: {barrier:?}");
        }
        for node in &self.nodes {
            // Its lock is poisoned only when a test has failed while it held it.
            node.agent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        }
        for undo in self.undo.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..).rev() {
            undo();
        }
        let _in_runtime = self.runtime.enter();
        self.cluster = None;
        self.s3 = None;
    }
}

/// 40 hex digits that follow from a text, different from the first digit on.
pub(crate) fn commit_of(version: &str) -> String {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    let mut hex = String::new();
    for round in 0..3_u8 {
        for byte in version.bytes().chain([round]) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        write!(hex, "{:016x}", state ^ (state >> 29)).unwrap();
    }
    hex.truncate(40);
    hex
}
