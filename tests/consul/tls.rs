//! Mutual TLS, with certificates that Consul itself makes, through the variables that operators set.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cutover::consul::{Client, Consistency, Error, Settings};
use cutover_rig::cluster::{ClusterSpec, NodeConfig};
use serde_json::json;

use crate::support::{bin, start};

fn consul_tls(dir: &Path, args: &[&str]) {
    let output = Command::new(bin()).arg("tls").args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "consul tls {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_private_ca_and_a_client_certificate_are_used_and_needed() {
    let certs = tempfile::tempdir().unwrap();
    consul_tls(certs.path(), &["ca", "create"]);
    consul_tls(certs.path(), &["cert", "create", "-server"]);
    consul_tls(certs.path(), &["cert", "create", "-client"]);
    let file = |name: &str| certs.path().join(name).to_str().unwrap().to_owned();
    let config = json!({
        "ports": {"https": 8501},
        "verify_incoming": true,
        "ca_file": file("consul-agent-ca.pem"),
        "cert_file": file("dc1-server-consul-0.pem"),
        "key_file": file("dc1-server-consul-0-key.pem"),
    });
    let extra = BTreeMap::from([(0, vec![NodeConfig::Json(config)])]);
    let fleet = start(ClusterSpec { servers: 1, extra, ..ClusterSpec::default() }).await;
    // As an `http://` address: CONSUL_HTTP_SSL must not be undone by it.
    let address = fleet.cluster.node(0).unwrap().http_addr().replace(":8500", ":8501");
    let base = [("CONSUL_HTTP_ADDR", address), ("CONSUL_HTTP_SSL", "true".to_owned())];
    let ca = ("CONSUL_CACERT", file("consul-agent-ca.pem"));
    let cert = ("CONSUL_CLIENT_CERT", file("dc1-client-consul-0.pem"));
    let key = ("CONSUL_CLIENT_KEY", file("dc1-client-consul-0-key.pem"));
    let name = ("CONSUL_TLS_SERVER_NAME", "server.dc1.consul".to_owned());
    let unverified = ("CONSUL_HTTP_SSL_VERIFY", "false".to_owned());
    let client = |more: &[&(&str, String)]| {
        let lookup = |wanted: &str| {
            let mut all = base.iter().chain(more.iter().copied());
            all.find(|(name, _)| *name == wanted).map(|(_, value)| value.clone())
        };
        Client::new(&Settings::from_env(lookup).unwrap()).unwrap()
    };

    let both = client(&[&ca, &cert, &key, &name]);
    both.kv_put("tls", "x").await.unwrap();
    assert_eq!(both.kv_get("tls", Consistency::Consistent).await.unwrap().unwrap().value, b"x");
    client(&[&cert, &key, &unverified]).kv_put("tls", "y").await.unwrap();
    for (what, client) in [
        ("without a client certificate", client(&[&ca, &name])),
        ("with the system's CAs", client(&[&cert, &key, &name])),
        ("for another name", client(&[&ca, &cert, &key])),
    ] {
        let error = client.kv_get("tls", Consistency::Default).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. } | Error::Interrupted { .. }), "{what}: {error}");
    }
}
