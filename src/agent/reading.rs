//! What the owner reads and reports: members, history, and what the node says about itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;

use super::context::Context;
use crate::consul::{Consistency, Entry};
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName};
use crate::protocol::participant::{Event, Participant, Verdict};
use crate::protocol::record::{FORMAT, History, NodeRecord, decode};
use crate::release::{CurrentLink, Site};
use crate::telemetry::chain;

/// Free space is reported in these steps, so that ordinary writing on the disk causes no writes in Consul.
const FREE_STEP_BYTES: u64 = 1 << 30;

/// Whether this node is a member of `epoch`. A list that is gone belongs to an epoch that is over.
pub(crate) async fn members(ctx: &Context, epoch: Epoch) -> Event {
    let key = ctx.at.members(epoch);
    let is_member = until_readable(ctx, &key, |entry| match entry {
        None => Ok(false),
        Some(entry) => decode::<Vec<Node>>(&entry.key, &entry.value).map(|members| members.contains(&ctx.node)),
    });
    Event::Members { epoch, is_member: is_member.await }
}

/// Whether `epoch` was reverted, by its history.
pub(crate) async fn history(ctx: &Context, epoch: Epoch) -> Event {
    let key = ctx.at.history(epoch);
    let verdict = until_readable(ctx, &key, |entry| match entry {
        None => Ok(Verdict::NotReverted),
        Some(entry) => decode::<History>(&entry.key, &entry.value)
            .map(|history| if history.was_reverted() { Verdict::Reverted } else { Verdict::NotReverted }),
    });
    Event::History { epoch, verdict: verdict.await }
}

/// Reads a key consistently until that works: what cannot be read is waited for, never guessed.
async fn until_readable<T>(
    ctx: &Context,
    key: &str,
    read: impl Fn(Option<&Entry>) -> Result<T, crate::protocol::record::RecordError>,
) -> T {
    let mut backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        match ctx.consul.kv_get(key, Consistency::Consistent).await {
            Ok(entry) => match read(entry.as_ref()) {
                Ok(value) => return value,
                Err(error) => tracing::error!(unit = %ctx.unit, %error, "waiting for it to be mended"),
            },
            Err(error) => tracing::warn!(unit = %ctx.unit, key, error = %chain(&error), "waiting for Consul"),
        }
        tokio::time::sleep(backoff.next().unwrap_or_default()).await;
    }
}

/// What the node says about itself now.
pub(crate) async fn describe(ctx: &Arc<Context>, participant: &Participant) -> NodeRecord {
    let site = Arc::clone(&ctx.site);
    let (seen, trouble) = match tokio::task::spawn_blocking(move || look(&site)).await {
        Ok(Ok(seen)) => (seen, None),
        Ok(Err(error)) => (Seen::default(), Some(format!("the disk does not answer: {error}"))),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let alarm = trouble
        .or_else(|| participant.alarm())
        .or_else(|| participant.fault().map(|fault| format!("{}: {}", fault.step.as_str(), fault.reason)));
    NodeRecord {
        format: FORMAT,
        node: ctx.node.clone(),
        consul_node: ctx.consul_node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_digest: ctx.settings.digest(),
        runs: participant.journal().runs.clone(),
        current: seen.current,
        previous: seen.previous,
        staged: seen.staged,
        newest_release: seen.newest_release,
        free_bytes: seen.free_bytes / FREE_STEP_BYTES * FREE_STEP_BYTES,
        alarm,
        at: Timestamp::now(),
    }
}

/// What lies on the disk.
#[derive(Default)]
struct Seen {
    current: Option<String>,
    previous: Option<ReleaseName>,
    staged: Vec<ArtifactName>,
    newest_release: Option<ReleaseName>,
    free_bytes: u64,
}

fn look(site: &Site) -> io::Result<Seen> {
    Ok(Seen {
        current: match site.current()? {
            CurrentLink::Absent => None,
            CurrentLink::Release(name) => Some(name.to_string()),
            CurrentLink::Elsewhere(path) => Some(path.display().to_string()),
            CurrentLink::NotALink => Some("(not a link)".to_owned()),
        },
        previous: site.previous()?,
        staged: site.staged()?.into_iter().map(|staged| staged.artifact).collect(),
        newest_release: site.newest_release()?,
        free_bytes: site.free_bytes()?,
    })
}

/// Publishes what the node says about itself, where more than the time has changed.
pub(crate) async fn report(ctx: &Arc<Context>, participant: &Participant) {
    let record = describe(ctx, participant).await;
    let health = super::health::Health::of(participant, &record);
    ctx.record.send_if_modified(|held| {
        let is_same = held.as_ref().is_some_and(|held| NodeRecord { at: record.at, ..held.clone() } == record);
        if !is_same {
            *held = Some(record);
        }
        !is_same
    });
    ctx.health.send_if_modified(|held| {
        let is_new = *held != health;
        *held = health;
        is_new
    });
}
