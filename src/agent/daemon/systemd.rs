//! Reports readiness, the status text and the watchdog's heartbeat to systemd.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::agent::node::inbox::Input;

/// How often the status text is updated if the watchdog is off, and at least how often if it is on.
const PERIOD: Duration = Duration::from_secs(10);

/// Reports that the agent is ready, and then resets systemd's watchdog as long as the owner of every unit answers.
pub(crate) async fn notify(owners: Vec<mpsc::Sender<Input>>, units: Arc<[Arc<Context>]>, shutdown: CancellationToken) {
    let watchdog = sd_notify::watchdog_enabled();
    // Half of systemd's limit, as sd_watchdog_enabled(3) recommends.
    let period = watchdog.map_or(PERIOD, |limit| limit / 2).min(PERIOD);
    send(&[NotifyState::Ready, NotifyState::Status(&status(&units))]);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let answered = tokio::time::timeout(period, ping(&owners)).await.is_ok_and(|alive| alive);
        if answered {
            send(&[NotifyState::Watchdog, NotifyState::Status(&status(&units))]);
        } else {
            tracing::error!(
                "the agent does not reset systemd's watchdog, because at least one of its groups does not answer"
            );
        }
    }
}

/// Reports that the start waits for Consul, and why.
pub(crate) fn waiting(error: &str) {
    send(&[NotifyState::Status(&format!("waiting for Consul: {error}"))]);
}

/// Reports that the agent is shutting down.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping: a switch in progress finishes first")]);
}

async fn ping(owners: &[mpsc::Sender<Input>]) -> bool {
    for owner in owners {
        let (pong, ponged) = oneshot::channel();
        if owner.send(Input::Ping(pong)).await.is_err() || ponged.await.is_err() {
            return false;
        }
    }
    true
}

fn status(units: &[Arc<Context>]) -> String {
    let each = units.iter().map(|ctx| {
        let journal = ctx.published.journal.borrow();
        let runs = journal.runs.as_ref().map_or("nothing yet", |runs| runs.artifact.as_str()).to_owned();
        format!("{}: {runs}", ctx.unit)
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Does nothing if the agent was not started by systemd.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd: {error}");
    }
}
