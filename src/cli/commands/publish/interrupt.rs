//! Ctrl-C and SIGTERM while a build is published: stop, and remove what was made so far.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::say;
use crate::control::{Code, Failure};

/// Runs `work`, which must end soon after `stop`. The first signal stops it; the second one no longer waits.
///
/// Work that was done before the signal arrived stays done: it returns its own result.
pub(super) async fn unless_interrupted<T>(
    signals: &mut Signals,
    stop: &CancellationToken,
    mut work: impl Future<Output = Result<T, Failure>> + Unpin,
) -> Result<T, Failure> {
    let name = tokio::select! {
        done = &mut work => return done,
        name = signals.next() => name,
    };
    say(&format!("{name}: stopping; what was uploaded so far is removed"));
    stop.cancel();
    tokio::select! {
        done = work => done,
        _ = signals.next() => Err(interrupted("an unfinished upload may remain in the store; publishing again later removes it")),
    }
}

/// The failure after a signal.
#[must_use]
pub(super) fn interrupted(result: &str) -> Failure {
    Failure::new(Code::Failed, format!("interrupted: {result}"))
}

/// The signals that end `publish`. Installed before it asks for a password: the terminal must not stay without echo.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// # Errors
    ///
    /// Exit code 1 if the system refuses.
    pub(super) fn install() -> Result<Self, Failure> {
        let failed = |error| Failure::new(Code::Failed, "cannot install a handler for Ctrl-C").caused_by(error);
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(failed)? })
    }

    /// Runs work that has made nothing yet. The first signal drops it.
    ///
    /// # Errors
    ///
    /// That of `work`; exit code 1 after a signal.
    pub(super) async fn may_end<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            _ = self.next() => Err(interrupted("nothing was published")),
        }
    }

    /// The name of the next signal.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
