//! A TCP proxy that breaks or holds connections in ways that are chosen before, and changes its mind when it is told.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What happens to one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The proxy answers the first request itself, and closes.
    Answer { status: u16, code: &'static str },
    /// As `Answer`, but only to a request whose head holds this text; requests before it pass.
    AnswerTo { containing: &'static str, status: u16, code: &'static str },
    /// A request whose head holds this text reaches the server, but its answer does not reach the client.
    LoseAnswerTo { containing: &'static str },
    /// Closes after so many bytes towards the client, headers included.
    Cut { after_bytes: usize },
    /// Nothing.
    Pass,
    /// All connections share a line of this speed towards the server.
    Slow { bytes_per_sec: u64 },
    /// As `Cut`, but the connection stays open, and goes on with [`Proxy::release`].
    Stall { after_bytes: usize },
}

/// Forwards to a server; stops when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    road: Arc<Road>,
    task: JoinHandle<()>,
}

/// Where connections go, and what happens to them.
struct Road {
    upstream: watch::Sender<SocketAddr>,
    /// The first connections get these, one each.
    first: Mutex<VecDeque<Fault>>,
    /// All others get this.
    then: Mutex<Fault>,
    /// Counts how often stalled connections were let go on.
    released: watch::Sender<u64>,
    /// Whose connections are stalled.
    stalled: Mutex<Vec<IpAddr>>,
    /// Held while bytes are on the slow line.
    line: tokio::sync::Mutex<()>,
}

impl Proxy {
    /// The first connections get `first`, one each; all others get `then`.
    pub(crate) async fn start(upstream: SocketAddr, first: &[Fault], then: Fault) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), upstream, first, then).await
    }

    /// As [`Proxy::start`], at a free port of another address.
    pub(crate) async fn start_at(address: IpAddr, upstream: SocketAddr, first: &[Fault], then: Fault) -> Self {
        let listener = match then {
            Fault::Slow { .. } => listen_slowly(address),
            _ => TcpListener::bind((address, 0)).await.unwrap(),
        };
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let road = Arc::new(Road {
            upstream: watch::Sender::new(upstream),
            first: Mutex::new(first.iter().copied().collect()),
            then: Mutex::new(then),
            released: watch::Sender::new(0),
            stalled: Mutex::default(),
            line: tokio::sync::Mutex::default(),
        });
        let (counter, shared) = (Arc::clone(&connections), Arc::clone(&road));
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((client, from)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                // Before the fault is known, so that no release falls in between.
                let released = shared.released.subscribe();
                let next = shared.first.lock().unwrap().pop_front();
                let fault = next.unwrap_or_else(|| *shared.then.lock().unwrap());
                let road = Arc::clone(&shared);
                running.spawn(async move {
                    let mut upstream = road.upstream.subscribe();
                    let server = *upstream.borrow_and_update();
                    tokio::select! {
                        () = serve((client, from.ip()), server, fault, &road, released) => {}
                        _ = upstream.changed() => {}
                    }
                });
            }
        });
        Self { address, connections, road, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// From now on connections get this; those that are open are cut, since a client keeps them for its next request.
    pub(crate) fn set(&self, then: Fault) {
        *self.road.then.lock().unwrap() = then;
        self.road.upstream.send_modify(|_| {});
    }

    /// As [`Proxy::set`], but the next connections get `first`, one each.
    pub(crate) fn set_first(&self, first: &[Fault], then: Fault) {
        *self.road.first.lock().unwrap() = first.iter().copied().collect();
        self.set(then);
    }

    /// Nothing is held any more: what is stalled goes on, and new connections pass.
    pub(crate) fn release(&self) {
        *self.road.then.lock().unwrap() = Fault::Pass;
        self.road.released.send_modify(|count| *count += 1);
    }

    /// Forwards to another server; every connection that is open is cut.
    pub(crate) fn turn_to(&self, upstream: SocketAddr) {
        self.road.upstream.send_replace(upstream);
    }

    /// Whose connections are stalled now.
    pub(crate) fn stalled(&self) -> BTreeSet<IpAddr> {
        self.road.stalled.lock().unwrap().iter().copied().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is on its way waits at the client, as on a slow line.
fn listen_slowly(address: IpAddr) -> TcpListener {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket.listen(1024).unwrap()
}

/// A stalled connection, for as long as it is.
struct Stalled<'a>(&'a Road, IpAddr);

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        let mut stalled = self.0.stalled.lock().unwrap();
        let place = stalled.iter().position(|from| *from == self.1);
        place.map(|place| stalled.swap_remove(place));
    }
}

