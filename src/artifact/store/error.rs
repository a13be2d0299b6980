//! What can go wrong with a store, in words that say how to mend it.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing, until somebody gives the rights or credentials.
    Forbidden,
    /// Nothing: it is not there.
    NotFound,
    /// Nothing, until somebody mends something.
    Permanent,
    /// Try again.
    Transient,
    /// Nothing: these are other bytes than the build record says.
    Verify,
}

type Cause = Box<dyn Error + Send + Sync>;

/// A store that did not do what was asked. `place` is `s3://bucket/key`, or a path.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection broke, or a file ended, before the object's end.
    #[error("reading {place} was cut off")]
    Cut {
        /// What was read.
        place: String,
        /// Why.
        source: Cause,
    },
    /// Reading or writing on this machine, or in a directory store.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// For example "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server knows the caller and refuses, or does not believe the signature.
    #[error(
        "the store refuses access to {place} ({code}): check that the credentials are the right ones, that they may \
         read (publishing: also write) there, and that this machine's clock is right; without the right to list, S3 \
         says this of objects that are missing, too"
    )]
    Forbidden {
        /// What was asked for.
        place: String,
        /// The server's code, for example `AccessDenied`.
        code: String,
        /// The server's words.
        source: Cause,
    },
    /// A key that could leave the store.
    #[error("{key:?} is not a key: it is empty, or has an empty part, . or ..")]
    InvalidKey {
        /// The key.
        key: String,
    },
    /// The bucket or the root directory is missing.
    #[error("{root} is not there: create it (or mount it), or correct store.url")]
    NoRoot {
        /// `s3://bucket`, or the directory.
        root: String,
    },
    /// No credentials were found.
    #[error(
        "no credentials for {place}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this \
         machine a role; under systemd put them into the unit's environment file"
    )]
    NoCredentials {
        /// What was asked for.
        place: String,
        /// What was tried.
        source: Cause,
    },
    /// There is no such object.
    #[error("{place} is not in the store")]
    NotFound {
        /// What was asked for.
        place: String,
    },
    /// The server says no for another reason.
    #[error("the store refuses the request for {place} ({code})")]
    Refused {
        /// What was asked for.
        place: String,
        /// The server's code.
        code: String,
        /// The server's words.
        source: Cause,
    },
    /// Region or endpoint is wrong or missing.
    #[error("{problem} for {place}: set store.region, and store.endpoint where it is not AWS")]
    Settings {
        /// What was asked for.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// Nothing came for too long.
    #[error("{place} stood still for {} s", limit.as_secs_f32())]
    Stalled {
        /// What was read or written.
        place: String,
        /// How long it may stand still.
        limit: Duration,
    },
    /// The server answers that it cannot now.
    #[error("the store cannot serve {place} now ({code})")]
    Unavailable {
        /// What was asked for.
        place: String,
        /// The server's code, for example `SlowDown`.
        code: String,
        /// The server's words.
        source: Cause,
    },
    /// No connection, or none that works.
    #[error("cannot reach {endpoint} for {place}: check store.endpoint, store.region, name resolution and firewall")]
    Unreachable {
        /// What was asked for.
        place: String,
        /// The server.
        endpoint: String,
        /// Why.
        source: Cause,
    },
}

impl StoreError {
    /// A short word for metrics and for the API's `kind`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut",
            Self::Disk { .. } => "disk",
            Self::Forbidden { .. } => "forbidden",
            Self::InvalidKey { .. } => "invalid_key",
            Self::NoRoot { .. } => "no_root",
            Self::NoCredentials { .. } => "no_credentials",
            Self::NotFound { .. } => "not_found",
            Self::Refused { .. } => "refused",
            Self::Settings { .. } => "settings",
            Self::Stalled { .. } => "stalled",
            Self::Unavailable { .. } => "unavailable",
            Self::Unreachable { .. } => "unreachable",
        }
    }

    /// What a caller can do about it.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Cut { .. } | Self::Stalled { .. } | Self::Unavailable { .. } | Self::Unreachable { .. } => {
                Class::Transient
            }
            Self::Disk { .. }
            | Self::InvalidKey { .. }
            | Self::NoRoot { .. }
            | Self::Refused { .. }
            | Self::Settings { .. } => Class::Permanent,
            Self::Forbidden { .. } | Self::NoCredentials { .. } => Class::Forbidden,
            Self::NotFound { .. } => Class::NotFound,
        }
    }
}
