//! Removes again what could not be removed, such as files of another user in an old release, or a release with a mount inside.
//!
//! Pruning tries every removal again. It runs after each deploy, after the start of the agent, and while something cannot be removed
//! after growing pauses, so that a fixed node cleans itself up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::daemon::context::Context;
use crate::agent::node::inbox::Input;
use crate::backoff::Backoff;

/// The pause after a removal has failed first. A retry costs a few system calls for each path.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_RETRY: Duration = Duration::from_hours(1);

/// Asks the unit's owner to prune, until shutdown.
pub(crate) async fn follow(ctx: Arc<Context>, owner: mpsc::Sender<Input>) {
    let mut records = ctx.published.record.clone();
    // Releases that cannot be moved are only found by pruning, so an agent that starts prunes once.
    tokio::select! {
        () = ctx.agent.shutdown.cancelled() => return,
        read = records.wait_for(Option::is_some) => if read.is_err() { return },
    }
    ask(&owner).await;
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    let mut known = Vec::new();
    let mut due = None;
    loop {
        // The reasons count what is left, which may change with each try.
        let record = records.borrow_and_update().clone();
        let now: Vec<String> = record.into_iter().flat_map(|record| record.unremovable).map(|it| it.path).collect();
        if now != known {
            backoff.succeeded();
            due = (!now.is_empty()).then(|| Instant::now() + backoff.pause(fastrand::f64()));
            known = now;
        }
        tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            changed = records.changed() => if changed.is_err() { return },
            () = until(due) => {
                ask(&owner).await;
                due = Some(Instant::now() + backoff.pause(fastrand::f64()));
            }
        }
    }
}

async fn ask(owner: &mpsc::Sender<Input>) {
    // At shutdown the owner may end before this task.
    let _gone = owner.send(Input::Prune).await;
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
