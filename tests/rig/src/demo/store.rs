//! The demo's artifact store: a directory, or an S3 server over one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use cutover::artifact::store::S3Credentials;

use super::StoreKind;
use super::builds::create;
use super::error::DemoError;
use crate::s3::S3Server;

/// Where the S3 server keeps archives.
const BUCKET: &str = "artifacts";
/// The region that clients name; the S3 server takes any.
const REGION: &str = "us-east-1";

/// Where archives are stored.
#[derive(Debug)]
pub(super) struct DemoStore {
    dir: PathBuf,
    url: String,
    server: Option<S3Server>,
}

impl DemoStore {
    pub(super) async fn open(dir: &Path, kind: StoreKind) -> Result<Self, DemoError> {
        create(dir)?;
        let (url, server) = match kind {
            StoreKind::Directory => (format!("dir://{}", dir.display()), None),
            StoreKind::S3 => {
                let server = S3Server::start(Ipv4Addr::LOCALHOST.into(), dir, BUCKET, &keys()).await?;
                (format!("s3://{BUCKET}/builds"), Some(server))
            }
        };
        Ok(Self { dir: dir.to_owned(), url, server })
    }

    /// What a user would export to publish.
    pub(super) fn variables(&self) -> BTreeMap<&'static str, String> {
        let mut variables = self.credentials();
        variables.insert("CUTOVER_STORE", self.url.clone());
        variables
    }

    /// What an S3 client finds in its environment.
    pub(super) fn credentials(&self) -> BTreeMap<&'static str, String> {
        if self.server.is_none() {
            return BTreeMap::new();
        }
        let S3Credentials { access_key, secret_key } = keys();
        BTreeMap::from([
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
            ("AWS_REGION", REGION.to_owned()),
        ])
    }

    /// What `cutover publish` needs beside its environment.
    pub(super) fn flags(&self) -> Vec<String> {
        let flags = |server: &S3Server| {
            ["--store-endpoint".to_owned(), server.endpoint(), "--store-path-style".to_owned()].into()
        };
        self.server.as_ref().map(flags).unwrap_or_default()
    }

    /// `[store]` of an agent's settings.
    pub(super) fn settings(&self) -> String {
        let quoted = |text: String| toml::Value::String(text).to_string();
        let url = format!("url = {}\n", quoted(self.url.clone()));
        let server = self.server.as_ref().map(|server| {
            format!("region = \"{REGION}\"\nendpoint = {}\nforce_path_style = true\n", quoted(server.endpoint()))
        });
        url + &server.unwrap_or_default()
    }

    /// Where archives are stored, for people.
    pub(super) fn shown(&self) -> String {
        match &self.server {
            Some(server) => format!("{} at {}", self.url, server.endpoint()),
            None => self.url.clone(),
        }
    }

    /// Takes the archives away, so that no node can fetch any.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`].
    pub(super) fn hide(&self) -> Result<(), DemoError> {
        rename(&self.dir, &self.hidden())
    }

    /// Brings the archives back.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`].
    pub(super) fn bring_back(&self) -> Result<(), DemoError> {
        rename(&self.hidden(), &self.dir)
    }

    fn hidden(&self) -> PathBuf {
        self.dir.with_extension("hidden")
    }
}

/// Guards a server on loopback that holds random digits, for a minute.
fn keys() -> S3Credentials {
    S3Credentials { access_key: "demo".to_owned(), secret_key: "demo-secret".to_owned() }
}

fn rename(from: &Path, to: &Path) -> Result<(), DemoError> {
    rustix::fs::rename(from, to).map_err(|source| DemoError::file("rename", from, source.into()))
}
