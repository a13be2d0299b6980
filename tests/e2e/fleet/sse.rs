//! A reader of Server-Sent Events over a `TcpStream`, without a line of the product.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::Value;

use crate::fleet::{LIMIT, wait_until};

/// One open stream. What is not read stays with the agent.
pub(crate) struct Stream {
    body: BufReader<TcpStream>,
    /// What came in chunks, not yet taken apart.
    text: Vec<u8>,
    /// The newest id, as a browser keeps it.
    pub(crate) last_id: Option<String>,
    /// What `retry:` said.
    pub(crate) retry: Option<u64>,
}

/// An event with data.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// An answer that is no stream.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) error: Value,
}

impl Stream {
    /// Opens `/v1/stream` with this query and these header lines.
    pub(crate) fn open(api: &str, query: &str, headers: &[String]) -> Self {
        Self::try_open(api, query, headers).unwrap_or_else(|refusal| panic!("no stream: {refusal:?}"))
    }

    pub(crate) fn try_open(api: &str, query: &str, headers: &[String]) -> Result<Self, Refusal> {
        let mut socket = wait_until(LIMIT, "the agent listens", || TcpStream::connect(api).ok());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let headers: String = headers.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect();
        let request = format!("GET /v1/stream{query} HTTP/1.1\r\nHost: {api}\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut body = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(body.read_line(&mut head).unwrap() > 0, "the answer ends in its head: {head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 200 {
            assert!(head.contains("content-type: text/event-stream"), "{head}");
            return Ok(Self { body, text: Vec::new(), last_id: None, retry: None });
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut error = vec![0; length];
        body.read_exact(&mut error).unwrap();
        Err(Refusal { status, head, error: serde_json::from_slice(&error).unwrap() })
    }

    /// Lets the kernel hold at most 128 KiB for this reader from now on; on loopback it would grow the buffer to megabytes, and a
    /// reader could not be slow.
    pub(crate) fn hold_little(&self) {
        rustix::net::sockopt::set_socket_recv_buffer_size(self.body.get_ref(), 64 * 1024).unwrap();
    }

    /// The next event with data; none when the stream has ended in order.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.next_before(Instant::now() + LIMIT)
    }

    fn next_before(&mut self, deadline: Instant) -> Option<Event> {
        loop {
            // The signs of life keep the socket from ever running into its own limit.
            assert!(Instant::now() < deadline, "nothing that was waited for within {LIMIT:?}");
            if let Some(end) = self.text.windows(2).position(|it| it == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(event) = self.read_block(std::str::from_utf8(&block).unwrap()) {
                    return Some(event);
                }
                continue;
            }
            let mut line = String::new();
            self.body.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("cut off: {line:?}"));
            let mut chunk = vec![0; length + 2];
            self.body.read_exact(&mut chunk).unwrap();
            if length == 0 {
                return None;
            }
            self.text.extend_from_slice(&chunk[..length]);
        }
    }

    fn read_block(&mut self, block: &str) -> Option<Event> {
        let (mut name, mut data) = (String::new(), None);
        for line in block.lines() {
            match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                Some(("id", value)) => self.last_id = Some(value.to_owned()),
                Some(("retry", value)) => self.retry = Some(value.parse().unwrap()),
                _ => assert!(line.is_empty() || line.starts_with(':'), "{line:?}"),
            }
        }
        // A sign of life may come between any two.
        data.filter(|_| name != "ping").map(|data| Event { name, data })
    }

    /// Reads on to the event that is meant.
    pub(crate) fn find(&mut self, what: &str, is_meant: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + LIMIT;
        let mut passed = Vec::new();
        while let Some(event) = self.next_before(deadline) {
            if is_meant(&event) {
                return event;
            }
            passed.push(event.name);
        }
        panic!("the stream has ended before {what}; it had {passed:?}");
    }

    /// The next document: a status as it stands.
    pub(crate) fn status(&mut self) -> Value {
        self.find("a status", |event| event.name == "status").data
    }
}
