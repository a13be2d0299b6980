//! Publishers that are held, killed, interrupted or asked to slow down, against a real S3 server and Consul.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{fs, path::Path};

use cutover::artifact::store::S3Credentials;
use cutover::consul::Consistency;
use cutover::control::Code;
use cutover::protocol::ids::App;
use cutover::protocol::keys::Keys;
use cutover::protocol::record::{Build, decode};
use cutover_rig::s3::S3Server;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Fleet, LIMIT, consul, ends};

const SHA: &str = "15e9f13a00000000000000000000000000000000";
const ARTIFACT: &str = "master-15e9f13a";
/// What the names of the two branches reduce to.
const SHORT: &str = "feature-x-15e9f13a";
const OF_DASH: &str = "feature-x-c791eb-15e9f13a";
const OF_SLASH: &str = "feature-x-217d2b-15e9f13a";
const BUCKET: &str = "artifacts";
/// Above the number of requests that a publisher sends.
const MOST_STEPS: usize = 60;
/// More than one part of an upload.
const LARGE_BYTES: usize = 17 << 20;

/// The request that is held.
#[derive(Clone, Copy)]
enum Held {
    Nth(usize),
    Containing(&'static str),
}

/// Stands before several servers, and holds one request on its way.
struct Gate {
    held: Held,
    count: AtomicUsize,
    arrived: watch::Sender<bool>,
    opened: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Gate {
    fn new(held: Held) -> Arc<Self> {
        let (arrived, opened) = (watch::Sender::new(false), watch::Sender::new(false));
        Arc::new(Self { held, count: AtomicUsize::new(0), arrived, opened, tasks: Mutex::default() })
    }

    /// The address of a way through the gate.
    async fn before(self: &Arc<Self>, upstream: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::clone(self);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.pass(client, upstream).await });
            }
        });
        self.tasks.lock().unwrap().push(task);
        address
    }

    async fn pass(&self, client: TcpStream, upstream: SocketAddr) {
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        // What a client sends after an answer is its next request.
        let is_answered = AtomicBool::new(true);
        let upward = async {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                if is_answered.swap(false, Ordering::SeqCst) && self.holds(&buffer[..read]) {
                    self.arrived.send_replace(true);
                    let mut opened = self.opened.subscribe();
                    let _gone = opened.wait_for(|is_open| *is_open).await;
                }
                if to_server.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        };
        let downward = async {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                is_answered.store(true, Ordering::SeqCst);
                if to_client.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = upward => {}
            () = downward => {}
        }
    }

    fn holds(&self, request: &[u8]) -> bool {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        match self.held {
            Held::Nth(n) => n == count,
            Held::Containing(text) => String::from_utf8_lossy(request).contains(text) && !*self.arrived.borrow(),
        }
    }

    fn open(&self) {
        self.opened.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

/// What is published: a tree with other bytes than the other one, as the build of a branch.
#[derive(Clone, Copy)]
struct Tree {
    name: &'static str,
    branch: &'static str,
}

const ONE: Tree = Tree { name: "one", branch: "master" };
const TWO: Tree = Tree { name: "two", branch: "master" };
/// Two branches with one short name, and the same bytes.
const DASH: Tree = Tree { name: "one", branch: "feature-x" };
const SLASH: Tree = Tree { name: "one", branch: "feature/x" };

/// A bucket, and builds of one commit.
struct Shop {
    fleet: Arc<Fleet>,
    server: S3Server,
    dir: TempDir,
    app: App,
}

impl Shop {
    async fn open(app: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("one", "one"), ("two", "two, with other bytes")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("index.html"), content).unwrap();
        }
        let keys = S3Credentials { access_key: "test".to_owned(), secret_key: "secret".to_owned() };
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = S3Server::start(local, &dir.path().join("s3"), BUCKET, &keys).await.unwrap();
        Self { fleet: consul().await, server, dir, app: app.parse().unwrap() }
    }

    /// Adds a file to the first tree that no compressor shrinks. With [`LARGE_BYTES`], its archive is uploaded in parts, while it
    /// is packed.
    fn add_noise(&self, bytes: usize) {
        let mut noise = vec![0; bytes];
        fastrand::Rng::with_seed(7).fill(&mut noise);
        fs::write(self.dir.path().join("one/noise"), noise).unwrap();
    }

    fn publisher(&self, tree: Tree, consul: Option<SocketAddr>, s3: Option<SocketAddr>) -> Command {
        let endpoint = format!("http://{}", s3.unwrap_or(self.server.address()));
        let dir = self.dir.path().join(tree.name).display().to_string();
        let args = ["publish", "--app", self.app.as_str(), &dir, "--branch", tree.branch, "--commit", SHA];
        let store = ["--store", "s3://artifacts/builds", "--store-endpoint", &endpoint, "--store-path-style"];
        let mut command = self.fleet.cutover(&[&args[..], &store].concat());
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "secret").env("TMPDIR", self.dir.path());
        if let Some(consul) = consul {
            command.env("CONSUL_HTTP_ADDR", consul.to_string());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Begins a publisher whose requests go through the gate. It is held, or has ended.
    async fn begin(&self, tree: Tree, gate: &Arc<Gate>) -> Publisher {
        let consul = self.fleet.cluster.node(0).unwrap().http_addr();
        let consul = consul.trim_start_matches("http://").parse().unwrap();
        let (consul, s3) = (gate.before(consul).await, gate.before(self.server.address()).await);
        let child = self.publisher(tree, Some(consul), Some(s3)).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let mut arrived = gate.arrived.subscribe();
        let is_held = tokio::time::timeout(LIMIT, async {
            tokio::select! {
                _ = arrived.wait_for(|has_arrived| *has_arrived) => None,
                output = &mut ended => Some(output.unwrap()),
            }
        });
        match is_held.await.unwrap() {
            None => Publisher { pid, ended: Ok(ended) },
            Some(output) => Publisher { pid, ended: Err(output) },
        }
    }

    /// The records, by their names.
    async fn records(&self) -> Vec<Build> {
        let first = Keys::default().build(&self.app, &"x".parse().unwrap());
        let entries = self.fleet.client().kv_list(first.trim_end_matches('x'), Consistency::Consistent).await.unwrap();
        entries.iter().map(|entry| decode(&entry.key, &entry.value).unwrap()).collect()
    }

    /// The names of all objects, sorted.
    fn objects(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.path().join("s3").join(BUCKET).join("builds").join(self.app.as_str()))
        else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The records of these artifacts and of no other, and their archives, lists of files and no other objects, exist and fit.
    async fn assert_fits(&self, step: usize, artifacts: &[&str]) {
        let builds = self.records().await;
        let names: Vec<&str> = builds.iter().map(|build| build.artifact.as_str()).collect();
        assert_eq!(names, artifacts, "step {step}");
        let root = self.dir.path().join("s3").join(BUCKET).join("builds");
        let mut objects = Vec::new();
        for build in &builds {
            let object = build.object.as_ref().unwrap().as_str();
            let bytes = fs::read(root.join(self.app.as_str()).join(object));
            let bytes = bytes.unwrap_or_else(|error| panic!("step {step}: a record names {object}: {error}"));
            assert_eq!(hex::encode(Sha256::digest(bytes)), build.sha256.as_str(), "step {step}");
            let list = format!("{object}.manifest.zst");
            let text = fs::read(root.join(self.app.as_str()).join(&list));
            let text = text.unwrap_or_else(|error| panic!("step {step}: {list} is missing: {error}"));
            let text = zstd::decode_all(&*text).unwrap();
            let recorded = build.manifest.as_ref().unwrap();
            assert_eq!(hex::encode(Sha256::digest(&text)), recorded.sha256.as_str(), "step {step}");
            objects.extend([object.to_owned(), list]);
        }
        objects.sort();
        assert_eq!(self.objects(), objects, "step {step}: what has no record is removed");
    }

    /// CI begins the build of a branch, which takes its name.
    async fn start(&self, branch: &str) {
        let args = ["build", "start", self.app.as_str(), "--branch", branch, "--commit", SHA];
        ends(self.fleet.cutover(&args), Code::Done).await;
    }
}

