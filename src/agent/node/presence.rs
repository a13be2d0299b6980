//! The node's session and its `nodes/<node>` record.
//!
//! The session is the node's sign of life: TTL and serfHealth, release, no lock-delay. Its id is kept on disk, so an
//! agent that restarts within the TTL is never seen to be away.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior};

use crate::agent::daemon::context::Context;
use crate::agent::node::outlook::Need;
use crate::consul::{Consistency, SessionId, SessionSpec, TxnOp, TxnResult};
use crate::protocol::ids::Epoch;
use crate::protocol::record::{NodeRecord, decode, encode};
use crate::telemetry::chain;

/// How often the session is renewed. Its TTL is 10 s, Consul ends it after 20: six tries.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often the record is looked at in Consul: a node that is well writes only when something changes, and somebody
/// may have deleted it.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// How often the record is looked at while `barrier` is not what this node may follow: whoever took that away may take
/// the rest away too, and `cutover recover` needs to know what each node runs. 1,000 nodes make 100 small reads a second.
const LOOK_IN_TROUBLE_EVERY: Duration = Duration::from_secs(10);
/// Spreads a fleet that sees the same trouble at the same moment.
const SPREAD_MS: u64 = 1_000;
/// The pause after a refused write: the key is another session's, and may be for a while.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Changes within this time are written together; an answer brings the record along.
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

impl TakenError {
    /// A word for metrics and programs: the same for each of these errors.
    pub(crate) const fn kind(&self) -> &'static str {
        "taken_error"
    }
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
    let mut suspect = ctx.suspect.subscribe();
    let mut looked = Instant::now();
    loop {
        let (mut is_time, mut is_news) = (false, false);
        let pause = tokio::select! {
            () = ctx.shutdown.cancelled() => return Ok(()),
            _ = tick.tick() => {
                is_time = true;
                Duration::ZERO
            }
            Ok(()) = record.changed() => GATHER,
            // Somebody found that the session is gone.
            Ok(()) = lost.changed() => GATHER,
            Ok(()) = suspect.changed() => {
                is_news = true;
                Duration::from_millis(fastrand::u64(0..SPREAD_MS))
            }
        };
        tokio::time::sleep(pause).await;
        record.mark_unchanged();
        if is_time || ctx.session.borrow().is_none() {
            // A Consul that hangs does not hold the end up.
            let ensured = tokio::select! {
                () = ctx.shutdown.cancelled() => return Ok(()),
                ensured = ensure(&ctx) => ensured,
            };
            match ensured {
                Ok(()) => ctx.has_consul(Need::Session),
                Err(Trouble::Taken(taken)) => return Err(taken),
                Err(Trouble::Consul(error)) => {
                    let error = chain(&error);
                    tracing::warn!(unit = %ctx.unit, error, "the node's session could not be kept");
                    ctx.lacks_consul(Need::Session, format!("Consul does not keep this node's session: {error}"));
                    continue;
                }
            }
            lost.mark_unchanged();
        }
        is_news |= suspect.has_changed().unwrap_or(false);
        let is_in_trouble = *suspect.borrow_and_update();
        let every = if is_in_trouble { LOOK_IN_TROUBLE_EVERY } else { LOOK_EVERY };
        let may_be_gone = looked.elapsed() >= every || is_news && is_in_trouble;
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
    *ctx.written.lock().await = None;
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
/// is gone or another.
async fn publish(ctx: &Context, may_be_gone: bool) -> Result<(), crate::consul::Error> {
    let (Some(session), Some(record)) = (ctx.session.borrow().clone(), ctx.record.borrow().clone()) else {
        return Ok(());
    };
    let key = ctx.at.node(&ctx.node);
    let mut written = ctx.written.lock().await;
    if may_be_gone {
        let entry = ctx.consul.kv_get(&key, Consistency::Default).await?;
        let stands = entry.filter(|entry| entry.session.as_ref() == Some(&session));
        let stands = stands.and_then(|entry| decode::<NodeRecord>(&entry.key, &entry.value).ok());
        // Also where it is an older one: restored, or somebody's.
        *written = stands.as_ref().map(said);
    }
    let said = said(&record);
    if written.as_ref() == Some(&said) {
        return Ok(());
    }
    // Until Consul has answered, what stands there is not known.
    *written = None;
    let value = encode(&record).into_bytes();
    match ctx.consul.txn(&[TxnOp::Lock { key, value, session }], Consistency::Default).await? {
        TxnResult::Applied(_) => *written = Some(said),
        TxnResult::Refused(refusals) => {
            drop(written);
            tracing::info!(unit = %ctx.unit, ?refusals, "the node's session is gone");
            set(ctx, None);
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
    Ok(())
}

/// What a record says, whenever it was made, and however full the disk is by now: the same twice is written once.
///
/// Of the floor only the era counts, which `cutover recover` waits for: a deploy costs no write for its number. A node
/// that cannot follow says so by other fields, and writes the whole of it then.
pub(crate) fn said(record: &NodeRecord) -> String {
    let floor = record.floor.map(|floor| Epoch { number: 0, ..floor });
    encode(&NodeRecord { at: Timestamp::UNIX_EPOCH, free_bytes: 0, floor, ..record.clone() })
}
