//! What the owner reads and reports: members, history, and what the node says about itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::daemon::context::Context;
use crate::agent::node::presence::said;
use crate::agent::node::rebuild;
use crate::backoff::Backoff;
use crate::consul::{Consistency, Entry};
use crate::metrics::UnitState;
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName};
use crate::protocol::participant::{Event, Participant, Verdict};
use crate::protocol::record::{FORMAT, History, NodeRecord, decode};
use crate::release::{CurrentLink, Site};
use crate::telemetry::chain;

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
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        match ctx.consul.kv_get(key, Consistency::Consistent).await {
            Ok(entry) => match read(entry.as_ref()) {
                Ok(value) => {
                    ctx.reads_again(key);
                    return value;
                }
                Err(error) if error.is_newer() => ctx.meets_newer(&error).await,
                Err(error) => {
                    tracing::error!(unit = %ctx.unit, key, "{}: waiting until this record is fixed: {error}", ctx.unit);
                }
            },
            Err(error) => tracing::warn!(unit = %ctx.unit, key, error = %chain(&error), "waiting for Consul"),
        }
        tokio::time::sleep(backoff.pause(fastrand::f64())).await;
    }
}

/// What the node says about itself now. What its own work is changing on the disk is told when that has ended.
async fn describe(ctx: &Arc<Context>, participant: &Participant) -> NodeRecord {
    let journal = participant.journal();
    let followed = journal.record.as_ref().map(|record| record.epoch);
    let told = ctx.record.borrow().as_ref().filter(|_| participant.is_working()).map(Seen::told);
    let (seen, trouble) = match told {
        Some(seen) => (seen, None),
        None => look_or_say_why(ctx, followed.is_none()).await,
    };
    let astray = participant.alarm();
    let (newer, halted) = {
        let outlook = ctx.outlook.borrow();
        (outlook.newer(), outlook.halted())
    };
    let fault = || participant.fault().map(|fault| format!("{}: {}", fault.step.as_str(), fault.reason));
    let way_on = |astray: &String| format!("{astray}; the way on is `cutover recover {}`", ctx.unit);
    let alarm = trouble.or(newer).or_else(|| astray.as_ref().map(way_on)).or(halted).or_else(fault);
    NodeRecord {
        format: FORMAT,
        node: ctx.node.clone(),
        consul_node: ctx.consul_node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_digest: ctx.settings.digest(),
        // Without a record, what its releases tell is the floor.
        floor: followed.or(seen.known),
        astray: astray.is_some(),
        runs: journal.runs.clone(),
        current: seen.current,
        previous: seen.previous,
        staged: seen.staged,
        newest_release: seen.newest_release,
        free_bytes: seen.free_bytes,
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
    /// The newest epoch that the releases tell of: the floor, while no record is followed.
    known: Option<Epoch>,
}

impl Seen {
    /// As the node has told it last.
    fn told(record: &NodeRecord) -> Self {
        Self {
            current: record.current.clone(),
            previous: record.previous.clone(),
            staged: record.staged.clone(),
            newest_release: record.newest_release.clone(),
            free_bytes: record.free_bytes,
            known: record.floor,
        }
    }
}

/// What lies on the disk, or nothing and why.
async fn look_or_say_why(ctx: &Context, has_no_record: bool) -> (Seen, Option<String>) {
    let site = Arc::clone(&ctx.site);
    match tokio::task::spawn_blocking(move || look(&site, has_no_record)).await {
        Ok(Ok(seen)) => (seen, None),
        Ok(Err(error)) => (Seen::default(), Some(format!("the disk does not answer: {error}"))),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn look(site: &Site, has_no_record: bool) -> io::Result<Seen> {
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
        known: if has_no_record { rebuild::known_epoch(site) } else { None },
    })
}

/// Publishes what the node says about itself, where there is news, and returns it.
pub(crate) async fn report(ctx: &Arc<Context>, participant: &Participant) -> NodeRecord {
    let record = describe(ctx, participant).await;
    let health = crate::agent::node::health::Health::of(participant, &record);
    let before = ctx.record.borrow().as_ref().and_then(|held| held.alarm.clone());
    match (&before, &record.alarm) {
        (before, Some(alarm)) if before.as_ref() != Some(alarm) => tracing::error!(unit = %ctx.unit, %alarm, "alarm"),
        (Some(_), None) => tracing::info!(unit = %ctx.unit, "the alarm is over"),
        (_, _) => {}
    }
    ctx.record.send_if_modified(|held| {
        let is_news = held.as_ref().is_none_or(|held| said(held) != said(&record));
        if is_news {
            *held = Some(record.clone());
        }
        is_news
    });
    let state = UnitState {
        runs: record.runs.as_ref().map(|release| &release.artifact),
        is_behind: health.is_behind(),
        has_alarm: record.alarm.is_some(),
        free_bytes: record.free_bytes,
    };
    ctx.metrics.unit_is(&ctx.unit, &state);
    ctx.health.send_if_modified(|held| {
        let is_new = *held != health;
        *held = health;
        is_new
    });
    record
}
