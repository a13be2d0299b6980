//! What a feed reads: the prefix that it watches, and the document that it makes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::control::{Access, Code, Failure, read};
use crate::protocol::ids::{App, Unit};

/// The least time between two reads of one unit's status.
const STATUS_PACE: Duration = Duration::from_millis(100);
/// The least time between two reads of an app's builds, which are many records and change with every node that has
/// fetched one, and are less urgent than a deploy.
const BUILDS_PACE: Duration = Duration::from_secs(1);
/// The least time between two checks for new units, each of which lists all keys.
const UNITS_PACE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Subject {
    Units,
    Status(Unit),
    Builds(App),
}

/// The content of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Document {
        /// As JSON without line breaks.
        json: Arc<str>,
        /// The beginning of the SHA-256 of that: the clock too can change a document, and leaves its index as it is.
        digest: u32,
    },
    /// No such unit, or no builds.
    Gone,
    /// The units that have keys.
    Units(Arc<BTreeSet<Unit>>),
}

impl Body {
    /// Its size on the wire, in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Document { json, .. } => json.len(),
            Self::Gone | Self::Units(_) => 0,
        }
    }

    /// Tells documents of one index apart.
    pub(super) fn digest(&self) -> u32 {
        match self {
            Self::Document { digest, .. } => *digest,
            Self::Gone | Self::Units(_) => 0,
        }
    }
}

impl Subject {
    /// Whatever changes the document lies under this prefix.
    pub(super) fn prefix(&self, access: &Access) -> String {
        let keys = &access.keys;
        match self {
            Self::Units => keys.prefix().to_owned(),
            Self::Status(unit) => keys.unit(unit).prefix().to_owned(),
            Self::Builds(app) => format!("{}{app}/", keys.prefix()),
        }
    }

    /// The least time between two reads.
    pub(super) fn pace(&self) -> Duration {
        match self {
            Self::Units => UNITS_PACE,
            Self::Status(_) => STATUS_PACE,
            Self::Builds(_) => BUILDS_PACE,
        }
    }

    /// Reads the document, consistently and with the rights of `access`.
    ///
    /// # Errors
    ///
    /// As any read of Consul; what is not there is [`Body::Gone`].
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
