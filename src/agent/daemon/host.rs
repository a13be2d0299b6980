//! The agent as the HTTP API sees it.

use std::sync::Arc;

use crate::agent::daemon::context::Context;
use crate::api::Host;
use crate::protocol::ids::{App, Unit};
use crate::protocol::record::Build;

/// The units of this node. Empty on a node that serves only the API and the page.
#[derive(Debug)]
pub(super) struct Units(pub(super) Arc<[Arc<Context>]>);

impl Host for Units {
    fn ring(&self) {
        for unit in self.0.iter() {
            unit.bells.ring();
        }
    }

    fn units(&self) -> Vec<Unit> {
        self.0.iter().map(|unit| unit.unit.clone()).collect()
    }

    fn waiting(&self) -> Vec<Unit> {
        self.0.iter().filter(|unit| unit.published.session.borrow().is_none()).map(|unit| unit.unit.clone()).collect()
    }

    fn rejects(&self, app: &App, build: &Build) -> Option<String> {
        let mut of_app = self.0.iter().filter(|unit| unit.unit.app == *app);
        of_app.find_map(|unit| unit.settings.signatures.check(app, build).err()).map(|error| error.to_string())
    }
}
