//! Bounded history: the older part of it goes into the artifact store, and then out of Consul.
//!
//! A batch is put as one object of JSON lines, read back, and compared. Only then, in one transaction that applies while
//! this agent's session holds the lock, the batch is named in `archive` and its records are removed: at every moment each
//! record is in Consul or in a segment that `archive` names, and never in neither. What a node may still ask for stays in
//! Consul, however old it is, and what receivers are still to be told, for a day. Where the store cannot be written, or does not show what was put into it before, as a mount
//! point without its mount, nothing is removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::sync::Notify;

use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::coordinator::untold::{Kind, Untold};
use crate::agent::daemon::context::Context;
use crate::artifact::store::{Store, StoreError};
use crate::backoff::Backoff;
use crate::consul::{Consistency, Entry, Error, Read, TxnOp};
use crate::kind::HasKind;
use crate::protocol::ids::{Epoch, Sha256, Unit};
use crate::protocol::record::{Action, Archive, Barrier, Build, FORMAT, History, NodeRecord, Segment, decode, encode};
use crate::telemetry::chain;

/// How many requests, and how many actions, stay in Consul at least: interface of `cutover history`.
const KEPT: usize = 200;
/// How many older ones there are before they are archived, so that segments are not of one record each.
const SLACK: usize = 40;
/// The most records of a segment: each is an operation of the transaction, and Consul takes 64.
const SEGMENT_RECORDS: usize = 60;
/// The most bytes of a segment but for its last record: at 10,000 nodes a record has hundreds of kilobytes.
const SEGMENT_BYTES: usize = 8 << 20;
/// The longest `archive`: a value of 512 KiB is Consul's limit, of which base64 in a transaction takes a third.
const LONGEST_ARCHIVE: usize = 300_000;
/// How many builds are looked for before the first segment is written. The newest are the last to be removed.
const KNOWN: usize = 10;
/// How many hex digits of its digest an object's name has: 64 bits, against batches that begin with the same record.
const OBJECT_DIGITS: usize = 16;
/// How far back the line of what was deployed is followed: what a rollback may go to, with room for repetitions.
const LINE: usize = 100;
/// The first pause after a failure; it doubles while they go on.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(30);

