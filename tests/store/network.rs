//! The variables that say how to reach a store: proxies, certificates, endpoints, attempts.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::aws::{Answer, Server, metadata};
use crate::child::Child;
use crate::proxy::{Fault, Proxy};
use crate::{Bucket, LOCALHOST};

const FOUND: &str = "found at 1: None";

/// A proxy that refuses, and remembers whom it was asked for.
async fn refusing() -> Server {
    Server::start(|_, _| Answer::status(403)).await
}

/// The hosts that a process asks a proxy for.
async fn hosts(child: Child) -> Vec<String> {
    let proxy = refusing().await;
    let said = child.with_keys().with("HTTPS_PROXY", &proxy.url()).ask().await;
    assert!(said.contains("failed: unreachable") && said.contains("HTTPS_PROXY"), "{said}");
    proxy.lines().into_iter().filter_map(|line| line.strip_prefix("CONNECT ").map(str::to_owned)).collect()
}

#[tokio::test]
async fn dual_stack_and_fips_endpoints_are_asked() {
    let at_aws = || Child::new().with("TEST_HOST_STYLE", "1");
    for (variables, host) in [
        (vec![], "artifacts.s3.eu-west-1.amazonaws.com:443"),
        (vec!["AWS_USE_DUALSTACK_ENDPOINT"], "artifacts.s3.dualstack.eu-west-1.amazonaws.com:443"),
        (vec!["AWS_USE_FIPS_ENDPOINT"], "artifacts.s3-fips.us-east-1.amazonaws.com:443"),
        (
            vec!["AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT"],
            "artifacts.s3-fips.dualstack.us-east-1.amazonaws.com:443",
        ),
    ] {
        let region = if host.contains("us-east-1") { "us-east-1" } else { "eu-west-1" };
        let child = at_aws().with("AWS_REGION", region);
        let child = variables.iter().fold(child, |child, name| child.with(name, "true"));
        assert_eq!(hosts(child).await.first().map(String::as_str), Some(host), "{variables:?}");
    }
}

#[tokio::test]
async fn the_region_of_an_instance_is_looked_for_again() {
    for first in [None, Some(Answer::Close), Some(Answer::Hang), Some(Answer::status(500))] {
        let service = Server::start_failing(first.clone(), metadata).await;
        let child =
            Child::new().without("AWS_REGION").without("AWS_EC2_METADATA_DISABLED").with("TEST_HOST_STYLE", "1");
        let hosts = hosts(child.with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.url())).await;
        assert_eq!(hosts[0], "artifacts.s3.eu-west-1.amazonaws.com:443", "{first:?}");
    }
}

#[tokio::test]
async fn endpoints_of_aws_are_ignored_with_a_message_where_the_server_is_another() {
    let bucket = Bucket::start().await;
    for endpoint in ["TEST_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        let child = Child::new().with_keys().with(endpoint, &bucket.server.endpoint());
        let said = child.with("AWS_USE_DUALSTACK_ENDPOINT", "true").with("AWS_USE_FIPS_ENDPOINT", "true").ask().await;
        for needed in [FOUND, "note: AWS_USE_DUALSTACK_ENDPOINT is ignored", "note: AWS_USE_FIPS_ENDPOINT is ignored"] {
            assert!(said.contains(needed), "{endpoint}: {needed}: {said}");
        }
    }
}

#[tokio::test]
async fn a_proxy_is_used_except_for_the_hosts_of_no_proxy() {
    let (bucket, proxy) = (Bucket::start().await, Server::start(|_, _| Answer::status(404)).await);
    let child = || Child::new().with_keys().with("AWS_ENDPOINT_URL_S3", &bucket.server.endpoint());
    let said = child().with("HTTP_PROXY", &proxy.url()).ask().await;
    let expected = format!("HEAD {}/artifacts/builds/shop/master-15e9f13a.tar.gz", bucket.server.endpoint());
    assert_eq!(proxy.lines().first(), Some(&expected), "{said}");
    let before = proxy.lines().len();
    for (what, child) in [
        ("for https only", child().with("HTTPS_PROXY", &proxy.url())),
        ("an address", child().with("ALL_PROXY", &proxy.url()).with("NO_PROXY", "x.example, 127.0.0.1")),
        ("a network", child().with("http_proxy", &proxy.url()).with("no_proxy", "127.0.0.0/8")),
    ] {
        let said = child.ask().await;
        assert!(said.contains(FOUND), "{what}: {said}");
    }
    assert_eq!(proxy.lines().len(), before);
    for domains in ["s3.example", ".s3.example", "*.s3.example"] {
        let child = Child::new().with_keys().with("TEST_ENDPOINT", "http://eu.s3.example");
        let said = child.with("HTTP_PROXY", &proxy.url()).with("NO_PROXY", domains).ask().await;
        assert!(said.contains("failed: unreachable") && proxy.lines().len() == before, "{domains}: {said}");
    }
}

