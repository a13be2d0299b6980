//! The coordinator's sweep of the store: checks whether each build with a record still has its archive.
//!
//! When the list of missing archives changes, the sweep writes it to `<unit>/store`, under the lease. If the archive of the
//! committed release is missing, the sweep raises an alarm, because a new node could not join.
//!
//! An archive counts as missing only if the store said so in two sweeps in a row (not counting sweeps without an
//! answer): a publisher removes the archive of an old build before its record, and a bucket may be slow to show an
//! object. A store that does not answer, or has no directory of the app (it may not be mounted), proves nothing.
//!
//! Non-goals: the sweep repairs nothing, and no deploy is refused because of it, since nodes that have a build can run it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::daemon::context::Context;
use crate::artifact::store::StoreError;
use crate::consul::{Consistency, Error, TxnOp};
use crate::protocol::ids::{ArtifactName, ModifyIndex};
use crate::protocol::record::{Build, FORMAT, Sweep, check_format, decode, encode};
use crate::telemetry::chain;

/// The longest pause before a new coordinator's first sweep. It keeps frequent changes of the coordinator from loading the
/// store.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// The longest pause before an archive that was missing for the first time is checked again.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(30);
/// How many archives are checked at the same time.
const AT_ONCE: usize = 4;
/// The shortest time between two calls of the store: at most 100 calls a second.
const PACE: Duration = Duration::from_millis(10);
/// After this many failures in a row, the sweep stops, because the store seems to be unavailable.
const FAILURES: usize = 3;
/// The most names that are written. With names of 108 bytes, this stays below Consul's limit for a value (512 KiB).
const MOST_WRITTEN: usize = 2000;

/// The store's answer about one archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Present,
    Missing,
    /// The store did not answer, or was not asked.
    Unknown,
}

/// Sweeps until the lease ends.
pub(crate) async fn sweep(ctx: Arc<Context>, lease: Lease) {
    tokio::select! {
        () = lease.over() => {}
        () = sweep_on(&ctx, &lease) => {}
    }
    // The next coordinator raises the alarm again if the archive is still missing.
    ctx.troubles.set_unjoinable(None);
}

async fn sweep_on(ctx: &Context, lease: &Lease) {
    let mut sweeper = Sweeper::default();
    let mut journal = ctx.published.journal.clone();
    journal.mark_unchanged();
    let mut next = Instant::now() + around(ctx.sweep_every.min(FIRST_AFTER));
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                if let Err(error) = sweeper.round(ctx, lease).await {
                    let error = chain(&error);
                    tracing::warn!(unit = %ctx.unit, error, "{}: the sweep of the store waits for Consul: {error}", ctx.unit);
                }
                let pause = if sweeper.suspects.is_empty() { ctx.sweep_every } else { ctx.sweep_every.min(SECOND_LOOK_AFTER) };
                next = Instant::now() + around(pause);
            }
            // The committed release may have changed, and with it the alarm.
            changed = journal.changed() => if changed.is_err() { return },
        }
        sweeper.raise(ctx);
    }
}

