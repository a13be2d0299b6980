//! The record of the build that `publish` makes, and its signature.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::source::Source;
use crate::artifact::{Packed, object_name};
use crate::cli::args::Publish;
use crate::cli::origin::Origin;
use crate::cli::ships::Files;
use crate::control::publish::Recorder;
use crate::control::{Code, Failure};
use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::{ArtifactName, ObjectName};
use crate::protocol::record::{ArchiveFormat, Build, Place};
use crate::signing::SecretKey;

/// What is published.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) args: &'a Publish,
    pub(super) origin: &'a Origin,
    pub(super) source: &'a Source,
    pub(super) files: &'a Files,
    /// None: the build is not signed.
    pub(super) signer: Option<&'a SecretKey>,
}

impl Work<'_> {
    fn of(&self) -> BuildRef<'_> {
        BuildRef::new(&self.origin.branch, self.origin.tag.as_ref(), self.origin.pull_request.as_deref())
    }

    /// The name that the archive's object gets.
    pub(super) fn object(&self, artifact: &ArtifactName, format: ArchiveFormat) -> ObjectName {
        object_name(artifact, self.of(), &self.origin.commit, &self.source.name_digest(format), format)
    }

    /// The record under a name, not signed.
    pub(super) fn build(&self, artifact: ArtifactName, format: ArchiveFormat, archive: Packed) -> Build {
        let (origin, source) = (self.origin, self.source);
        let Packed { sha256, packed_bytes } = archive;
        Build {
            object: Some(self.object(&artifact, format)),
            artifact,
            branch: origin.branch.clone(),
            commit: origin.commit.clone(),
            summary: origin.summary.clone(),
            sha256,
            packed_bytes,
            unpacked_bytes: source.totals.bytes,
            entries: source.totals.entries,
            format,
            tree: source.tree().cloned(),
            profile: self.args.profile.clone(),
            pull_request: origin.pull_request.clone(),
            tag: origin.tag.clone(),
            place: Place { order: None, ancestors: origin.ancestors.clone() },
            url: origin.url.clone(),
            by: origin.by.clone(),
            id: String::new(),
            at: Timestamp::now(),
            since: None,
            manifest: self.files.digest(),
            signature: None,
        }
    }

    /// The build with its signature, if it is to be signed.
    pub(super) fn signed(&self, build: Build) -> Build {
        let signature = self.signer.map(|key| key.sign(&self.args.app, &build));
        Build { signature, ..build }
    }

    /// Adds the signature to the record of a build that is published already, if it is to be signed. Returns the record as it
    /// is then.
    ///
    /// # Errors
    ///
    /// Exit code 1 if the same files have other bytes now; as packing, and as [`Recorder::add_signature`].
    pub(super) async fn sign_again(
        &self,
        recorder: &Recorder<'_>,
        standing: Build,
        stop: &CancellationToken,
    ) -> Result<Build, Failure> {
        let Some(signer) = self.signer else { return Ok(standing) };
        let format = self.source.format_like(standing.format);
        // What this key has signed was not changed since, so it need not be packed again.
        let archive = if signer.has_signed(&self.args.app, &standing) {
            Packed { sha256: standing.sha256.clone(), packed_bytes: standing.packed_bytes }
        } else {
            self.source.complete(format, stop).await?.packed()
        };
        let own = self.build(standing.artifact.clone(), format, archive);
        if own.tree.is_some() && own.tree == standing.tree && own.sha256 != standing.sha256 {
            return Err(other_bytes(&standing));
        }
        // The record of an older version names no tree, no object and no list of files. It stays like that.
        let tree = own.tree.filter(|_| standing.tree.is_some());
        let object = own.object.filter(|_| standing.object.is_some());
        let manifest = own.manifest.filter(|_| standing.manifest.is_some());
        recorder.add_signature(&self.signed(Build { tree, object, manifest, ..own })).await
    }
}

fn other_bytes(standing: &Build) -> Failure {
    let what = format!(
        "{} is published already, and its archive is not the one that this version of cutover packs of the same files, so it is not signed",
        standing.artifact
    );
    let hint = "publish with the version that recorded the build, or find out who changed the record";
    Failure::new(Code::Failed, what).hint(hint)
}
