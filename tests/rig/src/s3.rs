//! An S3 server within this process, over a directory: for the demo and the tests.
//!
//! It checks signatures and does what the store needs (whole objects, ranges, multipart uploads), path-style only. It
//! is no place for anything that must last, and slower than a real server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use cutover::artifact::store::S3Credentials;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// The server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum S3ServerError {
    /// No socket.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error("cannot keep objects in {}", root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A running server; dropping it stops it and cuts its connections.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl S3Server {
    /// Serves `bucket` from `root/<bucket>` at a free port of `address`, to whoever signs with `credentials`. Both
    /// directories are created.
    ///
    /// # Errors
    ///
    /// [`S3ServerError`] when the directory or the socket cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing runs then.
    pub async fn start(
        address: IpAddr,
        root: &Path,
        bucket: &str,
        credentials: &S3Credentials,
    ) -> Result<Self, S3ServerError> {
        let unusable = |source| S3ServerError::Root { root: root.to_owned(), source };
        tokio::fs::create_dir_all(root.join(bucket)).await.map_err(unusable)?;
        let files = FileSystem::new(root).map_err(|e| unusable(io::Error::other(format!("{e:?}"))))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(credentials.access_key.clone(), credentials.secret_key.clone()));
        let unbound = |source| S3ServerError::Bind { address, source };
        let listener = TcpListener::bind((address, 0)).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        Ok(Self { address, task: tokio::spawn(serve(listener, service.build())) })
    }

    /// What `store.endpoint` is to be.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves until it is dropped; the connections go with it.
async fn serve(listener: TcpListener, service: S3Service) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let mut http = http1::Builder::new();
                    let connection = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service.clone());
                    connections.spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "the S3 server cannot accept a connection");
                    // Most likely out of file descriptors: let some connection end first.
                    tokio::task::yield_now().await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "a connection of the S3 server broke");
                }
            }
        }
    }
}
