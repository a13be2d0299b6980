//! Tells systemd that the agent is ready, what it is doing, and that it is alive.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::agent::node::unit::Input;

/// How often the status text follows, where systemd asks for no watchdog.
const PERIOD: Duration = Duration::from_secs(10);

/// Says that the agent is ready, and then beats while every owner answers.
pub(crate) async fn notify(owners: Vec<mpsc::Sender<Input>>, units: Arc<[Arc<Context>]>, shutdown: CancellationToken) {
    let watchdog = sd_notify::watchdog_enabled();
    // Half of the time that systemd waits, as its documentation advises.
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

/// Says what the start waits for.
pub(crate) fn waiting(error: &str) {
    send(&[NotifyState::Status(&format!("waiting for Consul: {error}"))]);
}

/// Says that the agent is about to end.
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

/// Outside systemd there is nobody to tell.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd: {error}");
    }
}