async fn serve(
    (mut client, from): (TcpStream, IpAddr),
    upstream: SocketAddr,
    fault: Fault,
    road: &Road,
    mut released: watch::Receiver<u64>,
) {
    if let Fault::Answer { status, code } = fault {
        if read_head(&mut client).await.is_some() {
            answer(&mut client, status, code).await;
        }
        return;
    }
    // A server that does not answer is one more fault.
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    if let Fault::AnswerTo { containing, .. } | Fault::LoseAnswerTo { containing } = fault {
        let asked = {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            tokio::select! {
                asked = forward_until(&mut from_client, &mut to_server, containing) => asked,
                _ = tokio::io::copy(&mut from_server, &mut to_client) => None,
            }
        };
        match (asked, fault) {
            (Some(_), Fault::AnswerTo { status, code, .. }) => answer(&mut client, status, code).await,
            (Some(head), _) if forward(&head, &mut client, &mut server).await => {
                let _gone = server.read_u8().await;
            }
            _ => {}
        }
        return;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = async {
        if let Fault::Slow { bytes_per_sec } = fault {
            crawl(&mut from_client, &mut to_server, &road.line, bytes_per_sec).await;
        } else {
            let _gone = tokio::io::copy(&mut from_client, &mut to_server).await;
        }
    };
    let downward = async {
        match fault {
            Fault::Cut { after_bytes } | Fault::Stall { after_bytes } => {
                let mut some = (&mut from_server).take(after_bytes as u64);
                let _gone = tokio::io::copy(&mut some, &mut to_client).await;
                if matches!(fault, Fault::Stall { .. }) && some.limit() == 0 {
                    road.stalled.lock().unwrap().push(from);
                    let stalled = Stalled(road, from);
                    let _gone = released.changed().await;
                    drop(stalled);
                    let _gone = tokio::io::copy(&mut from_server, &mut to_client).await;
                }
            }
            _ => drop(tokio::io::copy(&mut from_server, &mut to_client).await),
        }
    };
    // The client's end of a connection ends it, and so does the fault.
    tokio::select! {
        () = upward => {}
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

/// Forwards whole requests until one holds the text, which is returned and not forwarded; none at the connection's end.
async fn forward_until(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    text: &str,
) -> Option<String> {
    while let Some(head) = read_head(client).await {
        if head.contains(text) {
            return Some(head);
        }
        if !forward(&head, client, server).await {
            return None;
        }
    }
    None
}

/// Forwards a request whose head was read; false at the connection's end.
async fn forward(head: &str, client: &mut (impl AsyncRead + Unpin), server: &mut (impl AsyncWrite + Unpin)) -> bool {
    let lowercase = head.to_lowercase();
    let length = lowercase.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = client.take(length.unwrap_or(0));
    server.write_all(head.as_bytes()).await.is_ok() && tokio::io::copy(&mut body, server).await.is_ok()
}

/// Copies at a speed that all connections share.
async fn crawl(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    line: &tokio::sync::Mutex<()>,
    bytes_per_sec: u64,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(read @ 1..) = client.read(&mut buffer).await else { return };
        let turn = line.lock().await;
        tokio::time::sleep(Duration::from_secs(read as u64) / u32::try_from(bytes_per_sec).unwrap()).await;
        drop(turn);
        if server.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn answer(client: &mut TcpStream, status: u16, code: &str) {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>from the proxy</Message></Error>");
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _gone = client.write_all(format!("{head}{body}").as_bytes()).await;
    // An upload goes on while it is refused: taking it in lets the answer be read before the connection breaks.
    let _gone = tokio::io::copy(client, &mut tokio::io::sink()).await;
}
