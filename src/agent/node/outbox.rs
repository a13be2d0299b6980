//! Delivers a node's answers: each until it is written, or the record that it answers is no longer the one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agent::daemon::context::Context;
use crate::agent::node::presence::said;
use crate::backoff::Backoff;
use crate::consul::{Consistency, TxnOp, TxnResult};
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::{Ack, NodeRecord, decode, encode};
use crate::telemetry::chain;

/// One answer on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Where the record that it answers stands.
    pub(crate) index: ModifyIndex,
    /// The answer.
    pub(crate) ack: Ack,
    /// What the node has and runs by now: written along where it is news, for no write of its own.
    pub(crate) record: NodeRecord,
}

/// Delivers the newest letter, again and again until it is done with, until shutdown.
pub(crate) async fn deliver(ctx: Arc<Context>, mut letters: watch::Receiver<Option<Letter>>) {
    // Where our own last answer stands; none: to be read.
    let mut standing: Option<ModifyIndex> = None;
    loop {
        let letter = letters.borrow_and_update().clone();
        let delivery = async {
            match letter {
                Some(letter) => send(&ctx, &letter, &mut standing).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            changed = letters.changed() => if changed.is_err() { return },
            () = delivery => {
                // Done with this one: wait for another.
                tokio::select! {
                    () = ctx.shutdown.cancelled() => return,
                    changed = letters.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

/// The pause after the first try that failed.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// Whether a letter is done with.
enum Attempt {
    Delivered,
    Fenced,
    /// A former life has promised what this one would refuse.
    Promised,
    TryAgain,
}

async fn send(ctx: &Context, letter: &Letter, standing: &mut Option<ModifyIndex>) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    loop {
        match attempt(ctx, letter, standing).await {
            Ok(Attempt::Delivered) => {
                tracing::info!(unit = %ctx.unit, epoch = %letter.ack.epoch, answer = ?letter.ack.answer, "answered");
                return;
            }
            Ok(Attempt::Fenced) => {
                tracing::info!(unit = %ctx.unit, epoch = %letter.ack.epoch, "the record has moved on; the answer is dropped");
                return;
            }
            Ok(Attempt::Promised) => {
                tracing::warn!(unit = %ctx.unit, epoch = %letter.ack.epoch, fault = ?letter.ack.fault, "this node has promised to follow, and keeps to that although it cannot prepare again");
                return;
            }
            Ok(Attempt::TryAgain) => *standing = None,
            Err(error) => {
                *standing = None;
                tracing::warn!(unit = %ctx.unit, epoch = %letter.ack.epoch, error = %chain(&error), "the answer could not be written yet");
            }
        }
        tokio::time::sleep(backoff.pause(fastrand::f64())).await;
    }
}

async fn attempt(
    ctx: &Context,
    letter: &Letter,
    standing: &mut Option<ModifyIndex>,
) -> Result<Attempt, crate::consul::Error> {
    let mut sessions = ctx.session.subscribe();
    let held = sessions.wait_for(Option::is_some).await.map(|held| held.clone());
    let Ok(Some(session)) = held else { return Ok(Attempt::Fenced) };
    // From here on: presence, which has the same news, leaves them to this answer.
    let mut written = ctx.written.lock().await;
    let (barrier, key) = (ctx.at.barrier(), ctx.at.ack(&ctx.node));
    let value = encode(&letter.ack);
    let index = if let Some(index) = *standing {
        index
    } else {
        let entry = ctx.consul.kv_get(&key, Consistency::Consistent).await?;
        if entry.as_ref().is_some_and(|entry| entry.value == value.as_bytes()) {
            // A write whose answer was lost had gone through.
            return Ok(Attempt::Delivered);
        }
        let former = match entry.as_ref().map(|entry| decode::<Ack>(&key, &entry.value)) {
            Some(Err(error)) if error.is_newer() => {
                // It may hold a promise that this agent cannot read, and must not take back.
                ctx.meets_newer(&error).await;
                return Ok(Attempt::TryAgain);
            }
            read => read.and_then(Result::ok),
        };
        ctx.reads_again(&key);
        if former.is_some_and(|former| !letter.ack.may_replace(&former)) {
            return Ok(Attempt::Promised);
        }
        entry.map_or(ModifyIndex(0), |entry| entry.modify_index)
    };
    let node = ctx.at.node(&ctx.node);
    let mut ops = vec![
        TxnOp::CheckSession { key: node.clone(), session },
        TxnOp::CheckIndex { key: barrier.clone(), index: letter.index },
        TxnOp::Cas { key, value: value.into_bytes(), index },
    ];
    let said = said(&letter.record);
    // Until Consul has answered, what stands there is not known.
    let before = written.take();
    if before.as_ref() != Some(&said) {
        ops.push(TxnOp::Set { key: node, value: encode(&letter.record).into_bytes() });
    }
    match ctx.consul.txn(&ops, Consistency::Default).await? {
        TxnResult::Applied(entries) => {
            *standing = entries.iter().map(|entry| entry.modify_index).max();
            *written = Some(said);
            Ok(Attempt::Delivered)
        }
        TxnResult::Refused(refusals) => {
            tracing::debug!(unit = %ctx.unit, ?refusals, "the answer was refused");
            let is_held = refusals.iter().all(|refusal| refusal.op_index != 0);
            if is_held {
                *written = before;
            }
            drop(written);
            let now = ctx.consul.kv_get(&barrier, Consistency::Consistent).await?;
            if now.is_none_or(|entry| entry.modify_index != letter.index) {
                return Ok(Attempt::Fenced);
            }
            if !is_held {
                // Our session is gone, or the record that it held: presence begins another, and writes it again.
                ctx.session.send_replace(None);
            }
            Ok(Attempt::TryAgain)
        }
    }
}
