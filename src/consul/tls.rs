//! The HTTPS client that this module and `rs-consul` share: one pool, one TLS configuration.
//!
//! The TLS provider is ring, set explicitly: another crate may change the process-wide default.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::rs_client::HttpsClient;
use super::settings::{Settings, SettingsError, Tls, Verify};

/// The time limit for a connection. An agent on the same machine or network answers in milliseconds, or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Detects a dead peer during a blocking query of up to a minute, and keeps NAT entries alive.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Longer than the interval of session renewals, so that an idle agent keeps its connection.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// Idle connections to keep. A Consul agent allows 200 per source address (`http_max_conns_per_client`).
const IDLE_CONNECTIONS: usize = 8;

/// The client for these settings. Opens the certificate files.
pub(super) fn https_client(settings: &Settings) -> Result<HttpsClient, SettingsError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_LIMIT));
    http.set_keepalive(Some(KEEPALIVE));
    let builder = HttpsConnectorBuilder::new().with_tls_config(client_config(&settings.tls)?).https_or_http();
    let connector = match &settings.tls.server_name {
        Some(name) => {
            let name = ServerName::try_from(name.clone())
                .map_err(|_| SettingsError::ServerName { name: name.chars().take(120).collect() })?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(name)).enable_http1().wrap_connector(http)
        }
        None => builder.enable_http1().wrap_connector(http),
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build::<_, BoxBody<Bytes, Infallible>>(connector))
}

fn client_config(tls: &Tls) -> Result<ClientConfig, SettingsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(SettingsError::Tls)?;
    let builder = match tls.verify {
        // Without any CA, plain HTTP still works, and TLS fails at the handshake.
        Verify::Full => builder.with_root_certificates(roots(tls)?),
        Verify::Nothing => builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider))),
    };
    match (&tls.client_cert, &tls.client_key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates("the client certificate", cert)?, private_key(key)?)
            .map_err(SettingsError::Tls),
        (None, _) | (_, None) => Ok(builder.with_no_client_auth()),
    }
}

/// The trusted CAs: the file, else the directory, else the system's. Never a mixture, as in the official client.
fn roots(tls: &Tls) -> Result<RootCertStore, SettingsError> {
    let mut store = RootCertStore::empty();
    if let Some(file) = &tls.ca_file {
        for certificate in certificates("the CA file", file)? {
            store.add(certificate).map_err(SettingsError::Tls)?;
        }
        return Ok(store);
    }
    if let Some(dir) = &tls.ca_dir {
        let read = |source| SettingsError::Read { what: "the CA directory", path: dir.clone(), source };
        for entry in std::fs::read_dir(dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.is_file() {
                for certificate in certificates("the CA file", &path)? {
                    store.add(certificate).map_err(SettingsError::Tls)?;
                }
            }
        }
        if store.is_empty() {
            let problem = "contains no certificate".to_owned();
            return Err(SettingsError::File { what: "the CA directory", path: dir.clone(), problem });
        }
        return Ok(store);
    }
    // Certificates of the system that rustls cannot parse are skipped.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(store)
}

/// Every certificate of a PEM file; at least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let text = std::fs::read(path).map_err(|source| SettingsError::Read { what, path: path.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let refuse = |problem: String| SettingsError::File { what, path: path.to_owned(), problem };
    let found = found.map_err(|e| refuse(format!("is not valid PEM: {e}")))?;
    if found.is_empty() { Err(refuse("contains no certificate in PEM form".to_owned())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SettingsError> {
    let what = "the client key";
    let text = std::fs::read(path).map_err(|source| SettingsError::Read { what, path: path.to_owned(), source })?;
    // The parser's error does not contain the file's content.
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| SettingsError::File {
        what,
        path: path.to_owned(),
        problem: format!("contains no private key in PEM form: {e}"),
    })
}

/// For `CONSUL_HTTP_SSL_VERIFY=false`. Signatures are still checked, so the peer must own the key of its certificate.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
