//! `cutover publish` to every server, and the download of what it published.

use std::fs;
use std::process::{Command, Stdio};

use cutover::artifact::cache::CacheLimits;
use cutover::artifact::store::{S3Credentials, Stored};
use cutover::consul::Consistency;
use cutover::protocol::keys::Keys;
use cutover::protocol::record::{Build, decode};
use cutover_rig::cluster::{Cluster, ClusterSpec};
use serde_json::Value;

use super::compare;
use super::program::{Served, program, servers};
use crate::fetch::fetch;
use crate::{BUCKET, Node, app, digest, noise};

/// `cutover publish`, with nothing of this machine's environment.
fn publish(served: &Served, consul: &str, build: &str, commit: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    command.args(["publish", "--app", "shop", build, "--branch", "master", "--commit", commit, "--output", "json"]);
    command.args(["--store", &format!("s3://{BUCKET}/{}", served.prefix), "--store-path-style"]);
    command.args(["--store-endpoint", &served.endpoint()]);
    if let Some(region) = served.maker().region() {
        command.args(["--store-region", region]);
    }
    let S3Credentials { access_key, secret_key } = served.maker().credentials();
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("USER", "ann").stdin(Stdio::null());
    command.env("AWS_ACCESS_KEY_ID", access_key).env("AWS_SECRET_ACCESS_KEY", secret_key);
    command.env("CONSUL_HTTP_ADDR", consul);
    // There is no git here: without it the same tree, written again, would give other bytes.
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

async fn printed(mut command: Command) -> Value {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_published_to_every_server_repaired_there_and_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let consul = dir.path().join("consul");
    fs::create_dir(&consul).unwrap();
    let spec = ClusterSpec { servers: 1, ..ClusterSpec::default() };
    let bin = program("get-consul").await;
    let (cluster, served) = tokio::join!(Cluster::start(&bin, &consul, spec), servers());
    let cluster = cluster.unwrap();
    let address = cluster.node(0).unwrap().http_addr();
    let tree = dir.path().join("build");
    fs::create_dir(&tree).unwrap();
    // Enough for two parts, because it cannot be compressed.
    fs::write(tree.join("data"), noise(17 << 20)).unwrap();
    fs::write(tree.join("index.html"), "one").unwrap();
    let tree = tree.to_str().unwrap();

    let (keys, client) = (Keys::default(), cluster.client(0).unwrap());
    for (number, served) in served.into_iter().enumerate() {
        let (maker, commit) = (served.maker(), number.to_string().repeat(40));
        let first = printed(publish(&served, &address, tree, &commit)).await;
        assert_eq!(first["already"], false, "{maker:?}");
        let name = first["artifact"].as_str().unwrap().parse().unwrap();
        let key = keys.build(&app(), &name);
        let record = client.kv_get(&key, Consistency::Consistent).await.unwrap().unwrap();
        let build: Build = decode(&key, &record.value).unwrap();
        assert_eq!(compare(&served.store(), &build).await, Stored::Intact, "{maker:?}");

        let cache = tempfile::tempdir().unwrap();
        let limits = CacheLimits { budget_bytes: 1 << 40, min_free_bytes: Some(1) };
        let (outcome, read) = fetch(&Node::new(served.store(), cache.path(), limits), &build).await;
        assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes, "{maker:?}");
        assert_eq!(digest(&read.unwrap()), build.sha256.as_str(), "{maker:?}");

        // An object that is lost is uploaded again, and one that is whole is not.
        served.store().delete(&served.store().key(&app(), &build)).await.unwrap();
        for _ in 0..2 {
            let again = printed(publish(&served, &address, tree, &commit)).await;
            assert_eq!(again["already"], true, "{maker:?}: {again}");
            assert_eq!(compare(&served.store(), &build).await, Stored::Intact, "{maker:?}");
        }
    }
}
