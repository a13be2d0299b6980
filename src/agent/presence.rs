//! The node's session and its `nodes/<node>` record.
//!
//! The session is the node's sign of life: TTL and serfHealth, release, no lock-delay. Its id is kept on disk, so an
//! agent that restarts within the TTL is never seen to be away.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior};

use super::context::Context;
use crate::consul::{Consistency, SessionId, SessionSpec, TxnOp, TxnResult};
use crate::protocol::record::{NodeRecord, encode};
use crate::telemetry::chain;

/// How often the session is renewed. Its TTL is 10 s, Consul ends it after 20: six tries.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often the record is looked at in Consul: a node that is well writes only when something changes, and somebody
/// may have deleted it.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// The pause after a refused write: the key is another session's, and may be for a while.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Changes within this time are written together; a switch report writes the record itself.
const GATHER: Duration = Duration::from_millis(50);

/// Another agent lives under this node's name.
#[derive(Debug, thiserror::Error)]
#[error(
    "another agent is alive as node {node} of {unit}, on Consul node {holder}: give one of them another `node` name \
     in its settings, or stop it"
)]
pub(crate) struct TakenError {
    node: String,
    unit: String,
    holder: String,
}

/// Keeps the session alive and the record true until shutdown.
///
/// # Errors
///
/// [`TakenError`]: this agent must not go on.
pub(crate) async fn keep(ctx: Arc<Context>) -> Result<(), TakenError> {
    let mut record = ctx.record.subscribe();
    let mut lost = ctx.session.subscribe();
    let mut tick = tokio::time::interval(RENEW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    loop {
        let is_time = tokio::select! {
            () = ctx.shutdown.cancelled() => return Ok(()),
            _ = tick.tick() => true,
            Ok(()) = record.changed() => false,
            // Somebody found that the session is gone.
            Ok(()) = lost.changed() => false,
        };
        if !is_time {
            tokio::time::sleep(GATHER).await;
        }
        record.mark_unchanged();
        if is_time || ctx.session.borrow().is_none() {
            // A Consul that hangs does not hold the end up.
            let ensured = tokio::select! {
                () = ctx.shutdown.cancelled() => return Ok(()),
                ensured = ensure(&ctx) => ensured,
            };
            match ensured {
                Ok(()) => {}
                Err(Trouble::Taken(taken)) => return Err(taken),
                Err(Trouble::Consul(error)) => {
                    tracing::warn!(unit = %ctx.unit, error = %chain(&error), "the node's session could not be kept");
                    continue;
                }
            }
            lost.mark_unchanged();
        }
        let may_be_gone = looked.elapsed() >= LOOK_EVERY;
        if may_be_gone {
            looked = Instant::now();
        }
        let published = tokio::select! {
            () = ctx.shutdown.cancelled() => return Ok(()),
            published = publish(&ctx, may_be_gone) => published,
        };
        if let Err(error) = published {
            tracing::warn!(unit = %ctx.unit, error = %chain(&error), "the node's record could not be written");
        }
    }
}

enum Trouble {
    Consul(crate::consul::Error),
    Taken(TakenError),
}

impl From<crate::consul::Error> for Trouble {
    fn from(error: crate::consul::Error) -> Self {
        Self::Consul(error)
    }
}

/// Renews the session that is held, or the one on disk, or makes one.
async fn ensure(ctx: &Context) -> Result<(), Trouble> {
    let held = ctx.session.borrow().clone();
    let known = match held {
        Some(id) => Some(id),
        None => remembered(ctx).await,
    };
    if let Some(id) = known
        && ctx.consul.session_renew(&id).await?
    {
        set(ctx, Some(id));
        return Ok(());
    }
    set(ctx, None);
    *lock_written(ctx) = None;
    evict_former_self(ctx).await?;
    let spec = SessionSpec::new(format!("cutover {} {}", ctx.unit, ctx.node));
    let id = ctx.consul.session_create(&spec).await?;
    let file = session_file(ctx);
    if let Err(error) = tokio::fs::write(&file, id.as_str()).await {
        // Only a restart within the TTL would miss it.
        tracing::warn!(file = %file.display(), %error, "the session's id could not be kept on disk");
    }
    tracing::info!(unit = %ctx.unit, session = %id.as_str(), "session begun");
    set(ctx, Some(id));
    Ok(())
}

fn set(ctx: &Context, session: Option<SessionId>) {
    ctx.session.send_if_modified(|held| {
        let is_new = *held != session;
        *held = session;
        is_new
    });
}

fn lock_written(ctx: &Context) -> std::sync::MutexGuard<'_, Option<String>> {
    ctx.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn session_file(ctx: &Context) -> std::path::PathBuf {
    ctx.settings.deploy_to.join(".cutover/session")
}

async fn remembered(ctx: &Context) -> Option<SessionId> {
    let text = tokio::fs::read_to_string(session_file(ctx)).await.ok()?;
    let id = text.trim();
    (!id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
        .then(|| SessionId::new(id))
}

/// Our own name may be held by a session of a former life whose id was lost, or by another agent that lives.
async fn evict_former_self(ctx: &Context) -> Result<(), Trouble> {
    let entry = ctx.consul.kv_get(&ctx.at.node(&ctx.node), Consistency::Consistent).await?;
    let Some(holder) = entry.and_then(|entry| entry.session) else { return Ok(()) };
    let Some(info) = ctx.consul.session_info(&holder, Consistency::Consistent).await? else { return Ok(()) };
    if info.node != ctx.consul_node {
        return Err(Trouble::Taken(TakenError {
            node: ctx.node.to_string(),
            unit: ctx.unit.to_string(),
            holder: info.node,
        }));
    }
    tracing::info!(unit = %ctx.unit, session = %holder.as_str(), "ending the session of this node's former agent");
    ctx.consul.session_destroy(&holder).await?;
    Ok(())
}

/// Writes the record, holding it with the session, where it differs from what was written last, or `may_be_gone` and
/// is.
async fn publish(ctx: &Context, may_be_gone: bool) -> Result<(), crate::consul::Error> {
    let (Some(session), Some(record)) = (ctx.session.borrow().clone(), ctx.record.borrow().clone()) else {
        return Ok(());
    };
    if may_be_gone {
        let entry = ctx.consul.kv_get(&ctx.at.node(&ctx.node), Consistency::Default).await?;
        if entry.is_none_or(|entry| entry.session.as_ref() != Some(&session)) {
            *lock_written(ctx) = None;
        }
    }
    let said = said(&record);
    if lock_written(ctx).as_ref() == Some(&said) {
        return Ok(());
    }
    let value = encode(&record).into_bytes();
    let key = ctx.at.node(&ctx.node);
    match ctx.consul.txn(&[TxnOp::Lock { key, value, session }], Consistency::Default).await? {
        TxnResult::Applied(_) => *lock_written(ctx) = Some(said),
        TxnResult::Refused(refusals) => {
            tracing::info!(unit = %ctx.unit, ?refusals, "the node's session is gone");
            set(ctx, None);
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
    Ok(())
}

/// What a record says, whenever it was made: the same twice is written once.
pub(crate) fn said(record: &NodeRecord) -> String {
    encode(&NodeRecord { at: Timestamp::UNIX_EPOCH, ..record.clone() })
}
