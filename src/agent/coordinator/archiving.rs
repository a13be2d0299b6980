//! Bounds the history in Consul: moves older records into the artifact store, as segments.
//!
//! A segment is one object of JSON lines. It is written, read back and compared. Only then does one transaction, under the
//! lease, name the segment in `archive` and remove its records, so each record is always in Consul or in a segment that
//! `archive` names.
//!
//! These records stay in Consul regardless of their number: those that a node may still read, and those whose
//! notifications were not sent yet (for up to a day). Nothing is removed if the store cannot be written, or does not show
//! what was written to it before, for example because it is not mounted.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::sync::Notify;

use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::coordinator::unsent::{Kind, Unsent};
use crate::agent::daemon::context::Context;
use crate::artifact::store::{Store, StoreError, Upload};
use crate::backoff::Backoff;
use crate::consul::{Consistency, Entry, Error, Read, TxnOp};
use crate::kind::HasKind;
use crate::protocol::ids::{Epoch, Sha256, Unit};
use crate::protocol::record::{Action, Archive, Barrier, Build, FORMAT, History, NodeRecord, Segment, decode, encode};
use crate::telemetry::chain;

/// How many requests, and how many actions, stay in Consul at least. `cutover history` shows these without the store.
const KEPT: usize = 200;
/// How many older records are collected before they are archived. Without this, each segment would hold one record.
const SLACK: usize = 40;
/// The most records of a segment: each takes one operation of the transaction, and Consul accepts 64.
const SEGMENT_RECORDS: usize = 60;
/// The most bytes of a segment, not counting its last record. With 10,000 nodes, one record has hundreds of kilobytes.
const SEGMENT_BYTES: usize = 8 << 20;
/// The longest `archive`, in bytes. Consul's limit for a value is 512 KiB, and base64 in a transaction adds a third.
const LONGEST_ARCHIVE: usize = 300_000;
/// How many builds are searched in the store before the first segment is written. The newest are pruned last.
const KNOWN: usize = 10;
/// How many hex digits of the digest are part of an object's name: 64 bits, enough to separate batches with the same first
/// record.
const OBJECT_DIGITS: usize = 16;
/// How many committed releases are followed back at most. They include every rollback target, and repeated releases.
const LINE: usize = 100;
/// The first pause after a failure; it doubles with each further failure.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_mins(30);

/// Why nothing was archived. No record was removed either.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error("Consul could not be read or written")]
    Consul(#[from] Error),
    /// An object that was written to the store before is missing from it.
    #[error("the store does not contain {known}, which was written before; is it the right store, and is it mounted?")]
    Elsewhere { known: String },
    /// `archive` has reached [`LONGEST_ARCHIVE`].
    #[error(
        "{key} would have {bytes} bytes, too many for another segment, so the history in Consul grows from now on; save the value of {key} elsewhere, and empty the key"
    )]
    Full { key: String, bytes: usize },
    #[error("the list of archived segments cannot be read")]
    Index(#[from] crate::protocol::record::RecordError),
    #[error("the artifact store could not be written")]
    Store(#[from] StoreError),
    #[error("{object} was written, but different bytes were read back")]
    Unequal { object: String },
}

impl HasKind for ArchiveError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Consul(_) => "consul",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Full { .. } => "full",
            Self::Index(_) => "index",
            Self::Store(_) => "store",
            Self::Unequal { .. } => "unequal",
        }
    }
}

/// The outcome of a round.
enum Archived {
    /// A batch was archived; there may be more.
    Batch,
    /// This session no longer holds the lock.
    Lost,
    Nothing,
    /// There are enough older records, but some wait for their notifications.
    Unsent,
}

