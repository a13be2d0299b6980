//! Notifies receivers that a unit has no coordinator. Other notifications are sent by the coordinator itself.
//!
//! Every agent watches for this. The first live node by name sends the notification, once for each time the lock was
//! released. If two nodes both consider themselves first, their notifications have the same id.

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

/// How long there must have been no coordinator. A takeover after a kill takes up to 20 s, twice the TTL of a session.
const PATIENCE: Duration = Duration::from_mins(1);
/// How much later each node checks than the one before it by name. A check reads every node's record, which a large fleet
/// must not do at once. In most cases there is a coordinator again before the last nodes check.
const STAGGER: Duration = Duration::from_secs(2);
/// The longest random delay before a node reads its position, in milliseconds.
const SPREAD_MS: u64 = 2_000;
/// How often a node checks again. The first node by name may have died without sending the notification.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Watches until shutdown. Returns at once if no receiver gets events of this unit.
pub(crate) async fn watch(ctx: Arc<Context>) {
    let receivers: Vec<_> =
        ctx.agent.notifier.receivers.iter().filter(|it| it.gets_events_of(&ctx.unit)).cloned().collect();
    if receivers.is_empty() {
        return;
    }
    let mut troubles = ctx.troubles.subscribe();
    let mut reported: Option<ModifyIndex> = None;
    // Aborted when there is a coordinator again, because the notification would be outdated.
    let mut sending = JoinSet::new();
    loop {
        let since = troubles.borrow_and_update().uncoordinated_since();
        if since.is_none() {
            sending.abort_all();
        }
        let its_turn = async {
            let Some(since) = since else { return std::future::pending().await };
            tokio::time::sleep_until(since + PATIENCE + Duration::from_millis(fastrand::u64(0..SPREAD_MS))).await;
            tokio::time::sleep(STAGGER.saturating_mul(nodes_before(&ctx).await)).await;
        };
        tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            Ok(()) = troubles.changed() => continue,
            () = its_turn => {}
        }
        match released_at(&ctx).await {
            Ok(Some(index)) if reported != Some(index) => {
                reported = Some(index);
                let event = Event::coordinator_missing(&ctx.unit, index, &ctx.agent.node, Timestamp::now());
                let event = event.linked(ctx.agent.notifier.public_url.as_deref());
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
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read which agent coordinates: {error}", ctx.unit);
            }
        }
        tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            Ok(()) = troubles.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while sending.try_join_next().is_some() {}
    }
}

/// How many nodes of the unit come before this one by name, alive or not.
async fn nodes_before(ctx: &Context) -> u32 {
    let key = ctx.at.node(&ctx.agent.node);
    // If the read fails, this node checks first. That costs one read, and the notification is not lost.
    let names = ctx.agent.consul.kv_keys(&ctx.at.nodes(), Consistency::Stale).await.unwrap_or_default();
    u32::try_from(names.iter().filter(|name| **name < key).count()).unwrap_or(u32::MAX)
}

/// The index at which the lock was released, if no session holds it and this node must send the notification.
async fn released_at(ctx: &Context) -> Result<Option<ModifyIndex>, Error> {
    let lock = ctx.agent.consul.kv_get(&ctx.at.coordinator(), Consistency::Consistent).await?;
    if lock.as_ref().is_some_and(|lock| lock.session.is_some()) {
        return Ok(None);
    }
    let prefix = ctx.at.nodes();
    let nodes = ctx.agent.consul.kv_list(&prefix, Consistency::Consistent).await?;
    let live = nodes.iter().filter(|entry| entry.session.is_some());
    let first = live.filter_map(|entry| entry.key.strip_prefix(&prefix)?.parse::<Node>().ok()).min();
    // Without a key, the lock was never held.
    Ok((first.as_ref() == Some(&ctx.agent.node)).then(|| lock.map_or(ModifyIndex(0), |lock| lock.modify_index)))
}
