//! `/units/<app>/<group>/doctor`: what is wrong, by what can be seen from here and by every node's own answer.

use askama::Template;

use super::frame::Frame;
use super::parts::Badge;
use super::{filters, words};
use crate::document::DoctorDocument;
use crate::protocol::ids::Unit;

/// What was found.
#[derive(Debug, Template)]
#[template(path = "doctor.html")]
pub struct DoctorPage {
    /// What every page has.
    pub frame: Frame,
    /// The unit that was asked.
    pub unit: Unit,
    /// What was found.
    pub document: DoctorDocument,
    /// Every unit, to choose from.
    pub units: Vec<Unit>,
}
