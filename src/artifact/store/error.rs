//! Errors of a store. Each text names the object and contains the fix, because it is shown to users unchanged.
//!
//! Callers decide by [`StoreError::class`], never by the text: only [`Class::Transient`] is worth a retry. No error contains
//! credentials.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::kind::HasKind;

/// What a caller can do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Permissions or credentials are missing.
    Forbidden,
    /// The object does not exist.
    NotFound,
    /// Retries cannot help: an operator has to fix something.
    Permanent,
    /// A retry can succeed.
    Transient,
    /// The bytes do not match the build record.
    Verify,
}

/// What another program says about the failure, in one line.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// An error of a store. `place` is `s3://bucket/key`, or a path.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Credentials are configured, but cannot be used.
    #[error("the credentials for {place} cannot be used")]
    Credentials {
        /// The object.
        place: String,
        /// What is wrong with them.
        source: Cause,
    },
    /// A service that gives credentials does not answer, or fails.
    #[error("there are no credentials for {place} now")]
    CredentialsUnavailable {
        /// The object.
        place: String,
        /// The error of the service.
        source: Cause,
    },
    /// The connection broke, or a file ended, before the object's end.
    #[error("the connection broke while reading {place}")]
    Cut {
        /// The object.
        place: String,
        /// The error of the connection or the file.
        source: Cause,
    },
    /// A file of this machine or of a directory store cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// The step that failed, for example "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the filesystem.
        source: io::Error,
    },
    /// The server refuses the caller, or rejects the signature.
    #[error(
        "the store refuses access to {place} ({code}): check the credentials, their permissions (to read; to publish \
         also to write), and this machine's clock; without the permission to list, S3 also returns this for missing \
         objects"
    )]
    Forbidden {
        /// The object.
        place: String,
        /// The server's code, for example `AccessDenied`.
        code: String,
        /// The server's message.
        source: Cause,
    },
    /// A key that could leave the store.
    #[error("{key:?} is not a key: it is empty, or has an empty part, . or ..")]
    InvalidKey {
        /// The key.
        key: String,
    },
    /// The bucket or the root directory is missing.
    #[error("{root} does not exist: create it (or mount it), or correct store.url")]
    NoRoot {
        /// `s3://bucket`, or the directory.
        root: String,
    },
    /// No credentials were found.
    #[error(
        "no credentials for {place}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this \
         machine a role; under systemd put the variables into the unit's environment file"
    )]
    NoCredentials {
        /// The object.
        place: String,
        /// The error of the SDK.
        source: Cause,
    },
    /// The object does not exist.
    #[error("{place} is not in the store")]
    NotFound {
        /// The object.
        place: String,
    },
    /// The server refuses for another reason.
    #[error("the store refuses the request for {place} ({code})")]
    Refused {
        /// The object.
        place: String,
        /// The server's code.
        code: String,
        /// The server's message.
        source: Cause,
    },
    /// The object is another one than when its download began.
    #[error("{place} was replaced in the store while it was downloaded")]
    Replaced {
        /// The object.
        place: String,
    },
    /// Region or endpoint is wrong or missing.
    #[error("{problem} for {place}: set store.region, and store.endpoint if it is not AWS")]
    Settings {
        /// The object.
        place: String,
        /// The start of the sentence, for example "no region is known".
        problem: String,
    },
    /// An upload was too slow.
    #[error("the upload of {place} is stuck, or slower than 64 KiB/s: check the connection to the store")]
    SlowUpload {
        /// The object.
        place: String,
        /// The error of the SDK.
        source: Cause,
    },
    /// The caller stopped the upload.
    #[error("the upload of {place} was stopped")]
    Stopped {
        /// The object.
        place: String,
    },
    /// No data arrived for too long.
    #[error("no data for {place} in {} s", limit.as_secs_f32())]
    Stalled {
        /// The object.
        place: String,
        /// The time limit without data.
        limit: Duration,
    },
    /// The server is temporarily unavailable.
    #[error("the store cannot serve {place} now ({code})")]
    Unavailable {
        /// The object.
        place: String,
        /// The server's code, for example `SlowDown`.
        code: String,
        /// The server's message.
        source: Cause,
    },
    /// The server no longer knows an unfinished upload.
    #[error("the unfinished upload of {place} was aborted by someone else, or by a rule of the bucket: publish again")]
    UploadGone {
        /// The object.
        place: String,
    },
    /// A variable of the AWS tools has a value that cannot be used.
    #[error("{name} {problem}")]
    Variable {
        /// The variable, or the key of the profile.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No working connection.
    #[error("cannot reach {endpoint} for {place}: check store.endpoint, store.region, name resolution and firewall")]
    Unreachable {
        /// The object.
        place: String,
        /// The server.
        endpoint: String,
        /// The error of the connection.
        source: Cause,
    },
}

impl StoreError {
    /// What the caller can do about the error.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::CredentialsUnavailable { .. }
            | Self::Cut { .. }
            | Self::Replaced { .. }
            | Self::SlowUpload { .. }
            | Self::Stalled { .. }
            | Self::Stopped { .. }
            | Self::Unavailable { .. }
            | Self::Unreachable { .. }
            | Self::UploadGone { .. } => Class::Transient,
            Self::Disk { .. }
            | Self::InvalidKey { .. }
            | Self::NoRoot { .. }
            | Self::Refused { .. }
            | Self::Settings { .. }
            | Self::Variable { .. } => Class::Permanent,
            Self::Credentials { .. } | Self::Forbidden { .. } | Self::NoCredentials { .. } => Class::Forbidden,
            Self::NotFound { .. } => Class::NotFound,
        }
    }
}

impl HasKind for StoreError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Credentials { .. } => "credentials",
            Self::CredentialsUnavailable { .. } => "credentials_unavailable",
            Self::Cut { .. } => "cut",
            Self::Disk { .. } => "disk",
            Self::Forbidden { .. } => "forbidden",
            Self::InvalidKey { .. } => "invalid_key",
            Self::NoRoot { .. } => "no_root",
            Self::NoCredentials { .. } => "no_credentials",
            Self::NotFound { .. } => "not_found",
            Self::Refused { .. } => "refused",
            Self::Replaced { .. } => "replaced",
            Self::Settings { .. } => "settings",
            Self::SlowUpload { .. } => "slow_upload",
            Self::Stalled { .. } => "stalled",
            Self::Stopped { .. } => "stopped",
            Self::Unavailable { .. } => "unavailable",
            Self::Unreachable { .. } => "unreachable",
            Self::UploadGone { .. } => "upload_gone",
            Self::Variable { .. } => "variable",
        }
    }
}
