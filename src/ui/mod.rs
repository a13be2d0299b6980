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

pub mod assets;
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

pub use builds::{BuildsFilter, BuildsPage};
pub use deploy::DeployPage;
pub use doctor::DoctorPage;
pub use frame::{Frame, Prefs, Tab, Theme, Viewer};
pub use history::{HistoryFilter, HistoryPage};
pub use may::May;
pub use nodes::NodesPage;
pub use overview::{OverviewPage, UnitCard};
pub use problem::{EmptyPage, ProblemPage};
pub use review::{Asked, Review, ReviewPage};
pub use settings::{SettingsDocument, SettingsPage};
pub use sign_in::SignInPage;
pub use unit::{RollbackTarget, UnitPage};
