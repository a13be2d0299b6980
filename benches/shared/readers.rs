//! Many open streams in a separate process: this program, started with the agents' addresses.
//!
//! The processes exchange lines: `open 500`, `end <epoch>`, `close`, each answered by one line when done.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::fleet::{LIMIT, UNIT};

/// The variable that passes the agents' addresses to the reader process.
const ADDRESSES: &str = "CUTOVER_BENCH_READERS";
/// The polling interval for the streams.
const LOOK: Duration = Duration::from_millis(5);

/// The reader process, as seen by the benchmark.
pub(crate) struct Readers {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Readers {
    pub(crate) fn start(addresses: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ADDRESSES, addresses.join(",")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (ask, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, ask, answers }
    }

    /// Opens `count` streams, and waits for the snapshot of each.
    pub(crate) fn open(&mut self, count: usize) {
        self.ask(&format!("open {count}"));
    }

    /// Waits until every stream has the end of this deploy. Returns the number of events since the snapshots.
    pub(crate) fn wait_for_end_of(&mut self, epoch: u64) -> usize {
        self.ask(&format!("end {epoch}")).parse().unwrap()
    }

    pub(crate) fn close(&mut self) {
        self.ask("close");
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.ask, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the readers have ended at {line:?}");
        answer.trim().to_owned()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// The addresses to read from, if this process is the reader process.
pub(crate) fn asked_for() -> Option<Vec<String>> {
    Some(std::env::var(ADDRESSES).ok()?.split(',').map(str::to_owned).collect())
}

/// The data received on one stream.
#[derive(Default)]
struct Received {
    /// The newest document, as received.
    newest: Vec<u8>,
    documents: usize,
}

type Shared = Arc<Mutex<Received>>;

/// Reads until stdin ends.
pub(crate) fn serve(addresses: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut tasks, mut streams) = (JoinSet::new(), Vec::new());
    runtime.block_on(async {
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(tokio::io::stdin()));
        while let Some(line) = lines.next_line().await.unwrap() {
            let answer = match line.split_once(' ') {
                Some(("open", count)) => {
                    for number in 0..count.parse().unwrap() {
                        let shared = Shared::default();
                        streams.push(Arc::clone(&shared));
                        tasks.spawn(read(addresses[number % addresses.len()].clone(), shared));
                    }
                    until(&streams, |received| received.documents > 0).await;
                    String::new()
                }
                Some(("end", epoch)) => {
                    let epoch: u64 = epoch.parse().unwrap();
                    until(&streams, |received| has_ended(&received.newest, epoch)).await;
                    streams.iter().map(|it| it.lock().unwrap().documents - 1).sum::<usize>().to_string()
                }
                _ => {
                    tasks.shutdown().await;
                    streams.clear();
                    String::new()
                }
            };
            println!("{answer}");
        }
    });
}

async fn until(streams: &[Shared], is_so: impl Fn(&Received) -> bool) {
    let all = async {
        for stream in streams {
            while !is_so(&stream.lock().unwrap()) {
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("a stream has not been sent what it waits for");
}

fn has_ended(document: &[u8], epoch: u64) -> bool {
    let document: Value = serde_json::from_slice(document).unwrap_or_default();
    document["last"]["epoch"] == epoch && document["running"].is_null()
}

/// Reads one stream. A document is one line, because it contains no line breaks. An HTTP chunk may begin or end anywhere, but
/// its header never starts with `data:`.
async fn read(address: String, shared: Shared) {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request =
        format!("GET /v1/stream?unit={UNIT} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut pending, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(length > 0, "the agent has closed a stream");
        pending.extend_from_slice(&buffer[..length]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            if let Some(document) = pending[..end].strip_prefix(b"data: ") {
                let mut received = shared.lock().unwrap();
                received.newest = document.to_vec();
                received.documents += 1;
            }
            pending.drain(..=end);
        }
    }
}
