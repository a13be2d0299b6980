//! When a node looks at its disk again after the disk could not be read.
//!
//! Otherwise a node looks when something happens. An error that was over in a moment would be its alarm until then: in a quiet
//! week, until the next deploy.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::protocol::shell::describe::Found;

/// The pause after the first error.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause. A look costs some dozen system calls.
const LONGEST: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct NextLook {
    due: Option<Instant>,
    backoff: Backoff,
}

impl Default for NextLook {
    fn default() -> Self {
        Self { due: None, backoff: Backoff::new(FIRST, LONGEST) }
    }
}

impl NextLook {
    /// Plans the look after this one.
    pub(crate) fn after(&mut self, found: &Found) {
        match found {
            Found::Broken(_) => self.due = Some(Instant::now() + self.backoff.pause(fastrand::f64())),
            Found::Disk(_) => {
                self.due = None;
                self.backoff.succeeded();
            }
            // The end of the work brings the next look.
            Found::Nothing => self.due = None,
        }
    }

    /// Waits until the next look is due; for ever if none is planned.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(crate) async fn is_due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}
