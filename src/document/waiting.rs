//! A request that waits for a coordinator.

use serde::Serialize;

use super::Entry;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::{Request, UNATTRIBUTED, Wanted};

/// A request in `deploy` that no coordinator has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The number of the epoch it will have.
    pub epoch: ModifyIndex,
    /// What it asks for, in words.
    pub wants: String,
    /// Who says to ask.
    pub by: String,
}

impl Waiting {
    /// Reads `deploy`; none where it is blank.
    #[must_use]
    pub fn read(entry: &Entry) -> Option<Self> {
        if entry.value.trim_ascii().is_empty() {
            return None;
        }
        let epoch = entry.modify_index;
        let Ok(request) = Request::parse(&entry.value) else {
            return Some(Self { epoch, wants: "something unreadable".to_owned(), by: UNATTRIBUTED.to_owned() });
        };
        let wants = match &request.wanted {
            Wanted::Deploy(selector) => selector.to_string(),
            Wanted::Rollback(None) => "rollback".to_owned(),
            Wanted::Rollback(Some(artifact)) => format!("rollback to {artifact}"),
        };
        Some(Self { epoch, wants, by: request.author.by })
    }
}
