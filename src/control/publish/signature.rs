//! Adds signatures to the records of builds that are published already.

use super::{Recorder, TRIES};
use crate::control::kv::Replaced;
use crate::control::{Code, Failure};
use crate::protocol::ids::{ArtifactName, KeyId};
use crate::protocol::record::{Build, decode, with_signature};
use crate::signing::{changed_fields, named_key, signed_text};

/// What becomes of the signature that a record has already. What is no signature at all never stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It stays, whoever made it: the caller cannot tell whether it fits.
    Stays,
    /// It stays if it is of another key. The caller has its own key, and has found that its signature does not fit.
    StaysOfOthers,
    /// It is replaced.
    IsReplaced,
}

impl Standing {
    fn stays(self, standing: &Build, own: &Build) -> bool {
        let Some(key) = signer_named(standing) else { return false };
        match self {
            Self::Stays => true,
            Self::StaysOfOthers => signer_named(own).as_ref() != Some(&key),
            Self::IsReplaced => false,
        }
    }
}

/// The key that a build's signature names; none without a signature, or where it is none of minisign.
pub(crate) fn signer_named(build: &Build) -> Option<KeyId> {
    build.signature.as_ref().and_then(|signature| named_key(signature).ok())
}

impl Recorder<'_> {
    /// The record of a published build.
    ///
    /// # Errors
    ///
    /// Exit code 3 if there is none, 1 if it cannot be read.
    pub(crate) async fn published(&self, name: &ArtifactName) -> Result<Build, Failure> {
        let missing = || {
            Failure::new(Code::NotFound, format!("{} has no published build {name}", self.app))
                .hint(format!("`cutover builds {}` lists them", self.app))
        };
        self.build(name).await?.ok_or_else(missing)
    }

    /// Adds a signature to the record of a published build, or replaces the one that it has if `other` says so; returns
    /// the record as it is then. No other field changes, and unknown ones of a newer program stay.
    ///
    /// `own` is the build as its publisher knows it. Only those facts are signed: whoever changed the record must not get a
    /// signature for it.
    ///
    /// # Errors
    ///
    /// Exit code 1 if the record differs from `own` in anything that a signature covers, 6 after too many conflicts.
    pub(crate) async fn add_signature(&self, own: &Build, other: Standing) -> Result<Build, Failure> {
        let name = &own.artifact;
        let key = self.access.keys.build(self.app, name);
        for _ in 0..TRIES {
            let standing = self.access.kv.entry(&key).await?;
            let standing = standing.ok_or_else(|| {
                Failure::new(Code::Busy, format!("the record of {name} was removed meanwhile")).hint("publish again")
            })?;
            let build: Build = decode(&key, &standing.value).map_err(|error| unsigned(name).caused_by(error))?;
            let changed = changed_fields(&signed_text(self.app, own), &signed_text(self.app, &build));
            if !changed.is_empty() {
                let what = format!(
                    "{name} is published already, and its record differs from this build in {}, so it is not signed",
                    changed.join(", ")
                );
                let hint = "publish with the options of the first time, or find out who changed the record";
                return Err(Failure::new(Code::Failed, what).hint(hint));
            }
            if build.signature == own.signature || other.stays(&build, own) {
                return Ok(build);
            }
            let Some(signature) = &own.signature else { return Ok(build) };
            // Not attested: its publisher's attestation goes on to count, as it was made for the record without it.
            let value = with_signature(&standing.value, signature).ok_or_else(|| unsigned(name))?;
            if self.access.kv.replace(&key, &value, standing.modify_index).await? != Replaced::Lost {
                return Ok(Build { signature: own.signature.clone(), ..build });
            }
        }
        Err(Failure::new(Code::Busy, format!("other writers of {key} wrote first {TRIES} times in a row")))
    }
}

fn unsigned(name: &ArtifactName) -> Failure {
    Failure::new(Code::Failed, format!("the record of {name} cannot be signed"))
}
