//! Checks the signatures of builds by this node's own settings: before a node unpacks a build, and before a coordinator
//! begins its deploy. Nothing in Consul, and no `force`, changes the rules.

use crate::agent::daemon::context::Context;
use crate::protocol::ids::{ArtifactName, KeyId, ReleaseName, Sha256};
use crate::protocol::record::{Build, Fault, Step};
use crate::signing::SignatureError;

/// Checks a build record; returns the key that has signed it, if the rules asked for one.
///
/// # Errors
///
/// A fault of [`Step::Verify`] with the reason and how to proceed.
pub(crate) fn check(ctx: &Context, build: &Build) -> Result<Option<KeyId>, Fault> {
    ctx.settings.signatures.check(&ctx.unit.app, build).map_err(|error| refused(ctx, build, &error))
}

/// Checks a build that may be on the disk already, as `release`. What this node verified when it unpacked it stays usable,
/// also after its key was withdrawn; anything else is checked by the rules of today.
///
/// # Errors
///
/// As [`check`]; also if the disk cannot be read.
pub(crate) async fn check_placed(ctx: &Context, build: &Build, release: Option<&ReleaseName>) -> Result<(), Fault> {
    if ctx.settings.signatures.is_empty() {
        return Ok(());
    }
    if let Some(release) = release
        && is_verified(ctx, release, &build.artifact, &build.sha256).await?
    {
        return Ok(());
    }
    check(ctx, build).map(|_| ())
}

/// Whether this node holds this release of a build, and verified its signature when it unpacked it.
///
/// # Errors
///
/// The disk cannot be read.
pub(crate) async fn is_verified(
    ctx: &Context,
    release: &ReleaseName,
    artifact: &ArtifactName,
    sha256: &Sha256,
) -> Result<bool, Fault> {
    let (release, artifact, sha256) = (release.clone(), artifact.clone(), sha256.clone());
    let signer = ctx.on_disk(Step::Preflight, move |site| site.signer_of(&release, &artifact, &sha256)).await?;
    Ok(signer.is_some())
}

fn refused(ctx: &Context, build: &Build, error: &SignatureError) -> Fault {
    let (unit, node, artifact, remedy) = (&ctx.unit, &ctx.agent.node, &build.artifact, error.remedy());
    let rule = match error {
        SignatureError::Unsigned | SignatureError::UnknownKey { .. } => {
            format!(", and {node} has require_signature for {unit}")
        }
        SignatureError::Malformed { .. } | SignatureError::Mismatch { .. } => format!(", so {node} refuses it"),
    };
    Fault::new(Step::Verify, &format!("{artifact} {error}{rule}; {remedy}"))
}
