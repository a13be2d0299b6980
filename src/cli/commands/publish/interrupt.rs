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
    stop: &CancellationToken,
    mut work: impl Future<Output = Result<T, Failure>> + Unpin,
) -> Result<T, Failure> {
    let mut signals = Signals::install()?;
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

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> Result<Self, Failure> {
        let failed = |error| Failure::new(Code::Failed, "cannot install a handler for Ctrl-C").caused_by(error);
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(failed)? })
    }

    /// The name of the next signal.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
