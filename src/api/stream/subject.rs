//! The subject of a feed: the prefix that the feed watches, and the document that it reads.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::control::{Access, Code, Failure, read};
use crate::protocol::ids::{App, Unit};

/// The shortest time between two reads of a unit's status.
const STATUS_PACE: Duration = Duration::from_millis(100);
/// The shortest time between two reads of an app's builds. These are many records, which change whenever a node has fetched a
/// build, and they are less urgent than a deploy.
const BUILDS_PACE: Duration = Duration::from_secs(1);
/// The shortest time between two checks for new units. Each check lists all keys.
const UNITS_PACE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Subject {
    Units,
    Status(Unit),
    Builds(App),
}

/// The content of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Document {
        /// JSON without line breaks.
        json: Arc<str>,
        /// The first bytes of the SHA-256 of `json`. The index alone does not identify a document, because the document can
        /// also change with time.
        digest: u32,
    },
    /// The unit does not exist, or the app has no builds.
    Gone,
    /// The units that have keys.
    Units(Arc<BTreeSet<Unit>>),
}

impl Body {
    /// The size in bytes; 0 for a short event.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Document { json, .. } => json.len(),
            Self::Gone | Self::Units(_) => 0,
        }
    }

    /// Distinguishes documents with the same index.
    pub(super) fn digest(&self) -> u32 {
        match self {
            Self::Document { digest, .. } => *digest,
            Self::Gone | Self::Units(_) => 0,
        }
    }
}

impl Subject {
    /// The prefix of all keys that the document depends on.
    pub(super) fn prefix(&self, access: &Access) -> String {
        let keys = &access.keys;
        match self {
            Self::Units => keys.prefix().to_owned(),
            Self::Status(unit) => keys.unit(unit).prefix().to_owned(),
            Self::Builds(app) => format!("{}{app}/", keys.prefix()),
        }
    }

    pub(super) fn pace(&self) -> Duration {
        match self {
            Self::Units => UNITS_PACE,
            Self::Status(_) => STATUS_PACE,
            Self::Builds(_) => BUILDS_PACE,
        }
    }

    /// Reads the document consistently, with the permissions of `access`.
    ///
    /// # Errors
    ///
    /// As any read of Consul. A missing unit or app gives [`Body::Gone`].
    pub(super) async fn read(&self, access: &Access) -> Result<Body, Failure> {
        match self {
            Self::Units => Ok(Body::Units(Arc::new(access.units().await?.into_iter().collect()))),
            Self::Status(unit) => or_gone(read::status(access, unit).await),
            Self::Builds(app) => or_gone(read::builds(access, app).await),
        }
    }

    /// The name of the event that carries the document.
    pub(super) fn event(&self) -> &'static str {
        match self {
            Self::Units => "units",
            Self::Status(_) => "status",
            Self::Builds(_) => "builds",
        }
    }

    /// The data of the event `gone`.
    pub(super) fn named(&self) -> serde_json::Value {
        match self {
            Self::Units => json!({}),
            Self::Status(unit) => json!({"unit": unit}),
            Self::Builds(app) => json!({"app": app}),
        }
    }
}

/// For log messages.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Units => f.write_str("the list of groups"),
            Self::Status(unit) => write!(f, "the status of {unit}"),
            Self::Builds(app) => write!(f, "the builds of {app}"),
        }
    }
}

fn or_gone(read: Result<impl Serialize, Failure>) -> Result<Body, Failure> {
    let document = match read {
        Ok(document) => document,
        Err(failure) if failure.code == Code::NotFound => return Ok(Body::Gone),
        Err(failure) => return Err(failure),
    };
    let json = serde_json::to_string(&document)
        .map_err(|error| Failure::new(Code::Failed, "the document cannot be written as JSON").caused_by(error))?;
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(&json).into();
    Ok(Body::Document { json: json.into(), digest: u32::from_be_bytes([a, b, c, d]) })
}
