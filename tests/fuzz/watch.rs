//! Sends any bytes as what a Consul watch sends: to the agent's `/v1/watch`, and as Consul's answer to a query.
//!
//! `/v1/watch` accepts JSON and refuses everything else; each accepted payload wakes the agent exactly once. An answer
//! of Consul is read or refused, and never stops the client from reading the next one.
#![no_main]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use cutover::api::stream::Hub;
use cutover::api::{Api, Host, Listener, Parts, serve};
use cutover::config;
use cutover::consul::{Client, Consistency, Settings};
use cutover::metrics::Metrics;
use cutover::protocol::ids::Unit;
use cutover::protocol::keys::Keys;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Beyond this the agent refuses the body by its size.
const MAX_BODY_BYTES: usize = 1 << 20;
/// A good answer, to show that the client still reads.
const GOOD: &[u8] = b"[{\"Key\":\"cutover/a\",\"Value\":\"YQ==\",\"ModifyIndex\":7,\"CreateIndex\":7,\"Flags\":0}]";

static RINGS: AtomicUsize = AtomicUsize::new(0);
static RIG: LazyLock<Rig> = LazyLock::new(Rig::start);

fuzz_target!(|input: &[u8]| {
    if input.len() > MAX_BODY_BYTES {
        return;
    }
    let before = RINGS.load(Ordering::SeqCst);
    let status = RIG.post(input);
    let is_json = serde_json::from_slice::<IgnoredAny>(input).is_ok();
    assert_eq!(status, if is_json { 204 } else { 400 });
    assert_eq!(RINGS.load(Ordering::SeqCst) - before, usize::from(is_json));
    RIG.answer(input);
});

struct Rig {
    agent: SocketAddr,
    connection: Mutex<Option<BufReader<TcpStream>>>,
    consul: Client,
    body: Arc<Mutex<Vec<u8>>>,
    runtime: Runtime,
}

/// An agent that counts how often it is woken.
#[derive(Debug)]
struct Counting;

impl Host for Counting {
    fn ring(&self) {
        RINGS.fetch_add(1, Ordering::SeqCst);
    }

    fn units(&self) -> Vec<Unit> {
        Vec::new()
    }

    fn waiting(&self) -> Vec<Unit> {
        Vec::new()
    }
}

impl Rig {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let body = Arc::new(Mutex::new(Vec::new()));
        let consul = fake_consul(Arc::clone(&body));
        let consul = Client::new(&Settings { address: consul.to_string(), ..Settings::default() });
        let consul = consul.expect("the address is one");
        let agent = runtime.block_on(agent(consul.clone()));
        Self { agent, connection: Mutex::new(None), consul, body, runtime }
    }

    /// Sends the payload, and gives the status.
    fn post(&self, payload: &[u8]) -> u16 {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // An agent closes the connection after a refusal; the next payload then has another.
        for _ in 0..2 {
            let stream = match connection.take() {
                Some(stream) => stream,
                None => BufReader::new(TcpStream::connect(self.agent).expect("the agent listens")),
            };
            if let Some((status, stream)) = exchange(stream, payload) {
                *connection = stream;
                return status;
            }
        }
        panic!("the agent does not answer");
    }

    /// Has Consul answer with the payload, and then with a good answer.
    fn answer(&self, payload: &[u8]) {
        let read = |body: &[u8]| {
            *self.body.lock().unwrap_or_else(PoisonError::into_inner) = body.to_vec();
            self.runtime.block_on(self.consul.kv_list("cutover/", Consistency::Default))
        };
        // Either way: it is read or refused.
        drop(read(payload));
        let entries = read(GOOD).expect("a good answer is read");
        assert_eq!(entries.len(), 1);
    }
}

/// One request on a connection: the status, and the connection if it stays open.
fn exchange(mut stream: BufReader<TcpStream>, payload: &[u8]) -> Option<(u16, Option<BufReader<TcpStream>>)> {
    let head = format!("POST /v1/watch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", payload.len());
    let sent = stream.get_mut().write_all(&[head.as_bytes(), payload].concat());
    sent.ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let (mut length, mut is_open) = (0_usize, true);
    loop {
        line.clear();
        stream.read_line(&mut line).ok()?;
        let lower = line.trim().to_ascii_lowercase();
        match lower.split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(("connection", value)) => is_open = value.trim() != "close",
            Some(_) => {}
            None => break,
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some((status, is_open.then_some(stream)))
}

async fn agent(own: Client) -> SocketAddr {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = dir.path().join("cutover.toml");
    // An address of this process alone: the fuzzer may run several.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = SocketAddr::from(([127, 64 | high & 63, middle, low], 8740));
    std::fs::write(&file, format!("node = \"n1\"\n[api]\nlisten = \"{address}\"\n")).expect("the file can be written");
    let settings = config::Settings::load(&file, |_| None).expect("the settings are right").api;
    let listener = Listener::bind(&settings).await.expect("a port is free");
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let api = Api::new(Parts {
        own,
        keys: Keys::default(),
        store: None,
        settings,
        node: "n1".parse().expect("it is a name"),
        host: Box::new(Counting),
        chat: None,
        hub: Hub::new(shutdown.clone(), tasks.clone()),
        metrics: Arc::new(Metrics::new("fuzz", "fuzz")),
        tasks,
    });
    tokio::spawn(serve(listener, Arc::new(api), shutdown));
    address
}

/// A Consul that answers every request with the same body.
fn fake_consul(body: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let body = Arc::clone(&body);
            std::thread::spawn(move || converse(BufReader::new(stream), &body));
        }
    });
    address
}

fn converse(mut stream: BufReader<TcpStream>, body: &Mutex<Vec<u8>>) -> Option<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            let body = body.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let head = format!("HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).ok()?;
        }
    }
}
