//! A line to the server on which each connection gets no more than a given number of bytes per second, as at S3.
//!
//! nginx has such a limit, too, but it begins anew for each request.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 256 << 10;
/// How far ahead of its rate a connection may be: timers are not exact.
const SLACK: Duration = Duration::from_millis(5);

/// Opens a line to `server`; returns the address at its near end. It stays open as long as the runtime.
pub(crate) async fn open(server: SocketAddr, bytes_per_sec: u64) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, server, bytes_per_sec));
        }
    });
    near
}

async fn pass(client: TcpStream, server: SocketAddr, bytes_per_sec: u64) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let downward = async {
        let (mut piece, mut free_at) = (vec![0; PIECE_BYTES], Instant::now());
        while let Ok(read @ 1..) = from_server.read(&mut piece).await {
            let took = Duration::from_nanos(read as u64 * 1_000_000_000 / bytes_per_sec);
            free_at = free_at.max(Instant::now()) + took;
            sleep_until(free_at - SLACK).await;
            if to_client.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
    };
    let upward = tokio::io::copy(&mut from_client, &mut to_server);
    tokio::select! {
        () = downward => {}
        _ = upward => {}
    }
}
