//! An S3 server within this process, over a directory: for the demo and the tests.
//!
//! It checks signatures and serves what the artifact store needs: whole objects, ranges, multipart uploads, path-style
//! addresses only. It does not sync files to disk, and is slower than a real server.

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

use crate::iam::{Guard, Policy};

/// Why the server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum S3ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot hold objects.
    #[error("cannot keep objects in {}", root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A running server. Dropping it stops it and closes its connections.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl S3Server {
    /// Serves `bucket` from `root/<bucket>` on a free port of `address`, for requests that are signed with `credentials`. Both
    /// directories are created.
    ///
    /// # Errors
    ///
    /// [`S3ServerError`] where it cannot use the directory or the address.
    ///
    /// # Cancel safety
    ///
    /// Safe: dropped, it has started nothing.
    pub async fn start(
        address: IpAddr,
        root: &Path,
        bucket: &str,
        credentials: &S3Credentials,
    ) -> Result<Self, S3ServerError> {
        let mut auth = SimpleAuth::new();
        auth.register(credentials.access_key.clone(), credentials.secret_key.clone().into());
        Self::start_with(address, root, bucket, auth, None).await
    }

    /// As [`S3Server::start`], for several users, each of whom may do only what the user's policy allows.
    ///
    /// # Errors
    ///
    /// As [`S3Server::start`].
    ///
    /// # Cancel safety
    ///
    /// As [`S3Server::start`].
    pub async fn start_for(
        address: IpAddr,
        root: &Path,
        bucket: &str,
        users: &[(S3Credentials, Policy)],
    ) -> Result<Self, S3ServerError> {
        let mut auth = SimpleAuth::new();
        for (credentials, _) in users {
            auth.register(credentials.access_key.clone(), credentials.secret_key.clone().into());
        }
        let policies = users.iter().map(|(user, policy)| (user.access_key.clone(), policy.clone())).collect();
        Self::start_with(address, root, bucket, auth, Some(Guard::new(root, policies))).await
    }

    async fn start_with(
        address: IpAddr,
        root: &Path,
        bucket: &str,
        auth: SimpleAuth,
        guard: Option<Guard>,
    ) -> Result<Self, S3ServerError> {
        let unusable = |source| S3ServerError::Root { root: root.to_owned(), source };
        tokio::fs::create_dir_all(root.join(bucket)).await.map_err(unusable)?;
        let files = FileSystem::new(root).map_err(|e| unusable(io::Error::other(format!("{e:?}"))))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(auth);
        if let Some(guard) = guard {
            service.set_access(guard);
        }
        let unbound = |source| S3ServerError::Bind { address, source };
        let listener = TcpListener::bind((address, 0)).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        Ok(Self { address, task: tokio::spawn(serve(listener, service.build())) })
    }

    /// The URL for `store.endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address that it listens on.
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

/// Serves until it is dropped, and closes its connections then.
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
                    tracing::warn!(%error, "the S3 server cannot accept a connection: {error}");
                    // As a rule the process is out of file descriptors: let a connection end first.
                    tokio::task::yield_now().await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "a connection of the S3 server broke: {error}");
                }
            }
        }
    }
}
