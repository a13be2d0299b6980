//! Tells receivers that nobody coordinates: what no coordinator can tell.
//!
//! Every agent sees it; the first live one by name tells it, once for each time that the lock was let go. Should two take
//! themselves for the first, both send it with the same id.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::agent::coordinator::notifying::deliver;
use crate::agent::daemon::context::Context;
use crate::consul::{Consistency, Error};
use crate::notify::Event;
use crate::protocol::ids::{ModifyIndex, Node};
use crate::telemetry::chain;

/// How long nobody must have coordinated: a takeover after a kill takes up to 20 s, twice the TTL of a session.
const PATIENCE: Duration = Duration::from_mins(1);
/// How much later each node looks than the one before it by name. To look is to read every node's record, which a whole
/// fleet must not do at once; and before the last have looked, somebody coordinates.
const STAGGER: Duration = Duration::from_secs(2);
/// Spreads the reads by which nodes learn their place.
const SPREAD_MS: u64 = 2_000;
/// How often it is looked again who is to tell, while nobody coordinates: the first may have died with the lock.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Looks on until shutdown. Returns at once where nobody wants to hear of this unit.
pub(crate) async fn watch(ctx: Arc<Context>) {
    let receivers: Vec<_> = ctx.notifier.receivers.iter().filter(|it| it.gets_events_of(&ctx.unit)).cloned().collect();
    if receivers.is_empty() {
        return;
    }
    let mut outlook = ctx.troubles.subscribe();
    let mut told: Option<ModifyIndex> = None;
    // Dropped when somebody coordinates again: then it is no news any more.
    let mut sending = JoinSet::new();
    loop {
        let since = outlook.borrow_and_update().uncoordinated_since();
        if since.is_none() {
            sending.abort_all();
        }
        let its_turn = async {
            let Some(since) = since else { return std::future::pending().await };
            tokio::time::sleep_until(since + PATIENCE + Duration::from_millis(fastrand::u64(0..SPREAD_MS))).await;
            tokio::time::sleep(STAGGER.saturating_mul(place(&ctx).await)).await;
        };
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            Ok(()) = outlook.changed() => continue,
            () = its_turn => {}
        }
        match gap(&ctx).await {
            Ok(Some(index)) if told != Some(index) => {
                told = Some(index);
                let event = Event::coordinator_missing(&ctx.unit, index, &ctx.node, Timestamp::now());
                let event = event.linked(ctx.notifier.public_url.as_deref());
                for receiver in receivers.iter().filter(|receiver| receiver.wants(&event)) {
                    let (ctx, receiver, event) = (Arc::clone(&ctx), Arc::clone(receiver), event.clone());
                    sending.spawn(async move {
                        deliver(&ctx, &receiver, &event).await;
                    });
                }
            }
            Ok(_) => {}
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read who coordinates: {error}", ctx.unit);
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            Ok(()) = outlook.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while sending.try_join_next().is_some() {}
    }
}

/// How many nodes of the unit come before this one by name, living or not.
async fn place(ctx: &Context) -> u32 {
    let key = ctx.at.node(&ctx.node);
    // Unknown, it looks at once: that costs a read, and not the news.
    let names = ctx.consul.kv_keys(&ctx.at.nodes(), Consistency::Stale).await.unwrap_or_default();
    u32::try_from(names.iter().filter(|name| **name < key).count()).unwrap_or(u32::MAX)
}

/// Where in Consul's log the lock was let go, if nobody holds it, and this node is to tell.
async fn gap(ctx: &Context) -> Result<Option<ModifyIndex>, Error> {
    let lock = ctx.consul.kv_get(&ctx.at.coordinator(), Consistency::Consistent).await?;
    if lock.as_ref().is_some_and(|lock| lock.session.is_some()) {
        return Ok(None);
    }
    let prefix = ctx.at.nodes();
    let nodes = ctx.consul.kv_list(&prefix, Consistency::Consistent).await?;
    let live = nodes.iter().filter(|entry| entry.session.is_some());
    let first = live.filter_map(|entry| entry.key.strip_prefix(&prefix)?.parse::<Node>().ok()).min();
    // Nobody has ever held it: the gap is at the beginning.
    Ok((first.as_ref() == Some(&ctx.node)).then(|| lock.map_or(ModifyIndex(0), |lock| lock.modify_index)))
}
