//! The errors of an unpack.

use std::io;

use super::fault::Retry;
use crate::archive::ReadError;
use crate::kind::HasKind;
use crate::plan::unpack::Refusal;

/// Why an archive was not unpacked. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The bytes have the right digest, but are not an acceptable archive.
    #[error("the archive is invalid: {0}")]
    Archive(String),
    /// The caller canceled the unpack with [`Control::cancel`](super::Control::cancel).
    #[error("the unpack was canceled")]
    Canceled,
    /// The thread that unpacks cannot be started, or keeps its rights.
    #[error("the thread that unpacks could not be limited to {path}")]
    Confine {
        /// The directory.
        path: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The bytes do not match the build record.
    #[error("the archive's SHA-256 is {found}, but its build record has {expected}")]
    Digest {
        /// The digest in the build record.
        expected: String,
        /// The digest of the bytes that were read.
        found: String,
    },
    /// The directory cannot be created or read.
    #[error("{path} cannot be created")]
    Directory {
        /// The directory.
        path: String,
        /// The error of the filesystem.
        #[source]
        source: io::Error,
    },
    /// The unpack plan refuses an entry.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The source of the archive failed.
    #[error("the archive could not be read")]
    Source(#[source] io::Error),
    /// A thread of the unpack cannot be started.
    #[error("a thread of the unpack could not be started")]
    Thread(#[source] io::Error),
    /// The archive is longer than recorded.
    #[error("the archive is longer than the {expected} bytes of its build record")]
    TooLong {
        /// The length in the build record, in bytes.
        expected: u64,
    },
    /// The archive is shorter than recorded.
    #[error("the archive has {found} bytes, but its build record has {expected}")]
    TooShort {
        /// The length in the build record, in bytes.
        expected: u64,
        /// The length that was read, in bytes.
        found: u64,
    },
    /// A file or link cannot be written.
    #[error("{path} could not be written")]
    Write {
        /// The path in the release, in quotes.
        path: String,
        /// The error of the filesystem.
        #[source]
        source: io::Error,
    },
    /// A writer thread ended early: a bug.
    #[error("a writer thread ended before its work was done")]
    Writer,
}

impl From<ReadError> for UnpackError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(problem) => Self::Archive(problem),
            ReadError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

impl UnpackError {
    /// Whether another unpack of an archive with the recorded digest may succeed.
    pub(super) const fn retry(&self) -> Retry {
        match self {
            Self::Archive(_) | Self::Refused(_) => Retry::Useless,
            Self::Canceled
            | Self::Confine { .. }
            | Self::Digest { .. }
            | Self::Directory { .. }
            | Self::Source(_)
            | Self::Thread(_)
            | Self::TooLong { .. }
            | Self::TooShort { .. }
            | Self::Write { .. }
            | Self::Writer => Retry::MayHelp,
        }
    }
}

impl HasKind for UnpackError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Archive(_) => "archive",
            Self::Canceled => "canceled",
            Self::Confine { .. } => "confine",
            Self::Digest { .. } => "digest",
            Self::Directory { .. } => "directory",
            Self::Refused(_) => "refused",
            Self::Source(_) => "source",
            Self::Thread(_) => "thread",
            Self::TooLong { .. } => "too_long",
            Self::TooShort { .. } => "too_short",
            Self::Write { .. } => "write",
            Self::Writer => "writer",
        }
    }
}
