//! A TCP proxy that breaks connections in ways that are chosen before.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What happens to one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The proxy answers the first request itself, and closes.
    Answer { status: u16, code: &'static str },
    /// As `Answer`, but only to a request whose head holds this text; requests before it pass.
    AnswerTo { containing: &'static str, status: u16, code: &'static str },
    /// Closes after so many bytes towards the client, headers included.
    Cut { after_bytes: usize },
    /// Nothing.
    Pass,
    /// As `Cut`, but the connection stays open.
    Stall { after_bytes: usize },
}

/// Forwards to a server; stops when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// The first connections get `first`, one each; all others get `then`.
    pub(crate) async fn start(upstream: SocketAddr, first: &[Fault], then: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let faults: Mutex<VecDeque<Fault>> = Mutex::new(first.iter().copied().collect());
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let fault = faults.lock().unwrap().pop_front().unwrap_or(then);
                running.spawn(serve(client, upstream, fault));
            }
        });
        Self { address, connections, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, upstream: SocketAddr, fault: Fault) {
    if let Fault::Answer { status, code } = fault {
        if read_head(&mut client).await.is_some() {
            answer(&mut client, status, code).await;
        }
        return;
    }
    let mut server = TcpStream::connect(upstream).await.unwrap();
    if let Fault::AnswerTo { containing, status, code } = fault {
        let asked = {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            tokio::select! {
                asked = forward_until(&mut from_client, &mut to_server, containing) => asked,
                _ = tokio::io::copy(&mut from_server, &mut to_client) => false,
            }
        };
        if asked {
            answer(&mut client, status, code).await;
        }
        return;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = tokio::io::copy(&mut from_client, &mut to_server);
    let downward = async {
        match fault {
            Fault::Cut { after_bytes } | Fault::Stall { after_bytes } => {
                let mut some = (&mut from_server).take(after_bytes as u64);
                let _gone = tokio::io::copy(&mut some, &mut to_client).await;
                if matches!(fault, Fault::Stall { .. }) {
                    std::future::pending::<()>().await;
                }
            }
            _ => drop(tokio::io::copy(&mut from_server, &mut to_client).await),
        }
    };
    // The client's end of a connection ends it, and so does the fault.
    tokio::select! {
        _ = upward => {}
        () = downward => {}
    }
}

/// A request up to its body; none at the connection's end.
async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Forwards whole requests until one holds the text, which is not forwarded; false at the connection's end.
async fn forward_until(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    text: &str,
) -> bool {
    while let Some(head) = read_head(client).await {
        if head.contains(text) {
            return true;
        }
        let lowercase = head.to_lowercase();
        let length = lowercase.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = (&mut *client).take(length.unwrap_or(0));
        if server.write_all(head.as_bytes()).await.is_err() || tokio::io::copy(&mut body, server).await.is_err() {
            return false;
        }
    }
    false
}

async fn answer(client: &mut TcpStream, status: u16, code: &str) {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>from the proxy</Message></Error>");
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _gone = client.write_all(format!("{head}{body}").as_bytes()).await;
    // An upload goes on while it is refused: taking it in lets the answer be read before the connection breaks.
    let _gone = tokio::io::copy(client, &mut tokio::io::sink()).await;
}
