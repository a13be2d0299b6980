//! A request that waits for a coordinator.

use schemars::JsonSchema;
use serde::Serialize;

use super::Entry;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::{Request, UNATTRIBUTED, Wanted, is_blank};

/// A request in the key `deploy` that no coordinator has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Waiting {
    /// The number of its future epoch.
    pub(crate) epoch: ModifyIndex,
    /// Its target, in words.
    pub(crate) wants: String,
    /// The author, as claimed.
    pub(crate) by: String,
}

impl Waiting {
    /// Reads the key `deploy`; none if it is blank.
    #[must_use]
    pub(crate) fn read(entry: &Entry) -> Option<Self> {
        if is_blank(&entry.value) {
            return None;
        }
        let epoch = entry.modify_index;
        let Ok(request) = Request::parse(&entry.value) else {
            return Some(Self { epoch, wants: "an unreadable request".to_owned(), by: UNATTRIBUTED.to_owned() });
        };
        let wants = match &request.wanted {
            Wanted::Deploy(selector) => selector.to_string(),
            Wanted::Rollback(None) => "rollback".to_owned(),
            Wanted::Rollback(Some(artifact)) => format!("rollback to {artifact}"),
        };
        Some(Self { epoch, wants, by: request.author.by })
    }
}
