//! Why the demo ended early.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::cluster::ClusterError;
use super::process::ProcessError;

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Something did not come out as the demo claims.
    #[error("step `{step}`: expected {expected}, but saw {seen}")]
    Claim {
        /// The step.
        step: String,
        /// What should be.
        expected: String,
        /// What is.
        seen: String,
    },
    /// Consul's part.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A command could not be run at all.
    #[error("cannot run `{line}`")]
    Command {
        /// As typed.
        line: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A process of the fleet ended by itself.
    #[error("{name} ended by itself ({status}); its log ends:\n{tail}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        tail: String,
    },
    /// A file or directory.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Ctrl-C or SIGTERM before the last step.
    #[error("stopped before the end")]
    Interrupted,
    /// Something did not happen in time.
    #[error("step `{step}`: {what}: not within {limit:?}; last seen: {seen}")]
    Late {
        /// The step.
        step: String,
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What there was instead.
        seen: String,
    },
    /// There is no Consul.
    #[error("no Consul found ({tried}); install Consul 1.8 or newer and put it on PATH, or set CONSUL_BIN to it")]
    NoConsul {
        /// Where it was looked for.
        tried: String,
    },
    /// The output could not be written.
    #[error("cannot write the output")]
    Print(#[source] std::io::Error),
    /// A process could not be started or stopped.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Signals cannot be listened to.
    #[error("signals cannot be handled")]
    Signals(#[source] std::io::Error),
    /// The S3 server.
    #[cfg(feature = "s3-server")]
    #[error(transparent)]
    S3(#[from] super::s3::S3ServerError),
    /// This build has no S3 server.
    #[error("this build of cutover has no S3 server in it; leave out --store s3")]
    NoS3Server,
}

impl DemoError {
    pub(super) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn claim(step: &str, expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::Claim { step: step.to_owned(), expected: expected.into(), seen: seen.into() }
    }
}
