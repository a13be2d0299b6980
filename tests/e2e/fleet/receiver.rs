//! A receiver of notifications: real HTTP, which takes, fails, stalls, closes, or answers nonsense, as it is told.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;

use crate::fleet::{LIMIT, wait_until};

/// What it does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Answers this status.
    Answer(u16),
    /// Closes the connection without a word.
    Close,
    /// Answers what is no HTTP.
    Nonsense,
    /// Answers nothing until it has another mode, and then by that.
    Stall,
}

/// A call that came.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whether it was held.
    pub(crate) was_stalled: bool,
    /// Whether it was answered by 200.
    pub(crate) is_taken: bool,
}

impl Call {
    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The kind of a webhook's event, and its epoch.
    pub(crate) fn event(&self) -> (String, u64) {
        let event = self.json();
        let epoch = event["data"]["epoch"].as_str().and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
        (event["type"].as_str().unwrap().to_owned(), epoch)
    }
}

#[derive(Debug)]
struct State {
    mode: Mutex<Mode>,
    changed: Condvar,
    calls: Mutex<Vec<Call>>,
}

/// The receiver. Its threads end with the test's process.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    state: Arc<State>,
}

impl Receiver {
    /// Listens on a free port, and takes everything.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hooks/not-to-be-shown", listener.local_addr().unwrap());
        let state =
            Arc::new(State { mode: Mutex::new(Mode::Answer(200)), changed: Condvar::new(), calls: Mutex::default() });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&serving);
                // A call that breaks off is its sender's affair.
                std::thread::spawn(move || _ = serve(&state, stream));
            }
        });
        Self { url, state }
    }

    /// Writes its URL where the settings look for it.
    pub(crate) fn written_to(self, path: &Path) -> Self {
        std::fs::write(path, format!("{}\n", self.url)).unwrap();
        self
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
        self.state.changed.notify_all();
    }

    /// Everything that came, in order.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }

    /// Everything that was taken, in order.
    pub(crate) fn taken(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.is_taken).collect()
    }

    /// Waits for a call.
    pub(crate) fn wait(&self, what: &str, fits: impl Fn(&Call) -> bool) -> Call {
        wait_until(LIMIT, what, || self.calls().into_iter().find(&fits))
    }

    /// Waits until the webhook's event of this kind was taken, for a deploy newer than `after`.
    pub(crate) fn wait_taken(&self, kind: &str, after: u64) -> Call {
        self.wait(&format!("{kind} after {after}"), |call| {
            let (this, epoch) = call.event();
            call.is_taken && this == kind && epoch > after
        })
    }
}

fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut mode = state.mode.lock().unwrap();
    let was_stalled = *mode == Mode::Stall;
    let number = {
        let mut calls = state.calls.lock().unwrap();
        calls.push(Call { path, headers, body, was_stalled, is_taken: false });
        calls.len() - 1
    };
    mode = state.changed.wait_while(mode, |mode| *mode == Mode::Stall).unwrap();
    let mode = *mode;
    if mode == Mode::Answer(200) {
        state.calls.lock().unwrap()[number].is_taken = true;
    }
    let mut stream = stream;
    match mode {
        Mode::Answer(status) => {
            write!(stream, "HTTP/1.1 {status} Said so\r\nConnection: close\r\nContent-Length: 4\r\n\r\nwell")
        }
        Mode::Nonsense => write!(stream, "220 mail.example.com ESMTP\r\nwho are you?\r\n"),
        Mode::Close | Mode::Stall => Ok(()),
    }
}
