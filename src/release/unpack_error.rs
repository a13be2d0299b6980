//! Why an archive was not unpacked.

use std::io;

use crate::kind::HasKind;
use crate::plan::unpack::Refusal;

/// Why an archive was not unpacked. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The bytes have the right digest, but are not an acceptable archive.
    #[error("the archive is invalid: {0}")]
    Archive(String),
    /// The caller canceled.
    #[error("the unpack was canceled")]
    Canceled,
    /// The bytes do not match the build record.
    #[error("the archive's SHA-256 is {found}, but its build record has {expected}")]
    Digest {
        /// As recorded.
        expected: String,
        /// As read.
        found: String,
    },
    /// The directory cannot be created or read.
    #[error("{path} cannot be created")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry is not allowed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its bytes could not be read.
    #[error("the archive could not be read")]
    Source(#[source] io::Error),
    /// The archive is longer than recorded.
    #[error("the archive is longer than the {expected} bytes of its build record")]
    TooLong {
        /// As recorded.
        expected: u64,
    },
    /// The archive is shorter than recorded.
    #[error("the archive has {found} bytes, but its build record has {expected}")]
    TooShort {
        /// As recorded.
        expected: u64,
        /// As read.
        found: u64,
    },
    /// A file or link cannot be written.
    #[error("{path:?} could not be written")]
    Write {
        /// The path in the release.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A writer thread ended early: a bug.
    #[error("a writer thread ended before its work was done")]
    Writer,
}

impl HasKind for UnpackError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Archive(_) => "archive",
            Self::Canceled => "canceled",
            Self::Digest { .. } => "digest",
            Self::Directory { .. } => "directory",
            Self::Refused(_) => "refused",
            Self::Source(_) => "source",
            Self::TooLong { .. } => "too_long",
            Self::TooShort { .. } => "too_short",
            Self::Write { .. } => "write",
            Self::Writer => "writer",
        }
    }
}
