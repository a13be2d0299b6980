//! `/units/<app>/<group>/doctor`: the health check, from this agent and from every node's own answer.

use askama::Template;

use super::frame::Frame;
use super::parts::Badge;
use super::{filters, words};
use crate::document::DoctorDocument;
use crate::protocol::ids::Unit;

/// The health check of a unit.
#[derive(Debug, Template)]
#[template(path = "doctor.html")]
pub(crate) struct DoctorPage {
    pub(crate) frame: Frame,
    pub(crate) unit: Unit,
    pub(crate) document: DoctorDocument,
    /// All units, for the navigation.
    pub(crate) units: Vec<Unit>,
}
