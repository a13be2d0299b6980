//! The query of a dry run, for the API and for the page that reviews a request.

use serde::Deserialize;

use super::error::Problem;
use super::fields::{optional, ticked};
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::{Author, Request, Selector, Wanted};

/// The parameters of a dry run's query.
pub(super) const REVIEWED: [&str; 6] = ["ref", "rollback", "to", "reason", "force", "again"];

/// The query of a dry run. Empty fields count as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Reviewed {
    #[serde(default, rename = "ref")]
    pub(super) reference: String,
    #[serde(default)]
    pub(super) rollback: String,
    #[serde(default)]
    pub(super) to: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) force: String,
    #[serde(default)]
    pub(super) again: String,
}

impl Reviewed {
    /// The request that the dry run is about.
    ///
    /// # Errors
    ///
    /// 400 for an invalid request.
    pub(super) fn request(&self) -> Result<Request, Problem> {
        let hint = "write a branch, the name of a build, commit:… or artifact:…";
        let wanted = if ticked("rollback", &self.rollback)? {
            Wanted::Rollback(optional::<ArtifactName>("to", &self.to)?)
        } else if self.reference.trim().is_empty() {
            return Err(Problem::usage("ref: must not be empty", hint));
        } else {
            let selector = Selector::parse(&self.reference);
            Wanted::Deploy(selector.map_err(|problem| Problem::usage(format!("ref: {problem}"), hint))?)
        };
        Ok(Request {
            wanted,
            author: Author {
                by: String::new(),
                via: "ui".to_owned(),
                reason: self.reason.trim().to_owned(),
                id: String::new(),
            },
            force: ticked("force", &self.force)?,
            again: ticked("again", &self.again)?,
        })
    }
}