/// A publisher at a request, or its output if it sent fewer.
struct Publisher {
    pid: Pid,
    ended: Result<JoinHandle<Output>, Output>,
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// Holds a publisher at each request while another one publishes, and lets it go on then.
async fn race(name: &str, [one, other]: [Tree; 2], check: impl AsyncFn(&Shop, usize, Output, Output)) {
    for step in 0..MOST_STEPS {
        let shop = Shop::open(&format!("{name}-{step}")).await;
        let gate = Gate::new(Held::Nth(step));
        let held = shop.begin(one, &gate).await;
        let Ok(first) = held.ended else {
            assert!(step > 8, "it was held at {step} requests only");
            return;
        };
        let second = shop.publisher(other, None, None);
        let second = tokio::task::spawn_blocking(move || { second }.output().unwrap()).await.unwrap();
        gate.open();
        let first = tokio::time::timeout(LIMIT, first).await.unwrap().unwrap();
        check(&shop, step, first, second).await;
    }
    panic!("a publisher sends more than {MOST_STEPS} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_held_at_any_step_agrees_with_another_one_of_the_same_bytes() {
    race("race-same", [ONE, ONE], async |shop, step, first, second| {
        assert_eq!((code(&first), code(&second)), (0, 0), "step {step}: {}{}", text(&first), text(&second));
        shop.assert_fits(step, &[ARTIFACT]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_held_at_any_step_never_breaks_the_build_of_another_one_with_other_bytes() {
    race("race-other", [ONE, TWO], async |shop, step, first, second| {
        let (first_text, second_text) = (text(&first), text(&second));
        let lost = match (code(&first), code(&second)) {
            (0, 1) => second_text,
            (1, 0) => first_text,
            codes => panic!("step {step}: {codes:?}: {first_text}{second_text}"),
        };
        assert!(lost.contains("is published already with different content"), "step {step}: {lost}");
        shop.assert_fits(step, &[ARTIFACT]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_held_at_any_step_gets_its_own_name_if_another_branch_takes_the_short_one() {
    race("race-name", [SLASH, DASH], async |shop, step, first, second| {
        assert_eq!((code(&first), code(&second)), (0, 0), "step {step}: {}{}", text(&first), text(&second));
        // Whoever records first has the short name.
        let builds = shop.records().await;
        let has_short = builds.iter().find(|build| build.artifact.as_str() == SHORT).unwrap();
        let distinct = if has_short.branch.as_str() == SLASH.branch { OF_DASH } else { OF_SLASH };
        shop.assert_fits(step, &[SHORT, distinct]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_loses_its_name_to_a_started_build_never_removes_the_archive_of_that_build() {
    for step in 0..MOST_STEPS {
        let shop = Shop::open(&format!("race-start-{step}")).await;
        // It found the short name free, and will upload the same bytes for it.
        let loser_gate = Gate::new(Held::Containing("PUT /artifacts/"));
        let loser = shop.begin(SLASH, &loser_gate).await.ended.unwrap();
        shop.start(DASH.branch).await;
        let gate = Gate::new(Held::Nth(step));
        let Ok(owner) = shop.begin(DASH, &gate).await.ended else {
            assert!(step > 8, "it was held at {step} requests only");
            return;
        };
        loser_gate.open();
        let loser = tokio::time::timeout(LIMIT, loser).await.unwrap().unwrap();
        gate.open();
        let owner = tokio::time::timeout(LIMIT, owner).await.unwrap().unwrap();
        assert_eq!((code(&owner), code(&loser)), (0, 0), "step {step}: {}{}", text(&owner), text(&loser));
        shop.assert_fits(step, &[SHORT, OF_SLASH]).await;
    }
    panic!("a publisher sends more than {MOST_STEPS} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_publisher_was_killed_at_any_step_publishing_again_succeeds() {
    for step in 0..MOST_STEPS {
        let shop = Shop::open(&format!("race-kill-{step}")).await;
        let gate = Gate::new(Held::Nth(step));
        let held = shop.begin(ONE, &gate).await;
        let Ok(first) = held.ended else {
            assert!(step > 8, "it was held at {step} requests only");
            return;
        };
        kill_process(held.pid, Signal::KILL).unwrap();
        first.await.unwrap();
        drop(gate);
        ends(shop.publisher(ONE, None, None), Code::Done).await;
        shop.assert_fits(step, &[ARTIFACT]).await;
    }
    panic!("a publisher sends more than {MOST_STEPS} requests");
}

/// The requests of an upload in parts: its begin, two parts, and its end.
const OF_PARTS: [&str; 4] = ["POST /artifacts/", "partNumber=1", "partNumber=2", ".tar.zst?uploadId="];

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_held_or_killed_at_any_part_agrees_with_another_one_of_the_same_bytes() {
    for (step, request) in OF_PARTS.into_iter().enumerate() {
        let shop = Shop::open(&format!("race-parts-{step}")).await;
        shop.add_noise(LARGE_BYTES);
        let (held_gate, killed_gate) = (Gate::new(Held::Containing(request)), Gate::new(Held::Containing(request)));
        let held =
            shop.begin(ONE, &held_gate).await.ended.unwrap_or_else(|output| panic!("{request}: {}", text(&output)));
        let killed = shop.begin(ONE, &killed_gate).await;
        kill_process(killed.pid, Signal::KILL).unwrap();
        killed.ended.unwrap_or_else(|output| panic!("{request}: {}", text(&output))).await.unwrap();
        drop(killed_gate);
        ends(shop.publisher(ONE, None, None), Code::Done).await;
        held_gate.open();
        let held = tokio::time::timeout(LIMIT, held).await.unwrap().unwrap();
        assert_eq!(code(&held), 0, "{request}: {}", text(&held));
        shop.assert_fits(step, &[ARTIFACT]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_stop_an_upload_and_leave_nothing() {
    // Small archives are sent in one request, larger ones in parts. The list of files follows.
    let sizes =
        [("in-one", "PUT /artifacts/", 10), ("in-parts", "partNumber=1", LARGE_BYTES), ("list", ".manifest.zst", 10)];
    for ((name, request, bytes), signal) in sizes.into_iter().zip([Signal::TERM, Signal::INT, Signal::TERM]) {
        let shop = Shop::open(&format!("race-signal-{name}")).await;
        shop.add_noise(bytes);
        let gate = Gate::new(Held::Containing(request));
        let held = shop.begin(ONE, &gate).await;
        let first = held.ended.unwrap_or_else(|output| panic!("{name}: {}", text(&output)));
        kill_process(held.pid, signal).unwrap();
        let first = tokio::time::timeout(LIMIT, first).await.unwrap().unwrap();
        let said = text(&first);
        assert_eq!(code(&first), 1, "{name}: {said}");
        assert!(said.contains("stopping") && said.contains("interrupted: nothing was published"), "{name}: {said}");
        assert_eq!(shop.objects(), Vec::<String>::new(), "{name}");
        let left = |dir: &Path, part: &str| {
            let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.contains(part)).collect::<Vec<_>>()
        };
        assert!(left(&shop.dir.path().join("s3"), "upload").is_empty(), "{name}: parts stay in the bucket");
        assert!(left(shop.dir.path(), "cutover-").is_empty(), "{name}: the packed archive stays");
        ends(shop.publisher(ONE, None, None), Code::Done).await;
        shop.assert_fits(0, &[ARTIFACT]).await;
    }
}

/// A way to a server on which the first uploads are refused with `SlowDown`.
async fn slowed_down(upstream: SocketAddr, mut refusals: usize) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = [0; 4];
            if client.peek(&mut head).await.unwrap_or(0) == 4 && &head == b"PUT " && refusals > 0 {
                refusals -= 1;
                let answer = "HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 36\r\n\r\n";
                client.write_all(format!("{answer}<Error><Code>SlowDown</Code></Error>").as_bytes()).await.unwrap();
                let _gone = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
                continue;
            }
            let mut server = TcpStream::connect(upstream).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (address, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_to_slow_down_is_waited_for_and_that_is_said_once() {
    let shop = Shop::open("race-slow-down").await;
    let (address, task) = slowed_down(shop.server.address(), 2).await;
    let mut command = shop.publisher(ONE, None, Some(address));
    command.env("AWS_MAX_ATTEMPTS", "1").env("AWS_RETRY_MODE", "legacy");
    let said = ends(command, Code::Done).await.stderr;
    assert_eq!(said.matches("the store asks to slow down; waiting for up to a minute").count(), 1, "{said}");
    assert!(said.contains("note: AWS_RETRY_MODE=legacy is ignored"), "{said}");
    shop.assert_fits(0, &[ARTIFACT]).await;
    task.abort();
}