/// A random duration from three to five quarters of `pause`, so that an app's groups do not sweep at the same time.
fn around(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// The results of earlier sweeps.
#[derive(Debug, Default)]
struct Sweeper {
    /// Missing twice in a row.
    gone: BTreeSet<ArtifactName>,
    /// Missing once.
    suspects: BTreeSet<ArtifactName>,
    /// Whether the store did not answer the last time. Logged only when this changes.
    is_silent: bool,
}

impl Sweeper {
    /// One sweep: reads the builds, asks the store, and writes a changed result.
    async fn round(&mut self, ctx: &Context, lease: &Lease) -> Result<(), Error> {
        let (at_builds, at_store) = (ctx.keys.builds(&ctx.unit.app), ctx.at.store());
        let (builds, stands) = tokio::try_join!(
            ctx.consul.kv_list(&at_builds, Consistency::Consistent),
            ctx.consul.kv_get(&at_store, Consistency::Consistent),
        )?;
        let builds: Vec<Build> = builds.into_iter().filter_map(|entry| decode(&entry.key, &entry.value).ok()).collect();
        let index = stands.as_ref().map_or(ModifyIndex(0), |entry| entry.modify_index);
        if let Some(Err(newer)) = stands.as_ref().map(|it| check_format(&it.key, &it.value, FORMAT)) {
            // A newer agent must update this record, so this agent gives up the lock.
            ctx.troubles.meets_newer(&newer).await;
            lease.end();
            return Ok(());
        }
        // A damaged record is replaced.
        let stands = stands.and_then(|entry| decode::<Sweep>(&entry.key, &entry.value).ok()).unwrap_or_default();
        let looks = self.look(ctx, builds).await;
        self.judge(&stands.gone, &looks);
        ctx.metrics.builds_gone(&ctx.unit, self.gone.len());
        let gone: BTreeSet<ArtifactName> = self.gone.iter().take(MOST_WRITTEN).cloned().collect();
        if gone == stands.gone {
            return Ok(());
        }
        for artifact in gone.difference(&stands.gone) {
            tracing::error!(unit = %ctx.unit, %artifact, "{}: the archive of {artifact} is missing from the store", ctx.unit);
        }
        for artifact in stands.gone.difference(&gone) {
            tracing::info!(unit = %ctx.unit, %artifact, "{}: the archive of {artifact} is no longer missing from the store", ctx.unit);
        }
        let value = encode(&Sweep { format: FORMAT, gone, at: Some(Timestamp::now()) }).into_bytes();
        match lease.write([TxnOp::Cas { key: at_store, value, index }]).await? {
            Written::Applied | Written::Lost => {}
            // An operator changed the key by hand. The next sweep reads it.
            Written::Conflict(refusals) => {
                tracing::info!(unit = %ctx.unit, ?refusals, "{}: the key store changed before the result of the sweep was written; the next sweep writes it", ctx.unit);
            }
        }
        Ok(())
    }

    /// Asks the store for each build's archive.
    async fn look(&mut self, ctx: &Context, builds: Vec<Build>) -> BTreeMap<ArtifactName, Look> {
        // Builds that the store is not asked about must stay in the result.
        let mut looks: BTreeMap<ArtifactName, Look> =
            builds.iter().map(|build| (build.artifact.clone(), Look::Unknown)).collect();
        let mut asking: JoinSet<(ArtifactName, Result<Option<u64>, StoreError>)> = JoinSet::new();
        let mut waiting = builds.into_iter();
        let mut failures = 0;
        loop {
            while asking.len() < AT_ONCE
                && failures < FAILURES
                && let Some(build) = waiting.next()
            {
                let (store, app) = (ctx.store.clone(), ctx.unit.app.clone());
                asking.spawn(async move {
                    let key = store.key(&app, &build.artifact, build.format);
                    let found = store.head(&key).await;
                    (build.artifact, found)
                });
                tokio::time::sleep(PACE).await;
            }
            let Some(ended) = asking.join_next().await else { break };
            let Ok((artifact, found)) = ended else { continue };
            match found {
                Ok(found) => {
                    failures = 0;
                    self.is_silent &= found.is_none();
                    looks.insert(artifact, if found.is_some() { Look::Present } else { Look::Missing });
                }
                Err(error) => {
                    failures += 1;
                    self.cannot_list(ctx, &chain(&error));
                }
            }
        }
        self.check_mounted(ctx, &mut looks).await;
        looks
    }

    /// If no archive was found, checks whether the store is mounted. If not, every answer counts as unknown.
    async fn check_mounted(&mut self, ctx: &Context, looks: &mut BTreeMap<ArtifactName, Look>) {
        if !looks.values().any(|look| *look == Look::Missing) || looks.values().any(|look| *look == Look::Present) {
            return;
        }
        let why = match ctx.store.has_app(&ctx.unit.app).await {
            Ok(true) => {
                self.is_silent = false;
                return;
            }
            Ok(false) => format!("{} is not there: is it mounted?", ctx.store.place(ctx.unit.app.as_str())),
            Err(error) => chain(&error),
        };
        self.cannot_list(ctx, &why);
        for look in looks.values_mut() {
            *look = Look::Unknown;
        }
    }

    fn cannot_list(&mut self, ctx: &Context, error: &str) {
        if !std::mem::replace(&mut self.is_silent, true) {
            tracing::warn!(unit = %ctx.unit, error, "{}: cannot list the store, so this sweep counts no archive as missing: {error}", ctx.unit);
        }
    }

    /// Updates the missing archives from one sweep. `previous` is the result of the last sweep, by any coordinator.
    fn judge(&mut self, previous: &BTreeSet<ArtifactName>, looks: &BTreeMap<ArtifactName, Look>) {
        let (mut gone, mut suspects) = (BTreeSet::new(), BTreeSet::new());
        for (artifact, look) in looks {
            let (was_gone, was_missing) = (previous.contains(artifact), self.suspects.contains(artifact));
            let is_gone = match look {
                Look::Present => continue,
                Look::Missing => was_gone || was_missing,
                Look::Unknown => was_gone,
            };
            if is_gone {
                gone.insert(artifact.clone());
            } else if *look == Look::Missing || was_missing {
                suspects.insert(artifact.clone());
            }
        }
        (self.gone, self.suspects) = (gone, suspects);
    }

    /// Raises or clears the alarm that the archive of the committed release is missing.
    fn raise(&self, ctx: &Context) {
        let committed = ctx.published.journal.borrow().record.as_ref().and_then(|record| record.committed.clone());
        let missing = committed.filter(|release| self.gone.contains(&release.artifact));
        let alarm = missing.map(|release| Sweep::alarm(&release.artifact));
        if ctx.troubles.set_unjoinable(alarm.clone()) {
            if let Some(alarm) = alarm {
                tracing::error!(unit = %ctx.unit, %alarm, "{}: {alarm}", ctx.unit);
            } else {
                tracing::info!(unit = %ctx.unit, "{}: the archive of the committed release is back, and new nodes can join", ctx.unit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> ArtifactName {
        format!("master-{n:08x}").parse().unwrap()
    }

    /// Whether the archive counts as missing after sweeps with these answers.
    fn gone_after(looks: &[Look]) -> bool {
        let mut sweeper = Sweeper::default();
        let mut previous = BTreeSet::new();
        for look in looks {
            sweeper.judge(&previous, &[(name(1), *look), (name(2), Look::Present)].into());
            previous.clone_from(&sweeper.gone);
        }
        assert!(!previous.contains(&name(2)), "this archive was always present");
        previous.contains(&name(1))
    }

    #[test]
    fn an_archive_is_missing_only_after_two_sweeps_in_a_row() {
        use Look::{Missing, Present, Unknown};
        for (looks, expected) in [
            (&[Missing][..], false),
            (&[Missing, Missing], true),
            (&[Missing, Present, Missing], false),
            (&[Unknown, Unknown, Unknown], false),
            (&[Missing, Unknown], false),
            (&[Missing, Unknown, Missing], true),
            (&[Missing, Missing, Unknown], true),
            (&[Missing, Missing, Present], false),
            (&[Missing, Missing, Present, Missing], false),
        ] {
            assert_eq!(gone_after(looks), expected, "{looks:?}");
        }
    }

    #[test]
    fn a_build_without_a_record_is_never_missing() {
        let mut sweeper = Sweeper { suspects: [name(3)].into(), ..Sweeper::default() };
        sweeper.judge(&[name(1)].into(), &[(name(2), Look::Present)].into());
        assert!(sweeper.gone.is_empty() && sweeper.suspects.is_empty(), "{sweeper:?}");
    }

    #[test]
    fn a_new_coordinator_continues_from_the_written_result() {
        let mut sweeper = Sweeper::default();
        sweeper.judge(&[name(1)].into(), &[(name(1), Look::Missing)].into());
        assert_eq!(sweeper.gone, [name(1)].into());
    }
}
