//! The record of the build that `publish` makes, and its signature.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::source::Source;
use crate::artifact::{Packed, object_name};
use crate::cli::args::Publish;
use crate::cli::origin::Origin;
use crate::cli::output::{clean, say};
use crate::control::publish::{Recorder, Standing, signer_named};
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
    ///
    /// # Errors
    ///
    /// As [`Listing::get`](crate::cli::ships::Listing::get).
    pub(super) async fn build(
        &self,
        artifact: ArtifactName,
        format: ArchiveFormat,
        archive: Packed,
    ) -> Result<Build, Failure> {
        let (origin, source) = (self.origin, self.source);
        let manifest = source.listing.get().await?.digest();
        let Packed { sha256, packed_bytes } = archive;
        Ok(Build {
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
            manifest,
            signature: None,
        })
    }

    /// The build with its signature, if it is to be signed.
    pub(super) fn signed(&self, build: Build) -> Build {
        let signature = self.signer.map(|key| key.sign(&self.args.app, &build));
        Build { signature, ..build }
    }

    /// Adds the signature to the record of a build that is published already, if it is to be signed. Returns the record as it
    /// is then. The signature of another key stays, unless the caller asks for its replacement: a job that is run again with
    /// the former key must not undo the signature of the new one.
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
        if !self.args.replace_signature && signer_named(&standing).is_some_and(|key| key != signer.id()) {
            tell_kept(&standing);
            return Ok(standing);
        }
        let format = self.source.format_like(standing.format);
        // What this key has signed was not changed since, so it need not be packed again.
        let has_signed = signer.has_signed(&self.args.app, &standing);
        let archive = if has_signed {
            Packed { sha256: standing.sha256.clone(), packed_bytes: standing.packed_bytes }
        } else {
            self.source.complete(format, stop).await?.packed()
        };
        let own = self.build(standing.artifact.clone(), format, archive).await?;
        if own.tree.is_some() && own.tree == standing.tree && own.sha256 != standing.sha256 {
            return Err(other_bytes(&standing));
        }
        // The record of an older version names no tree, no object and no list of files. It stays like that.
        let tree = own.tree.filter(|_| standing.tree.is_some());
        let object = own.object.filter(|_| standing.object.is_some());
        let manifest = own.manifest.filter(|_| standing.manifest.is_some());
        let own = Build { tree, object, manifest, ..own };
        let own = if has_signed { Build { signature: standing.signature, ..own } } else { self.signed(own) };
        let other = if self.args.replace_signature { Standing::IsReplaced } else { Standing::StaysOfOthers };
        let written = recorder.add_signature(&own, other).await?;
        // Another key may have signed it meanwhile.
        if written.signature != own.signature {
            tell_kept(&written);
        }
        Ok(written)
    }
}

fn tell_kept(standing: &Build) {
    let key = signer_named(standing).map(|key| key.to_string()).unwrap_or_default();
    say(&clean(&format!(
        "warning: {} is signed by key {key} already, and that signature stays; --replace-signature replaces it",
        standing.artifact
    )));
}

fn other_bytes(standing: &Build) -> Failure {
    let what = format!(
        "{} is published already, and its archive is not the one that this version of cutover packs of the same files, so it is not signed",
        standing.artifact
    );
    let hint = format!(
        "sign the record itself: `cutover build signed-text` prints its text, minisign signs it, and POST /v1/builds adds \
         the signature to {}; first find out whether somebody changed the record",
        standing.artifact
    );
    Failure::new(Code::Failed, what).hint(hint)
}
