//! Why the demo ended early.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::cluster::ClusterError;
use crate::process::ProcessError;
use crate::s3::S3ServerError;

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step did not do what the demo claims.
    #[error("step `{step}`: expected {expected}, but saw {seen}")]
    Claim {
        /// The step's label.
        step: String,
        /// What the demo claims.
        expected: String,
        /// What happened instead.
        seen: String,
    },
    /// The Consul cluster cannot be started or handled.
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
        /// The process.
        name: String,
        /// Its exit status.
        status: ExitStatus,
        /// The last lines of its log.
        tail: String,
    },
    /// A file or directory cannot be used.
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
    /// Ctrl-C or SIGTERM came before the last step.
    #[error("the demo was stopped before its end")]
    Interrupted,
    /// Something did not happen in time.
    #[error("step `{step}`: {what}: not within {limit:?}; last seen: {seen}")]
    Late {
        /// The step.
        step: String,
        /// What the demo waited for.
        what: String,
        /// How long it waited.
        limit: Duration,
        /// What it saw last.
        seen: String,
    },
    /// No Consul binary was found.
    #[error("no Consul found ({tried}); install Consul 1.8 or newer and put it on PATH, or set CONSUL_BIN to it")]
    NoConsul {
        /// Where the demo looked.
        tried: String,
    },
    /// The output could not be written.
    #[error("cannot write the output")]
    Print(#[source] std::io::Error),
    /// A process could not be started or stopped.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Signal handlers cannot be set.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// The S3 server cannot be started.
    #[error(transparent)]
    S3(#[from] S3ServerError),
}

impl DemoError {
    pub(super) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn claim(step: &str, expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::Claim { step: step.to_owned(), expected: expected.into(), seen: seen.into() }
    }
}
