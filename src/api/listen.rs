//! The agent's address and certificate, checked before the agent registers anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::config::{ApiSection, TlsFiles};
use crate::kind::HasKind;

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is in use, or does not belong to this machine.
    #[error("the agent cannot listen on {address}; see [api] listen")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("[api] {setting}: {} cannot be read", path.display())]
    Read {
        /// The key under `[api]` that names the file.
        setting: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file contains no certificate or no key.
    #[error("[api] {setting}: {} {problem}", path.display())]
    File {
        /// The key under `[api]` that names the file.
        setting: &'static str,
        path: PathBuf,
        /// The rest of the sentence, for example "is not valid PEM".
        problem: String,
    },
    /// The certificate and the key do not match, or rustls refuses them.
    #[error("[api] tls_cert_file and tls_key_file cannot be used together")]
    Pair(#[source] rustls::Error),
}

impl HasKind for ListenError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Read { .. } => "read",
            Self::File { .. } => "file",
            Self::Pair(_) => "pair",
        }
    }
}

/// A bound address, ready to accept connections.
pub struct Listener {
    pub(super) tcp: TcpListener,
    pub(super) tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("tcp", &self.tcp).field("tls", &self.tls.is_some()).finish()
    }
}

impl Listener {
    /// Reads the certificate, if the settings name one, and binds the address.
    ///
    /// # Errors
    ///
    /// [`ListenError`], naming the setting or file that cannot be used.
    ///
    /// # Cancel safety
    ///
    /// Safe: after a cancellation nothing is bound.
    pub async fn bind(settings: &ApiSection) -> Result<Self, ListenError> {
        let tls = read_tls(settings)?;
        let address = settings.listen;
        let tcp = TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })?;
        Ok(Self { tcp, tls })
    }
}

/// Reads the certificate and its key, if the settings name them. Blocks on two small files, once, at the start.
///
/// # Errors
///
/// [`ListenError`], naming the setting that cannot be used.
pub(crate) fn read_tls(settings: &ApiSection) -> Result<Option<TlsAcceptor>, ListenError> {
    settings.tls.as_ref().map(acceptor).transpose()
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ListenError> {
    let read = |setting, path: &PathBuf| {
        std::fs::read(path).map_err(|source| ListenError::Read { setting, path: path.clone(), source })
    };
    let wrong = |setting, path: &PathBuf, problem| ListenError::File { setting, path: path.clone(), problem };
    let (cert, key) = (("tls_cert_file", &files.cert_file), ("tls_key_file", &files.key_file));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(cert.0, cert.1)?)
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(cert.0, cert.1, format!("is not valid PEM: {e}")))?;
    if chain.is_empty() {
        return Err(wrong(cert.0, cert.1, "holds no certificate in PEM form".to_owned()));
    }
    // The error of the parser does not contain the key.
    let secret = PrivateKeyDer::from_pem_slice(&read(key.0, key.1)?)
        .map_err(|e| wrong(key.0, key.1, format!("holds no private key in PEM form: {e}")))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(ListenError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
