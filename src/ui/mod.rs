//! The web page: the documents as HTML.
//!
//! ```text
//! api::pages reads documents with the caller's token ─► ui renders them ─► a browser
//!                                                            assets: one style sheet, one script
//! ```
//!
//! Pure: what is shown follows from the documents, the [`Frame`] and the time in it. Whatever comes from KV goes through
//! a template that escapes it, and through the filter `plain`, which takes out what could reorder or hide text.
//!
//! Every page works without the script. The script opens the event stream, fetches the page again at each event, and
//! merges the changes into the document, so that this module is the only one that renders.
//!
//! Not here: reading documents, requests, permissions (all in `api::pages`), and the API's own documents.

pub(crate) mod assets;
mod builds;
mod deploy;
mod doctor;
#[expect(
    unreachable_pub,
    clippy::inline_always,
    clippy::unused_self,
    clippy::unnecessary_wraps,
    clippy::trivially_copy_pass_by_ref,
    reason = "what askama makes of a filter, and asks of it"
)]
mod filters;
mod frame;
mod history;
mod lines;
mod may;
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
mod words;

#[cfg(test)]
mod tests;

pub(crate) use builds::{BuildsFilter, BuildsPage};
pub(crate) use deploy::DeployPage;
pub(crate) use doctor::DoctorPage;
pub(crate) use frame::{Frame, Prefs, Tab, Theme, Viewer};
pub(crate) use history::{HistoryFilter, HistoryPage};
pub(crate) use may::May;
pub(crate) use nodes::NodesPage;
pub(crate) use overview::{OverviewPage, UnitCard};
pub(crate) use problem::{EmptyPage, ProblemPage};
pub(crate) use review::{Asked, Review, ReviewPage};
pub(crate) use settings::{SettingsDocument, SettingsPage};
pub(crate) use sign_in::SignInPage;
pub(crate) use unit::{RollbackTarget, UnitPage};
