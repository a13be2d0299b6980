//! An HTTP proxy that sees each request for an object, and decides what happens to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Pass,
    /// The connection is closed after so many bytes of the answer's body.
    Cut {
        after_bytes: u64,
    },
    /// The gate sends the whole object, as a server that knows no ranges does, and closes after so many bytes of it. (The real
    /// server needs the header, which is signed.)
    Whole {
        content: Arc<Vec<u8>>,
        after_bytes: usize,
    },
    /// The answer waits until so many requests have come.
    UntilRequests(usize),
    /// Never answered.
    Hold,
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
}

impl Request {
    /// The first and the last byte that it asks for.
    pub(crate) fn range(&self) -> (u64, u64) {
        let (from, last) = self.header("range").unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (from.parse().unwrap(), last.parse().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
    }
}

type Decide = Box<dyn Fn(usize, &Request) -> Way + Send + Sync>;

struct Shared {
    upstream: SocketAddr,
    decide: Decide,
    requests: Mutex<Vec<Request>>,
    count: watch::Sender<usize>,
}

/// Stands before a server; stops when dropped.
pub(crate) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Gate {
    /// `decide` gets each request with its number, from 0.
    pub(crate) async fn start(
        upstream: SocketAddr,
        decide: impl Fn(usize, &Request) -> Way + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (decide, requests, count) = (Box::new(decide), Mutex::default(), watch::Sender::new(0));
        let shared = Arc::new(Shared { upstream, decide, requests, count });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                connections.spawn(async move { shared.serve(client).await });
            }
        });
        Self { address, shared, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// What was asked for, sorted.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<_> = self.requests().iter().map(Request::range).collect();
        ranges.sort_unstable();
        ranges
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Serves one connection; none at its end.
    async fn serve(&self, mut client: TcpStream) -> Option<()> {
        let mut server = TcpStream::connect(self.upstream).await.ok()?;
        loop {
            let head = read_head(&mut client).await?;
            let request = Request { head };
            let number = {
                let mut requests = self.requests.lock().unwrap();
                requests.push(request.clone());
                requests.len() - 1
            };
            self.count.send_modify(|count| *count += 1);
            let way = (self.decide)(number, &request);
            if let Way::UntilRequests(enough) = way {
                self.count.subscribe().wait_for(|count| *count >= enough).await.unwrap();
            }
            if matches!(way, Way::Hold) {
                return std::future::pending().await;
            }
            if let Way::Whole { content, after_bytes } = way {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"1\"\r\n\r\n", content.len());
                client.write_all(head.as_bytes()).await.ok()?;
                return client.write_all(&content[..content.len().min(after_bytes)]).await.ok();
            }
            server.write_all(request.head.as_bytes()).await.ok()?;
            let head = read_head(&mut server).await?;
            let length =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let length: u64 = length.unwrap_or(0);
            client.write_all(head.as_bytes()).await.ok()?;
            let sent = if let Way::Cut { after_bytes } = way { after_bytes } else { length };
            tokio::io::copy(&mut (&mut server).take(sent), &mut client).await.ok()?;
            if sent < length {
                return None;
            }
        }
    }
}

/// A request or an answer up to its body.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
