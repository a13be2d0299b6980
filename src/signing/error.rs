//! Why a build's signature is not accepted.

use crate::kind::HasKind;
use crate::protocol::ids::KeyId;

/// Why a build is not accepted. Each is the rest of a sentence that begins with the build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    /// Bytes that no key can have signed.
    #[error("has a signature that is not one of minisign: {problem}")]
    Malformed { problem: &'static str },
    /// The key is pinned, and has not signed this.
    #[error(
        "has a signature by key {key} that does not fit: the record was changed, or it is the signature of another build"
    )]
    Mismatch { key: KeyId },
    #[error("is not signed")]
    Unsigned,
    /// A key that is not pinned: one of a stranger, one that was withdrawn, or one that is not pinned yet.
    #[error("is signed by key {key}, which is not among [signatures] keys")]
    UnknownKey { key: KeyId },
}

impl HasKind for SignatureError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::Mismatch { .. } => "mismatch",
            Self::Unsigned => "unsigned",
            Self::UnknownKey { .. } => "unknown_key",
        }
    }
}

impl SignatureError {
    /// How to proceed.
    pub(crate) const fn remedy(&self) -> &'static str {
        match self {
            Self::Malformed { .. } | Self::Unsigned => "publish it again with --sign",
            Self::Mismatch { .. } => "find out who changed it, and publish it again with --sign",
            Self::UnknownKey { .. } => {
                "publish it again with --sign, a pinned key and --replace-signature, or pin that key on every node if it is yours"
            }
        }
    }
}
