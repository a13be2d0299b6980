//! Connections: a limited number, each with limits on the size and time of a request.
//!
//! `axum::serve` has no time limit for a request's head, so a client that sends a byte a minute would hold a connection
//! forever. This module sets hyper's limits, and a limit for clients that do not read their response.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::listen::Listener;
use super::peer::Peer;
use super::{Api, routes};

/// The most open connections. Each open page needs one for its stream, and load tests use 500 pages.
const MOST_CONNECTIONS: usize = 1024;
/// The time limit for the head of a request, from its first byte or the end of the previous request. So it also limits how
/// long a connection may be idle. Consul's watches and browsers send a head in one packet.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes. A token and some cookies are under 4 KiB; hyper needs 8 KiB at least.
const MOST_HEAD_BYTES: usize = 16 * 1024;
/// The most headers of a request; browsers behind a proxy send about 30.
const MOST_HEADERS: usize = 64;
/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The time limit for the client to read the next bytes of a response. The client of a stream reads each event within a
/// round trip.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// The pause after a failed accept, usually because the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until shutdown, and then finishes the open requests.
///
/// # Cancel safety
///
/// Not safe: a cancelled call closes every connection.
pub async fn serve(listener: Listener, api: Arc<Api>, shutdown: CancellationToken) {
    let Listener { tcp, tls } = listener;
    let router = routes::router(api);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // Without a permit, connections wait in the kernel's queue.
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, tcp.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, tls.clone(), router.clone(), shutdown.clone(), WRITE_LIMIT);
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    shutdown: CancellationToken,
    write_limit: Duration,
) {
    // Without addresses, the client has already disconnected.
    let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let peer = Peer { remote: remote.ip().to_canonical(), local: local.ip().to_canonical() };
    // An error is harmless: responses are only slower.
    _ = stream.set_nodelay(true);
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(write_limit));
    let Some(acceptor) = tls else { return serve_http(stream, router, peer, shutdown).await };
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(stream, router, peer, shutdown).await,
        Ok(Err(error)) => tracing::debug!(%remote, %error, "TLS handshake with {remote} failed: {error}"),
        Err(_) => tracing::debug!(%remote, "TLS handshake with {remote} timed out"),
    }
}

async fn serve_http<S>(stream: S, router: Router, peer: Peer, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pages = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        pages.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Caused by the client: it disconnected, was too slow, or does not speak HTTP.
        tracing::debug!(%error, "an HTTP connection was closed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// More bytes than the buffers of both ends can hold.
    const LARGE: usize = 64 * 1024 * 1024;
    /// Reached only if the connection is never closed.
    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_client_that_does_not_read_its_response_is_disconnected() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let router = Router::new().route("/", get(async || vec![0_u8; LARGE]));
        peer.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let connection = serve_connection(stream, None, router, CancellationToken::new(), Duration::from_millis(200));
        assert!(tokio::time::timeout(LIMIT, connection).await.is_ok(), "the connection waits for its client");
    }
}
