//! The query of a dry run, for the API and for the page that reviews a request.

use schemars::JsonSchema;
use serde::Deserialize;

use super::error::Problem;
use super::fields::{TICKS, optional, ticked};
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::{Author, Request, Selector, Wanted};

/// The query of a dry run. Empty fields count as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Reviewed {
    /// A branch, the name of a build, `commit:…` or `artifact:…`; required without `rollback`.
    #[serde(rename = "ref")]
    pub(super) reference: String,
    /// Requests a rollback.
    #[schemars(extend("enum" = TICKS))]
    pub(super) rollback: String,
    /// The target build; if left out, the newest release that was deployed successfully before.
    pub(super) to: String,
    /// The reason.
    pub(super) reason: String,
    /// Override a freeze, a bad mark, and a newer build that is not published.
    #[schemars(extend("enum" = TICKS))]
    pub(super) force: String,
    /// Make a new release of the build that already runs.
    #[schemars(extend("enum" = TICKS))]
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
