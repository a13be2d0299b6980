//! A process with an environment of its own that asks a bucket, as the agent and `publish` do.

use std::collections::BTreeMap;
use std::process::Command;

use cutover::artifact::store::{S3Settings, Store, StoreUrl};
use cutover::kind::HasKind;
use tempfile::TempDir;

use crate::chain;

const KEY: &str = "builds/shop/master-15e9f13a.tar.gz";

/// Not a test of its own: what [`Child`] runs.
#[tokio::test]
#[ignore = "run by other tests with an environment"]
async fn child_process_asks_a_bucket() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stdout).init();
    let url = StoreUrl::parse("s3://artifacts/builds").unwrap();
    let variable = |name| std::env::var(name).ok();
    let settings = S3Settings {
        endpoint: variable("TEST_ENDPOINT"),
        region: variable("TEST_REGION"),
        force_path_style: variable("TEST_HOST_STYLE").is_none(),
        ..S3Settings::default()
    };
    let store = match Store::open(&url, &settings).await {
        Ok(store) => store,
        Err(error) => return println!("failed: {}: {}", error.kind(), chain(&error)),
    };
    for note in store.notes() {
        println!("note: {note}");
    }
    // Twice: what fails must fail in the same way again.
    for attempt in 1..=2 {
        match store.head(KEY).await {
            Ok(found) => return println!("found at {attempt}: {found:?}"),
            Err(error) => println!("failed: {}: {}", error.kind(), chain(&error)),
        }
    }
}

/// The environment of a process, in which HOME is a directory of its own.
pub(crate) struct Child {
    pub(crate) home: TempDir,
    variables: BTreeMap<String, String>,
}

impl Child {
    /// One without a metadata service, in which no request is repeated.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let child = Self { home, variables: BTreeMap::new() };
        let home = child.home.path().to_str().unwrap().to_owned();
        let child = child.with("HOME", &home).with("AWS_EC2_METADATA_DISABLED", "true");
        child.with("AWS_REGION", "eu-west-1").with("AWS_MAX_ATTEMPTS", "1")
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    pub(crate) fn with_keys(self) -> Self {
        self.with("AWS_ACCESS_KEY_ID", "test").with("AWS_SECRET_ACCESS_KEY", "secret")
    }

    /// Writes a file below HOME, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What it says when it asks the bucket.
    pub(crate) async fn ask(&self) -> String {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child::child_process_asks_a_bucket", "--ignored", "--nocapture"]);
        command.env_clear().envs(&self.variables).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        format!("{said}{}", String::from_utf8_lossy(&output.stderr))
    }
}