/// Why nothing was archived. Nothing was removed either.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error("Consul could not be read or written")]
    Consul(#[from] Error),
    /// What was put into the store is not in it.
    #[error("the store may not be the one that was written before, or not be mounted: it does not show {known}")]
    Elsewhere {
        /// What should be in it.
        known: String,
    },
    /// The archive names as many segments as fit.
    #[error(
        "{key} has {bytes} bytes and takes no more segments: the history in Consul grows from now on; move `archive` to another name in the store by hand, and empty the key"
    )]
    Full {
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// The index of segments.
    #[error("what was archived before cannot be read")]
    Index(#[from] crate::protocol::record::RecordError),
    #[error("the artifact store could not be written")]
    Store(#[from] StoreError),
    /// What was put is not what was read back.
    #[error("{object} was written, and other bytes were read back")]
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

/// What a look came to.
enum Archived {
    /// A batch went out; there may be more.
    Batch,
    /// The lock is another's.
    Lost,
    Nothing,
    /// There is too little that every receiver has been told.
    Untold,
}

/// Archives until the lease is over, each time `tidy` is notified.
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
            Ok(archived @ (Archived::Nothing | Archived::Untold)) => {
                backoff.succeeded();
                let waited = std::mem::replace(&mut waits, matches!(archived, Archived::Untold));
                if waits && !waited {
                    tracing::info!(unit = %ctx.unit, "{}: older history is not archived before its notifications are sent", ctx.unit);
                }
                tokio::select! {
                    () = lease.over() => return,
                    () = tidy.notified() => {}
                }
            }
            Err(ArchiveError::Index(error)) if error.is_newer() => {
                // Only a newer agent can add to it: this one gives up the lock.
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

/// Archives the oldest records that are too many, up to one segment of them.
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
        return Ok(Archived::Untold);
    }
    let (Some((first, _)), Some((last, _))) = (batch.first(), batch.last()) else { return Ok(Archived::Nothing) };
    let index = ctx.consul.kv_get(&at.archive(), Consistency::Consistent).await?;
    let standing = index.as_ref().filter(|entry| !entry.value.is_empty());
    let mut archive: Archive = standing.map(|entry| decode(&entry.key, &entry.value)).transpose()?.unwrap_or_default();
    let store = ctx.stager.store();
    let known = known(ctx, store, &archive).await?;
    if !store.shows_any(&known).await? {
        return Err(ArchiveError::Elsewhere { known: known.first().map(|key| store.place(key)).unwrap_or_default() });
    }
    let segment = segment(&ctx.unit, (*first, *last), batch.len(), &lines);
    // The same bytes again are a batch whose transaction did not apply.
    archive.segments.retain(|known| known.object != segment.object);
    archive.format = FORMAT;
    archive.segments.push(segment.clone());
    let value = encode(&archive).into_bytes();
    if value.len() > LONGEST_ARCHIVE {
        return Err(ArchiveError::Full { key: at.archive(), bytes: value.len() });
    }
    let object = store.key_below(&segment.object);
    let limit = lines.len().saturating_add(1);
    store.put_small(&object, lines).await?;
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
        // Something was written meanwhile: the next notice looks again.
        Written::Conflict(_) => Ok(Archived::Nothing),
    }
}

/// What was put into the store before: the newest segment, or, where there is none, the newest builds. A unit without
/// builds has deployed nothing, and keeps its history in Consul.
async fn known(ctx: &Context, store: &Store, archive: &Archive) -> Result<Vec<String>, Error> {
    if let Some(newest) = archive.segments.last() {
        return Ok(vec![store.key_below(&newest.object)]);
    }
    let app = &ctx.unit.app;
    let builds = ctx.consul.kv_list(&ctx.keys.builds(app), Consistency::Consistent).await?;
    let mut builds: Vec<Build> = builds.iter().filter_map(|it| decode(&it.key, &it.value).ok()).collect();
    builds.sort_by_key(|build| std::cmp::Reverse(build.at));
    Ok(builds.iter().take(KNOWN).map(|build| store.key(app, &build.artifact, build.format)).collect())
}

/// How a batch is named. By its bytes, too: an agent that was paused while another coordinated, or that tries again, may
/// have put together other records from the same first one on, and must not put them over what `archive` names.
fn segment(unit: &Unit, (first, last): (Epoch, Epoch), records: usize, lines: &[u8]) -> Segment {
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

/// All keys under `prefix` but the newest, oldest first. What is no epoch's is passed over.
async fn older(ctx: &Context, prefix: &str) -> Result<Vec<(Epoch, String)>, Error> {
    let names = ctx.consul.kv_keys(prefix, Consistency::Consistent).await?;
    let mut keys: Vec<(Epoch, String)> =
        names.into_iter().filter_map(|key| Some((key.strip_prefix(prefix)?.parse().ok()?, key))).collect();
    keys.sort();
    keys.truncate(keys.len().saturating_sub(KEPT));
    Ok(keys)
}

/// Epochs whose records somebody may still ask for: what the barrier and the nodes name, and the line of what was
/// deployed as far back as a rollback may go.
async fn needed(ctx: &Context) -> Result<BTreeSet<Epoch>, Error> {
    let at = &ctx.at;
    let reads = [Read::Key(at.barrier()), Read::Prefix(at.nodes())];
    let read = ctx.consul.snapshot(&reads, Consistency::Consistent).await?;
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
        let entry = ctx.consul.kv_get(&key, Consistency::Consistent).await?;
        let record: Option<History> = entry.and_then(|entry| decode(&key, &entry.value).ok());
        next = record.and_then(|record| record.from);
    }
    Ok(needed)
}

/// What goes into one segment.
struct Batch {
    records: Vec<(Epoch, Entry)>,
    lines: Vec<u8>,
    /// Whether more would, had it been told.
    is_held: bool,
}

/// The records of the first segment's worth of `keys`, and their lines. One that has not ended, or that nobody could read
/// back, or that is still to be told, stays where it is, and with the last those after it.
async fn read_batch(ctx: &Context, keys: Vec<(Epoch, String)>) -> Result<Batch, Error> {
    let (untold, now) = (Untold::read(ctx).await?, Timestamp::now());
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
        let Some(entry) = ctx.consul.kv_get(&key, Consistency::Consistent).await? else { continue };
        let Some((at, line)) = line(kind, &entry) else { continue };
        if untold.holds(kind, epoch, at, now) {
            held.push(kind);
            continue;
        }
        lines.extend_from_slice(&line);
        lines.push(b'\n');
        records.push((epoch, entry));
    }
    Ok(Batch { records, lines, is_held: !held.is_empty() })
}

/// When the record was made, or has ended, and the record in one line; none: it is to stay.
fn line(kind: Kind, entry: &Entry) -> Option<(Timestamp, Vec<u8>)> {
    let at = match kind {
        Kind::Action => decode::<Action>(&entry.key, &entry.value).ok()?.at,
        Kind::Request => {
            let record = decode::<History>(&entry.key, &entry.value).ok().filter(|record| record.outcome.is_some())?;
            record.ended_at.unwrap_or(record.started_at)
        }
    };
    // As it stands, with fields that a newer agent may have written; a blank between them may be a line's end.
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
    fn other_records_from_the_same_first_one_on_are_another_object() {
        let unit = "shop/production".parse().unwrap();
        let epoch = |number| Epoch { era: 1, number };
        let one = segment(&unit, (epoch(12), epoch(131)), 60, b"{}\n");
        let other = segment(&unit, (epoch(12), epoch(131)), 60, b"{ }\n");
        assert_eq!(one.object, format!("shop/history/production/1.12-{}.jsonl", &one.sha256.as_str()[..16]));
        assert_ne!(one.object, other.object);
        assert_eq!(one, segment(&unit, (epoch(12), epoch(131)), 60, b"{}\n"), "put again it is the same");
    }
}
