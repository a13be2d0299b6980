//! The release whose signature this node accepted last.

use std::sync::{Mutex, PoisonError};

use crate::protocol::record::Release;

/// Remembers what a prepare checked, so that the switch that follows needs no answer of Consul. Forgotten at a restart, after
/// which the settings may be others.
#[derive(Debug, Default)]
pub(crate) struct Accepted(Mutex<Option<Release>>);

impl Accepted {
    pub(super) fn note(&self, release: &Release) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(release.clone());
    }

    pub(super) fn is(&self, release: &Release) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(release)
    }
}
