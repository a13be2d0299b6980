//! The web page: the documents as HTML.
//!
//! ```text
//! api::pages reads documents with the caller's token ─► ui renders them ─► a browser
//!                                                            assets: one style sheet, one script
//! ```
//!
//! Pure: a page depends only on its documents, the [`Frame`] and the time in it. Text from KV passes through a template that
//! escapes it, and through the filter `plain`, which removes characters that could reorder or hide text.
//!
//! Every page works without the script. The script opens the event stream, fetches the page again at each event, and
//! merges the changes into the document, so that this module is the only one that renders.
//!
//! Not here: reading documents, sending requests, checking permissions (all in `api::pages`), and the API's own documents.

pub(crate) mod assets;
mod builds;
mod denials;
mod deploy;
mod doctor;
#[expect(
    unreachable_pub,
    clippy::inline_always,
    clippy::unused_self,
    clippy::unnecessary_wraps,
    clippy::trivially_copy_pass_by_ref,
    reason = "required by the code that askama generates for a filter"
)]
mod filters;
mod frame;
mod history;
mod nodes;
mod overview;
mod parts;
mod problem;
mod review;
mod settings;
mod sign_in;
mod text;
mod timeline;
mod tone;
mod unit;
mod unit_state;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use builds::{BuildsFilter, BuildsPage};
pub(crate) use denials::Denials;
pub(crate) use deploy::DeployPage;
pub(crate) use doctor::DoctorPage;
pub(crate) use frame::{Frame, Prefs, Tab, Theme, Viewer};
pub(crate) use history::{HistoryFilter, HistoryPage};
pub(crate) use nodes::NodesPage;
pub(crate) use overview::{OverviewPage, UnitCard};
pub(crate) use problem::{EmptyPage, ProblemPage};
pub(crate) use review::{Review, ReviewPage, ReviewedRequest};
pub(crate) use settings::{SettingsDocument, SettingsPage};
pub(crate) use sign_in::SignInPage;
pub(crate) use unit::{RollbackTarget, UnitPage};