#[tokio::test]
async fn a_name_that_only_the_proxy_knows_is_reached_and_credentials_are_not_asked_through_it() {
    let bucket = Bucket::start().await;
    let to = bucket.server.address();
    let proxy = Server::start(move |_, _| Answer::Tunnel { to }).await;
    // Without a certificate at the other end, the handshake fails; the tunnel stood.
    let child = Child::new().with_keys().with("TEST_ENDPOINT", "https://s3.only.the.proxy.knows");
    let said = child.with("HTTPS_PROXY", &proxy.url().replace("//", "//user:hunter2@")).ask().await;
    let first = proxy.requests().first().cloned().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(first.line, "CONNECT s3.only.the.proxy.knows:443", "{said}");
    assert_eq!(first.headers.get("proxy-authorization").map(String::as_str), Some("Basic dXNlcjpodW50ZXIy"));
    assert!(!said.contains("hunter2"), "{said}");
    let (proxy, service) = (refusing().await, Server::start_failing(None, metadata).await);
    let child = Child::new().without("AWS_EC2_METADATA_DISABLED").with("ALL_PROXY", &proxy.url());
    let child = child.with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.url());
    let said = child.with("AWS_ENDPOINT_URL_S3", &bucket.server.endpoint()).ask().await;
    assert!(service.lines().contains(&"PUT /latest/api/token".to_owned()), "{said}");
    let (objects, others): (Vec<_>, Vec<_>) = proxy.lines().into_iter().partition(|line| line.contains("/artifacts/"));
    assert!(!objects.is_empty() && others.is_empty(), "{others:?} {said}");
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_named() {
    let bucket = Bucket::start().await;
    let child = Child::new().with_keys().with("AWS_ENDPOINT_URL_S3", &bucket.server.endpoint());
    let said = child.with("HTTP_PROXY", "socks5://user:hunter2@127.0.0.1:1").ask().await;
    assert!(said.contains(FOUND) && said.contains("note: HTTP_PROXY is ignored"), "{said}");
    assert!(said.contains("http://") && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn each_request_is_tried_as_often_as_aws_max_attempts_says() {
    let bucket = Bucket::start().await;
    let broken = Fault::Answer { status: 500, code: "InternalError" };
    for (name, attempts) in [("AWS_MAX_ATTEMPTS", 2), ("the profile", 3)] {
        let proxy = Proxy::start(bucket.server.address(), &[], broken).await;
        let child = Child::new().with_keys().with("AWS_ENDPOINT_URL_S3", &proxy.endpoint());
        let child = if name == "the profile" {
            child.write(".aws/config", "[default]\nmax_attempts = 3\nretry_mode = adaptive\n");
            child.without("AWS_MAX_ATTEMPTS")
        } else {
            child.with(name, &attempts.to_string())
        };
        let said = child.ask().await;
        assert!(said.contains("failed: unavailable"), "{said}");
        // The process asks twice.
        assert_eq!(proxy.connections(), attempts * 2, "{name}: {said}");
    }
    let child = || Child::new().with_keys().with("AWS_ENDPOINT_URL_S3", &bucket.server.endpoint());
    for (name, value) in [("AWS_MAX_ATTEMPTS", "many"), ("AWS_MAX_ATTEMPTS", "0"), ("AWS_RETRY_MODE", "x")] {
        let said = child().with(name, value).ask().await;
        assert!(said.contains("failed: variable") && said.contains(name) && !said.contains("panicked"), "{said}");
    }
    let said = child().with("AWS_RETRY_MODE", "legacy").ask().await;
    assert!(said.contains(FOUND) && said.contains("note: AWS_RETRY_MODE=legacy is ignored"), "{said}");
}

/// A server with TLS in front of the bucket, whose certificate a private CA has signed; for `localhost`.
async fn with_tls(bucket: &Bucket) -> String {
    let file = |name: &str| format!("{}/tests/store/tls/{name}.pem", env!("CARGO_MANIFEST_DIR"));
    let certificate = CertificateDer::from_pem_file(file("server")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server-key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let (acceptor, upstream) = (TlsAcceptor::from(Arc::new(config)), bucket.server.address());
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = tokio::net::TcpStream::connect(upstream).await.unwrap();
                let _gone = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn a_private_ca_is_trusted_if_aws_ca_bundle_names_it() {
    let bucket = Bucket::start().await;
    let endpoint = with_tls(&bucket).await;
    let ca = std::fs::read_to_string(format!("{}/tests/store/tls/ca.pem", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let child = || Child::new().with_keys().with("TEST_ENDPOINT", &endpoint);
    let said = child().ask().await;
    assert!(said.contains("failed: unreachable") && said.contains("AWS_CA_BUNDLE"), "{said}");
    // A bundle may hold what is no certificate of today.
    let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let with_odd = child();
    let path = with_odd.write("bundle.pem", &format!("# a comment\n{odd}{ca}"));
    let said = with_odd.with("AWS_CA_BUNDLE", &path).ask().await;
    assert!(said.contains(FOUND), "{said}");
    let of_profile = child();
    let path = of_profile.write("bundle.pem", &ca);
    of_profile.write(".aws/config", &format!("[default]\nca_bundle = {path}\n"));
    let said = of_profile.ask().await;
    assert!(said.contains(FOUND), "{said}");
    for (text, problem) in [(Some(odd), "no certificate"), (Some(""), "no certificate"), (None, "cannot be read")] {
        let child = child();
        let path = text.map_or("/does/not/exist".to_owned(), |text| child.write("bundle.pem", text));
        let said = child.with("AWS_CA_BUNDLE", &path).ask().await;
        for needed in ["failed: variable", "AWS_CA_BUNDLE", path.as_str(), problem] {
            assert!(said.contains(needed), "{needed}: {said}");
        }
    }
}
