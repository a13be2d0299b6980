//! Reads for the owner: members, history and the disk. Reports its alarms and gauges.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::daemon::context::Context;
use crate::agent::node::health::Health;
use crate::agent::node::rebuild;
use crate::backoff::Backoff;
use crate::consul::{Consistency, Entry};
use crate::metrics::UnitState;
use crate::protocol::ids::{Epoch, Node};
use crate::protocol::journal::Origin;
use crate::protocol::participant::{Event, Verdict};
use crate::protocol::record::{History, MAX_UNREMOVABLE, NodeRecord, decode};
use crate::protocol::shell::describe::{Found, Look, OnDisk};
use crate::protocol::shell::rebuild::known_epoch;
use crate::release::{CurrentLink, Site};
use crate::telemetry::chain;

/// Whether this node is a member of `epoch`. A missing list means no: it belongs to an epoch that has ended.
pub(crate) async fn members(ctx: &Context, epoch: Epoch) -> Event {
    let key = ctx.at.members(epoch);
    let is_member = until_readable(ctx, &key, |entry| match entry {
        None => Ok(false),
        Some(entry) => decode::<Vec<Node>>(&entry.key, &entry.value).map(|members| members.contains(&ctx.agent.node)),
    });
    Event::Members { epoch, is_member: is_member.await }
}

/// Whether `epoch` was reverted, according to its history.
pub(crate) async fn history(ctx: &Context, epoch: Epoch) -> Event {
    let key = ctx.at.history(epoch);
    let verdict = until_readable(ctx, &key, |entry| match entry {
        None => Ok(Verdict::NotReverted),
        Some(entry) => decode::<History>(&entry.key, &entry.value)
            .map(|history| if history.was_reverted() { Verdict::Reverted } else { Verdict::NotReverted }),
    });
    Event::History { epoch, verdict: verdict.await }
}

/// Reads a key consistently, and retries until it can be read: a guess could break a promise.
async fn until_readable<T>(
    ctx: &Context,
    key: &str,
    read: impl Fn(Option<&Entry>) -> Result<T, crate::protocol::record::RecordError>,
) -> T {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        match ctx.agent.consul.kv_get(key, Consistency::Consistent).await {
            Ok(entry) => match read(entry.as_ref()) {
                Ok(value) => {
                    ctx.troubles.reads_again(key);
                    return value;
                }
                Err(error) if error.is_newer() => ctx.troubles.meets_newer(&error).await,
                Err(error) => {
                    tracing::error!(unit = %ctx.unit, key, "{}: {} waits until this record is fixed: {error}", ctx.unit, ctx.agent.node);
                }
            },
            Err(error) => {
                let (unit, error) = (&ctx.unit, chain(&error));
                tracing::warn!(%unit, key, error, "{unit}: {} cannot read {key} from Consul and retries: {error}", ctx.agent.node);
            }
        }
        tokio::time::sleep(backoff.pause(fastrand::f64())).await;
    }
}

/// The target of `current` now. A first switch stores it as the way back.
pub(crate) fn origin(site: &Site) -> Origin {
    match site.current() {
        Ok(CurrentLink::Release(name)) => Origin::Link(format!("releases/{name}")),
        Ok(CurrentLink::Elsewhere(path)) => Origin::Link(path.display().to_string()),
        // The switch itself refuses a `current` that is not a link or cannot be read.
        Ok(CurrentLink::Absent | CurrentLink::NotALink) | Err(_) => Origin::Nothing,
    }
}

/// Reads as much of the disk as `look` asks for.
pub(crate) async fn look_at_disk(ctx: &Context, look: Look) -> Found {
    if look == Look::Nothing {
        return Found::Nothing;
    }
    let site = Arc::clone(&ctx.site);
    match tokio::task::spawn_blocking(move || on_disk(&site, look)).await {
        Ok(Ok(disk)) => Found::Disk(disk),
        Ok(Err(error)) => Found::Broken(error.to_string()),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn on_disk(site: &Site, look: Look) -> io::Result<OnDisk> {
    let mut unremovable = site.unremovable();
    unremovable.truncate(MAX_UNREMOVABLE);
    let known = match look {
        Look::Disk | Look::Nothing => None,
        Look::DiskAndEpochs => known_epoch(&rebuild::made(site)),
    };
    Ok(OnDisk {
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
        unremovable,
        known,
    })
}

/// Logs an alarm that is new, has changed or has ended since the last report `told`.
pub(crate) fn report(ctx: &Context, told: Option<&NodeRecord>, record: &NodeRecord) {
    let (unit, node) = (&ctx.unit, &ctx.agent.node);
    match (told.and_then(|told| told.alarm.as_ref()), &record.alarm) {
        (before, Some(alarm)) if before != Some(alarm) => {
            tracing::error!(%unit, %alarm, "{unit}: {node} raises an alarm: {alarm}");
        }
        (Some(_), None) => tracing::info!(%unit, "{unit}: {node} clears its alarm"),
        (_, _) => {}
    }
}

/// Sets the unit's gauges.
pub(crate) fn measure(ctx: &Context, record: &NodeRecord, health: &Health) {
    let state = UnitState {
        runs: record.runs.as_ref().map(|release| &release.artifact),
        is_behind: health.is_behind(),
        has_alarm: record.alarm.is_some() || !record.unremovable.is_empty(),
        free_bytes: record.free_bytes,
    };
    ctx.agent.metrics.unit_is(&ctx.unit, &state);
}
