//! Why an archive cannot be read.

use crate::kind::HasKind;
use crate::plan::unpack::Refusal;

/// The archive is not acceptable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is damaged, or no archive at all.
    #[error("{0}")]
    Damaged(String),
    /// The plan refuses an entry.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl HasKind for ReadError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::Refused(_) => "refused",
        }
    }
}
