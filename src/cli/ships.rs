//! What a build ships, as `publish` finds it: the commits since the newest build of its branch, and the list of its files.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{commits, output};
use crate::artifact::manifest::{Manifest, PackedManifest, diff, pack};
use crate::artifact::store::Store;
use crate::control::{Code, Failure, ships};
use crate::protocol::ids::App;
use crate::protocol::record::{Base, Build, Changes, Commits, FileCounts, ManifestDigest, Since};
use crate::telemetry::chain;

/// The list of a build's files, made when it is first needed: `publish` asks for it while it packs.
#[derive(Debug)]
pub(super) struct Listing {
    manifest: Arc<Manifest>,
    files: OnceCell<Files>,
}

impl Listing {
    pub(super) fn new(manifest: Manifest) -> Self {
        Self { manifest: Arc::new(manifest), files: OnceCell::new() }
    }

    /// The list, compressed.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] if a thread cannot be started.
    ///
    /// # Cancel safety
    ///
    /// Safe: the next call makes the list again.
    pub(super) async fn get(&self) -> Result<&Files, Failure> {
        let make = async || {
            let manifest = Arc::clone(&self.manifest);
            let made = tokio::task::spawn_blocking(move || Files::new(manifest)).await;
            made.map_err(|error| Failure::new(Code::Failed, "listing the files of the build failed").caused_by(error))
        };
        self.files.get_or_try_init(make).await
    }
}

/// The list of a build's files.
#[derive(Debug)]
pub(super) struct Files {
    manifest: Arc<Manifest>,
    /// None if the list is too long to be stored.
    packed: Option<PackedManifest>,
}

impl Files {
    /// Compresses the list; blocking.
    fn new(manifest: Arc<Manifest>) -> Self {
        let packed = pack(&manifest).map_err(|error| {
            say(&format!("warning: the list of the build's files is not stored: {}", chain(&error)));
        });
        Self { manifest, packed: packed.ok() }
    }

    /// What the build's record says of the list; none if it is not stored.
    pub(super) fn digest(&self) -> Option<ManifestDigest> {
        self.packed.as_ref().map(|packed| packed.digest.clone())
    }

    /// The object that holds the list; none if it is not stored.
    pub(super) fn packed(&self) -> Option<&[u8]> {
        self.packed.as_ref().map(|packed| packed.bytes.as_slice())
    }

    /// How many files differ from those of `before`; none if its list cannot be used, which is only worth a message.
    async fn compared(&self, store: &Store, app: &App, before: &Build) -> Option<FileCounts> {
        match ships::manifest(store, app, before).await {
            Ok(manifest) => Some(diff(&manifest, &self.manifest).shortened(0, 0).counts()),
            Err(failure) => {
                say(&format!("the files are not compared with {}: {}", before.artifact, failure.chain()));
                None
            }
        }
    }
}

/// What is new in a build since `before`, the newest build of its branch. git runs in `dir`.
///
/// # Errors
///
/// [`Code::Failed`] if a thread cannot be started. What git and the store do not know is no error.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(super) async fn since(
    store: &Store,
    app: &App,
    dir: PathBuf,
    build: &Build,
    before: Option<Build>,
    files: &Files,
) -> Result<Since, Failure> {
    let Some(before) = before else {
        return Ok(Since { base: None, changes: Changes { commits: Commits::First, files: None } });
    };
    let files = files.compared(store, app, &before).await;
    let base = Base { artifact: before.artifact, commit: before.commit };
    let (from, to) = (base.clone(), build.commit.clone());
    let commits = tokio::task::spawn_blocking(move || commits::between(&dir, &from, &to)).await;
    let commits = commits.map_err(|error| Failure::new(Code::Failed, "listing the commits failed").caused_by(error))?;
    Ok(Since { base: Some(base), changes: Changes { commits, files } })
}

fn say(line: &str) {
    output::say(&output::clean(line));
}
