//! A line to the S3 server that carries no more than a given number of bytes per second upwards.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 64 << 10;
/// How far ahead of its rate the line may be: timers are not exact.
const SLACK: Duration = Duration::from_millis(2);

/// When the line is free again, for all connections.
type Free = Arc<Mutex<Instant>>;

/// Opens a line to `server`; returns the address at its near end. It stays open as long as the runtime.
pub(crate) async fn open(server: SocketAddr, bytes_per_sec: u64) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = listener.local_addr().unwrap();
    let free: Free = Arc::new(Mutex::new(Instant::now()));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let free = Arc::clone(&free);
            tokio::spawn(async move { pass(client, server, bytes_per_sec, &free).await });
        }
    });
    near
}

async fn pass(client: TcpStream, server: SocketAddr, bytes_per_sec: u64, free: &Free) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = async {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(read @ 1..) = from_client.read(&mut piece).await {
            sleep_until(reserve(free, read, bytes_per_sec) - SLACK).await;
            if to_server.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
    };
    let downward = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        () = upward => {}
        _ = downward => {}
    }
}

/// When `bytes` are through, if they wait for all that were sent before.
fn reserve(free: &Free, bytes: usize, bytes_per_sec: u64) -> Instant {
    let mut free = free.lock().unwrap();
    let took = Duration::from_nanos(bytes as u64 * 1_000_000_000 / bytes_per_sec);
    *free = (*free).max(Instant::now()) + took;
    *free
}
