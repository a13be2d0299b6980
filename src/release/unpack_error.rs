//! Why an archive was not unpacked.

use std::io;

use crate::plan::unpack::Refusal;

/// The archive was not unpacked; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Its bytes have the right digest, and are no archive that is unpacked.
    #[error("the archive is not accepted: {0}")]
    Archive(String),
    /// The caller has canceled.
    #[error("the unpack was canceled")]
    Canceled,
    /// Its bytes are others than the build record says.
    #[error("the archive's SHA-256 is {found}, and the build record says {expected}")]
    Digest {
        /// As recorded.
        expected: String,
        /// As read.
        found: String,
    },
    /// The directory cannot be made or read.
    #[error("{path} cannot be made")]
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
    /// It goes on after the recorded size.
    #[error("the archive is longer than the {expected} bytes of its build record")]
    TooLong {
        /// As recorded.
        expected: u64,
    },
    /// It ends before the recorded size.
    #[error("the archive has {found} bytes, and its build record says {expected}")]
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
    /// A writer thread has ended early: a fault of the program.
    #[error("a writer thread has ended before its work")]
    Writer,
}

impl UnpackError {
    /// A word for metrics and programs, of a fixed set.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
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
