//! Tells how far a node is with the download that a deploy waits for, in the node's record.
//!
//! Each report is an entry in Consul's log, so they are few: none of a download that is over in [`FIRST`], none without a change,
//! and at most [`FLEET_PER_SECOND`] from all members together, however many they are. Nothing is decided by them. The answer to the
//! prepare takes them out of the record, in its own transaction, and none follows it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;

use super::inbox::Input;
use crate::agent::daemon::context::Context;
use crate::consul::Consistency;
use crate::protocol::ids::{ArtifactName, Epoch, Node};
use crate::protocol::record::{Fetching, decode};

/// Nothing is told of a download that is over before.
const FIRST: Duration = Duration::from_secs(3);
/// The shortest time between two reports of a node.
const EVERY: Duration = Duration::from_secs(5);
/// How many reports all members send in a second, at most. Consul takes some thousands of writes in this time.
const FLEET_PER_SECOND: u32 = 10;

/// Tells the owner of each change, until it is dropped.
pub(super) async fn tell(
    ctx: &Context,
    epoch: Epoch,
    artifacts: &[ArtifactName],
    owner: &mpsc::Sender<Input>,
) -> Infallible {
    let send = |fetching| async move {
        // The owner may have ended already.
        let _gone = owner.send(Input::Fetching(fetching)).await;
    };
    tell_each(|| now(ctx, artifacts), members(ctx, epoch), tokio::time::sleep, send, fastrand::f64()).await
}

/// Sends what each `look` finds, if it has changed. `chance` is a number from 0 to 1.
async fn tell_each<P: Future<Output = ()>, S: Future<Output = ()>>(
    look: impl Fn() -> Option<Fetching>,
    members: impl Future<Output = u32>,
    pause: impl Fn(Duration) -> P,
    send: impl Fn(Option<Fetching>) -> S,
    chance: f64,
) -> Infallible {
    pause(FIRST).await;
    while look().is_none() {
        pause(FIRST).await;
    }
    // Read only now: most deploys need no download, or a short one.
    let every = every(members.await);
    pause(put_off(every, chance)).await;
    let mut told = None;
    loop {
        let fetching = look();
        if fetching != told {
            told.clone_from(&fetching);
            send(fetching).await;
        }
        pause(every).await;
    }
}

/// The download that is furthest: two units of an app may fetch the same build.
fn now(ctx: &Context, artifacts: &[ArtifactName]) -> Option<Fetching> {
    let fetching = ctx.stager.cache().fetching(&ctx.unit.app, artifacts);
    fetching.into_iter().max_by_key(|fetching| fetching.received_bytes)
}

/// How many nodes take part in the deploy. An unreadable list counts as a large one.
async fn members(ctx: &Context, epoch: Epoch) -> u32 {
    /// About as many nodes as a group was tried with.
    const MANY: u32 = 10_000;
    let key = ctx.at.members(epoch);
    let entry = ctx.agent.consul.kv_get(&key, Consistency::Stale).await.ok().flatten();
    let members = entry.and_then(|entry| decode::<Vec<Node>>(&key, &entry.value).ok());
    members.and_then(|members| u32::try_from(members.len()).ok()).unwrap_or(MANY)
}

/// The time between two reports of one of so many nodes.
fn every(members: u32) -> Duration {
    EVERY.max(Duration::from_secs(1) * members / FLEET_PER_SECOND)
}

/// How long the first report is put off, so that the nodes of a large fleet do not send theirs in the same second.
fn put_off(every: Duration, chance: f64) -> Duration {
    every.saturating_sub(EVERY).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// What a node tells of a download of so many seconds within an hour, and in which second; 1 MB a second, but none between 10 and 20.
    fn told(seconds: u64, members: u32) -> Vec<(u64, Option<u64>)> {
        let (clock, told) = (Cell::new(0), RefCell::new(Vec::new()));
        let look = || {
            let received_bytes = if (10..20).contains(&clock.get()) { 10 } else { clock.get() } * 1_000_000;
            let artifact = "a-00000001".parse().unwrap();
            (clock.get() < seconds).then_some(Fetching { artifact, received_bytes, packed_bytes: seconds * 1_000_000 })
        };
        let pause = |pause: Duration| {
            clock.set(clock.get() + pause.as_secs());
            let is_over = clock.get() > 3_600;
            async move {
                if is_over {
                    std::future::pending::<()>().await;
                }
            }
        };
        let send = |fetching: Option<Fetching>| {
            told.borrow_mut().push((clock.get(), fetching.map(|it| it.received_bytes / 1_000_000)));
            std::future::ready(())
        };
        let telling = std::pin::pin!(tell_each(look, std::future::ready(members), pause, send, 0.0));
        assert!(telling.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
        told.take()
    }

    #[test]
    fn a_long_download_is_told_every_few_seconds_while_it_grows_and_a_short_one_never() {
        assert_eq!((told(0, 3), told(3, 3)), (Vec::new(), Vec::new()));
        // Nothing arrives between the reports at 13 and 18.
        let expected = [(3, Some(3)), (8, Some(8)), (13, Some(10)), (23, Some(23)), (28, None)];
        assert_eq!(told(27, 3), expected);
        assert_eq!(told(250, 1_000), [(3, Some(3)), (103, Some(103)), (203, Some(203)), (303, None)]);
    }

    #[test]
    fn a_fleet_of_any_size_sends_ten_reports_a_second_at_most() {
        assert_eq!((every(1), every(50)), (EVERY, EVERY));
        for members in [51, 300, 1_000, 10_000] {
            let in_flight = f64::from(members) / every(members).as_secs_f64();
            assert!(in_flight <= f64::from(FLEET_PER_SECOND) + 0.01, "{members}: {in_flight}");
        }
        // A small fleet begins at once, and a large one is spread over nearly the whole time between two reports.
        assert_eq!(put_off(every(50), 1.0), Duration::ZERO);
        assert_eq!(put_off(every(1_000), 0.5), Duration::from_millis(47_500));
    }
}