/// Archives until the lease ends, each time `tidy` is notified.
pub(super) async fn archive(ctx: Arc<Context>, lease: Lease, tidy: Arc<Notify>) {
    let (mut backoff, mut waits) = (Backoff::new(PAUSE, LONGEST_PAUSE), false);
    loop {
        let archived = tokio::select! {
            () = lease.over() => return,
            archived = one_batch(&ctx, &lease) => archived,
        };
        match archived {
            Ok(Archived::Batch) => backoff.succeeded(),
            Ok(Archived::Lost) => return,
            Ok(archived @ (Archived::Nothing | Archived::Unsent)) => {
                backoff.succeeded();
                let waited = std::mem::replace(&mut waits, matches!(archived, Archived::Unsent));
                if waits && !waited {
                    tracing::info!(unit = %ctx.unit, "{}: older history is not archived before its notifications are sent", ctx.unit);
                }
                tokio::select! {
                    () = lease.over() => return,
                    () = tidy.notified() => {}
                }
            }
            Err(ArchiveError::Index(error)) if error.is_newer() => {
                // A newer agent must add to this record, so this agent gives up the lock.
                ctx.troubles.meets_newer(&error).await;
                lease.end();
                return;
            }
            Err(error) => {
                let pause = backoff.pause(fastrand::f64());
                let (kind, error) = (error.kind(), chain(&error));
                tracing::warn!(unit = %ctx.unit, kind, error, again_in = ?pause, "{}: older history is not archived and stays in Consul; the next try is in {pause:.1?}: {error}", ctx.unit);
                tokio::select! {
                    () = lease.over() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// Archives the oldest records beyond [`KEPT`], at most one segment.
async fn one_batch(ctx: &Context, lease: &Lease) -> Result<Archived, ArchiveError> {
    let at = &ctx.at;
    let requests = older(ctx, &at.all_history()).await?;
    let actions = older(ctx, &at.all_actions()).await?;
    if requests.len().max(actions.len()) < SLACK {
        return Ok(Archived::Nothing);
    }
    let needed = needed(ctx).await?;
    let keys = requests.into_iter().filter(|(epoch, _)| !needed.contains(epoch)).chain(actions);
    let mut keys: Vec<(Epoch, String)> = keys.collect();
    keys.sort();
    let Batch { records: batch, lines, is_held } = read_batch(ctx, keys).await?;
    if is_held && batch.len() < SLACK {
        return Ok(Archived::Unsent);
    }
    let (Some((first, _)), Some((last, _))) = (batch.first(), batch.last()) else { return Ok(Archived::Nothing) };
    let index = ctx.agent.consul.kv_get(&at.archive(), Consistency::Consistent).await?;
    let standing = index.as_ref().filter(|entry| !entry.value.is_empty());
    let mut archive: Archive = standing.map(|entry| decode(&entry.key, &entry.value)).transpose()?.unwrap_or_default();
    let store = ctx.stager.store();
    let known = known(ctx, store, &archive).await?;
    if !store.has_any(&known).await? {
        return Err(ArchiveError::Elsewhere { known: known.first().map(|key| store.place(key)).unwrap_or_default() });
    }
    let segment = segment(&ctx.unit, *first..=*last, batch.len(), &lines);
    // An object with the same name is from a batch whose transaction did not apply.
    archive.segments.retain(|known| known.object != segment.object);
    archive.format = FORMAT;
    archive.segments.push(segment.clone());
    let value = encode(&archive).into_bytes();
    if value.len() > LONGEST_ARCHIVE {
        return Err(ArchiveError::Full { key: at.archive(), bytes: value.len() });
    }
    let object = store.key_below(&segment.object);
    let limit = lines.len().saturating_add(1);
    store.put_small(&object, lines, &Upload::default()).await?;
    if digest(&store.get_small(&object, limit).await?) != segment.sha256 {
        return Err(ArchiveError::Unequal { object: store.place(&object) });
    }
    let mut ops =
        vec![TxnOp::Cas { key: at.archive(), value, index: index.map(|entry| entry.modify_index).unwrap_or_default() }];
    ops.extend(batch.iter().map(|(_, entry)| TxnOp::DeleteCas { key: entry.key.clone(), index: entry.modify_index }));
    match lease.write(ops).await? {
        Written::Applied => {
            let Segment { object, records, .. } = &segment;
            tracing::info!(unit = %ctx.unit, object, records, "{}: archived {records} older records of the history as {object}", ctx.unit);
            Ok(Archived::Batch)
        }
        Written::Lost => Ok(Archived::Lost),
        // Another client wrote a key meanwhile. The next notification starts a new round.
        Written::Conflict(_) => Ok(Archived::Nothing),
    }
}

/// Objects that the store must contain: the newest segment, or the newest builds if there is no segment. Empty for an app
/// without builds.
async fn known(ctx: &Context, store: &Store, archive: &Archive) -> Result<Vec<String>, Error> {
    if let Some(newest) = archive.segments.last() {
        return Ok(vec![store.key_below(&newest.object)]);
    }
    let app = &ctx.unit.app;
    let builds = ctx.agent.consul.kv_list(&ctx.agent.keys.builds(app), Consistency::Consistent).await?;
    let mut builds: Vec<Build> = builds.iter().filter_map(|it| decode(&it.key, &it.value).ok()).collect();
    builds.sort_by_key(|build| std::cmp::Reverse(build.at));
    Ok(builds.iter().take(KNOWN).map(|build| store.key(app, build)).collect())
}

/// The segment of a batch. Its name includes a digest of its bytes: an agent that was paused while another one coordinated
/// may have collected a different batch with the same first record, and must not overwrite an object that `archive` names.
fn segment(unit: &Unit, epochs: RangeInclusive<Epoch>, records: usize, lines: &[u8]) -> Segment {
    let (first, last) = epochs.into_inner();
    let (sha256, Unit { app, group }) = (digest(lines), unit);
    let short: String = sha256.as_str().chars().take(OBJECT_DIGITS).collect();
    Segment {
        object: format!("{app}/history/{group}/{first}-{short}.jsonl"),
        first: first.to_string(),
        last: last.to_string(),
        records: u64::try_from(records).unwrap_or(u64::MAX),
        sha256,
    }
}

#[expect(clippy::expect_used, reason = "a digest in lower-case hex is what a SHA-256 is read from")]
fn digest(bytes: &[u8]) -> Sha256 {
    hex::encode(Hasher::digest(bytes)).parse().expect("64 hex digits")
}

/// All keys under `prefix` except the newest [`KEPT`], oldest first. Keys that are not named by an epoch are ignored.
async fn older(ctx: &Context, prefix: &str) -> Result<Vec<(Epoch, String)>, Error> {
    let names = ctx.agent.consul.kv_keys(prefix, Consistency::Consistent).await?;
    let mut keys: Vec<(Epoch, String)> =
        names.into_iter().filter_map(|key| Some((key.strip_prefix(prefix)?.parse().ok()?, key))).collect();
    keys.sort();
    keys.truncate(keys.len().saturating_sub(KEPT));
    Ok(keys)
}

/// Epochs whose records may still be read: those that the barrier and the nodes name, and the committed releases back to
/// the oldest rollback target.
async fn needed(ctx: &Context) -> Result<BTreeSet<Epoch>, Error> {
    let at = &ctx.at;
    let reads = [Read::Key(at.barrier()), Read::Prefix(at.nodes())];
    let read = ctx.agent.consul.snapshot(&reads, Consistency::Consistent).await?;
    let barrier = read.key(&at.barrier()).and_then(|entry| Barrier::decode(&entry.key, &entry.value).ok());
    let mut needed = BTreeSet::new();
    for entry in read.under(&at.nodes()) {
        let Ok(record) = decode::<NodeRecord>(&entry.key, &entry.value) else { continue };
        needed.extend(record.runs.map(|release| release.epoch));
        needed.extend(record.floor);
    }
    let Some(barrier) = barrier else { return Ok(needed) };
    needed.insert(barrier.epoch);
    needed.extend(barrier.from.as_ref().map(|release| release.epoch));
    let kept = usize::try_from(ctx.settings.keep_releases).unwrap_or(LINE).saturating_add(2);
    let (mut next, mut releases) = (barrier.committed, BTreeSet::new());
    for _ in 0..LINE {
        let Some(release) = next.take() else { break };
        needed.insert(release.epoch);
        releases.insert(release.release);
        if releases.len() > kept {
            break;
        }
        let key = at.history(release.epoch);
        let entry = ctx.agent.consul.kv_get(&key, Consistency::Consistent).await?;
        let record: Option<History> = entry.and_then(|entry| decode(&key, &entry.value).ok());
        next = record.and_then(|record| record.from);
    }
    Ok(needed)
}

/// The records of one segment.
struct Batch {
    records: Vec<(Epoch, Entry)>,
    lines: Vec<u8>,
    /// Whether records were left out because their notifications were not sent yet.
    is_held: bool,
}

/// Reads records of `keys` until one segment is full. Leaves out requests without an outcome and unreadable records, and
/// from the first record with unsent notifications on all records of its kind.
async fn read_batch(ctx: &Context, keys: Vec<(Epoch, String)>) -> Result<Batch, Error> {
    let (unsent, now) = (Unsent::read(ctx).await?, Timestamp::now());
    let (mut records, mut lines) = (Vec::new(), Vec::new());
    let mut held: Vec<Kind> = Vec::new();
    for (epoch, key) in keys {
        if records.len() >= SEGMENT_RECORDS || lines.len() >= SEGMENT_BYTES {
            break;
        }
        let kind = if key.starts_with(&ctx.at.all_actions()) { Kind::Action } else { Kind::Request };
        if held.contains(&kind) {
            continue;
        }
        let Some(entry) = ctx.agent.consul.kv_get(&key, Consistency::Consistent).await? else { continue };
        let Some((at, line)) = line(kind, &entry) else { continue };
        if unsent.holds(kind, epoch, at, now) {
            held.push(kind);
            continue;
        }
        lines.extend_from_slice(&line);
        lines.push(b'\n');
        records.push((epoch, entry));
    }
    Ok(Batch { records, lines, is_held: !held.is_empty() })
}

/// The time of a record (for a request, of its end) and the record as one line. None: the record must stay in Consul.
fn line(kind: Kind, entry: &Entry) -> Option<(Timestamp, Vec<u8>)> {
    let at = match kind {
        Kind::Action => decode::<Action>(&entry.key, &entry.value).ok()?.at,
        Kind::Request => {
            let record = decode::<History>(&entry.key, &entry.value).ok().filter(|record| record.outcome.is_some())?;
            record.ended_at.unwrap_or(record.started_at)
        }
    };
    // The raw value, to keep fields that only a newer agent knows. Layout may contain line ends.
    let value: Box<serde_json::value::RawValue> = serde_json::from_slice(&entry.value).ok()?;
    let text = value.get();
    if !text.contains('\n') {
        return Some((at, text.as_bytes().to_vec()));
    }
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some((at, serde_json::to_vec(&value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_with_the_same_first_record_get_different_names() {
        let unit = "shop/production".parse().unwrap();
        let epoch = |number| Epoch { era: 1, number };
        let one = segment(&unit, epoch(12)..=epoch(131), 60, b"{}\n");
        let other = segment(&unit, epoch(12)..=epoch(131), 60, b"{ }\n");
        assert_eq!(one.object, format!("shop/history/production/1.12-{}.jsonl", &one.sha256.as_str()[..16]));
        assert_ne!(one.object, other.object);
        assert_eq!(one, segment(&unit, epoch(12)..=epoch(131), 60, b"{}\n"), "the same batch gets the same name");
    }
}
