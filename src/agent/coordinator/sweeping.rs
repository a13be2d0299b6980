//! The coordinator's sweep of the store: whether each build with a record still has its archive.
//!
//! What is missing is written to `<unit>/store`, fenced by the coordinator's lock, whenever it differs from what stands
//! there. A missing archive of what runs is an alarm: a new node could not join.
//!
//! A store that does not answer says nothing, nor does a directory without one of the app's: a mount that is away. Only a clear "not there" counts, and only the second one in a row: a
//! publisher that removes old builds takes the archive before the record, and a bucket may answer late. Nothing is
//! mended here, and no deploy is refused for it: nodes that have a build can run it.

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

/// The longest pause before a new coordinator's first sweep, so that one whose lock comes and goes asks little.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// The longest pause before the second look at what was missing for the first time.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(30);
/// How many builds are asked about at the same time.
const AT_ONCE: usize = 4;
/// The least time between two questions to the store: at most 100 a second.
const PACE: Duration = Duration::from_millis(10);
/// After so many failures without an answer between them the store is taken to be away, and the sweep to be over.
const FAILURES: usize = 3;
/// The most names that are written: below Consul's limit for a value (512 KiB) with names of 108 bytes.
const MOST_WRITTEN: usize = 2000;

/// What the store says of one build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Its archive is there.
    There,
    Missing,
    /// Nothing: the store did not answer, or was not asked.
    Silent,
}

/// Sweeps until the lease is over.
pub(crate) async fn sweep(ctx: Arc<Context>, lease: Lease) {
    tokio::select! {
        () = lease.over() => {}
        () = sweep_on(&ctx, &lease) => {}
    }
    // The next coordinator finds out for itself.
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
            // Another build may run now.
            changed = journal.changed() => if changed.is_err() { return },
        }
        sweeper.raise(ctx);
    }
}

/// Between three quarters and five quarters of `pause`: the coordinators of an app's groups do not sweep in step.
fn around(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// What is known of the store.
#[derive(Debug, Default)]
struct Sweeper {
    /// Missing twice in a row.
    gone: BTreeSet<ArtifactName>,
    /// Missing once.
    suspects: BTreeSet<ArtifactName>,
    /// Whether the store did not answer the last time: said once.
    is_silent: bool,
}

impl Sweeper {
    /// One sweep: reads, looks, judges, and writes what has changed.
    async fn round(&mut self, ctx: &Context, lease: &Lease) -> Result<(), Error> {
        let (at_builds, at_store) = (ctx.keys.builds(&ctx.unit.app), ctx.at.store());
        let (builds, stands) = tokio::try_join!(
            ctx.consul.kv_list(&at_builds, Consistency::Consistent),
            ctx.consul.kv_get(&at_store, Consistency::Consistent),
        )?;
        let builds: Vec<Build> = builds.into_iter().filter_map(|entry| decode(&entry.key, &entry.value).ok()).collect();
        let index = stands.as_ref().map_or(ModifyIndex(0), |entry| entry.modify_index);
        if let Some(Err(newer)) = stands.as_ref().map(|it| check_format(&it.key, &it.value, FORMAT)) {
            // Only a newer agent can add to it: this one gives up the lock.
            ctx.troubles.meets_newer(&newer).await;
            lease.end();
            return Ok(());
        }
        // What cannot be read is written anew.
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
            // Somebody wrote the key by hand: the next sweep reads it.
            Written::Conflict(refusals) => {
                tracing::info!(unit = %ctx.unit, ?refusals, "{}: another write came before the sweep's result; the next sweep writes it", ctx.unit);
            }
        }
        Ok(())
    }

    /// Asks the store about each build.
    async fn look(&mut self, ctx: &Context, builds: Vec<Build>) -> BTreeMap<ArtifactName, Look> {
        // A build that was not asked about is still a build.
        let mut looks: BTreeMap<ArtifactName, Look> =
            builds.iter().map(|build| (build.artifact.clone(), Look::Silent)).collect();
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
                    looks.insert(artifact, if found.is_some() { Look::There } else { Look::Missing });
                }
                Err(error) => {
                    failures += 1;
                    self.cannot_list(ctx, &chain(&error));
                }
            }
        }
        self.doubt(ctx, &mut looks).await;
        looks
    }

    /// Where nothing is found, the store may be a mount point without its mount: then it says nothing.
    async fn doubt(&mut self, ctx: &Context, looks: &mut BTreeMap<ArtifactName, Look>) {
        if !looks.values().any(|look| *look == Look::Missing) || looks.values().any(|look| *look == Look::There) {
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
            *look = Look::Silent;
        }
    }

    fn cannot_list(&mut self, ctx: &Context, error: &str) {
        if !std::mem::replace(&mut self.is_silent, true) {
            tracing::warn!(unit = %ctx.unit, error, "{}: cannot list the store, so this sweep counts no archive as missing: {error}", ctx.unit);
        }
    }

    /// What follows from a sweep. `stood` is what the one before it came to, by whichever coordinator.
    fn judge(&mut self, stood: &BTreeSet<ArtifactName>, looks: &BTreeMap<ArtifactName, Look>) {
        let (mut gone, mut suspects) = (BTreeSet::new(), BTreeSet::new());
        for (artifact, look) in looks {
            let (was_gone, was_missing) = (stood.contains(artifact), self.suspects.contains(artifact));
            let is_gone = match look {
                Look::There => continue,
                Look::Missing => was_gone || was_missing,
                Look::Silent => was_gone,
            };
            if is_gone {
                gone.insert(artifact.clone());
            } else if *look == Look::Missing || was_missing {
                suspects.insert(artifact.clone());
            }
        }
        (self.gone, self.suspects) = (gone, suspects);
    }

    /// Says, or takes back, that the archive of what runs is missing.
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

    /// Sweeps with these answers one after the other, each starting from what the one before has written.
    fn gone_after(looks: &[Look]) -> bool {
        let mut sweeper = Sweeper::default();
        let mut stood = BTreeSet::new();
        for look in looks {
            sweeper.judge(&stood, &[(name(1), *look), (name(2), Look::There)].into());
            stood.clone_from(&sweeper.gone);
        }
        assert!(!stood.contains(&name(2)), "it was always there");
        stood.contains(&name(1))
    }

    #[test]
    fn only_a_second_clear_no_in_a_row_is_believed_and_silence_says_nothing() {
        use Look::{Missing, Silent, There};
        for (looks, expected) in [
            (&[Missing][..], false),
            (&[Missing, Missing], true),
            (&[Missing, There, Missing], false),
            (&[Silent, Silent, Silent], false),
            (&[Missing, Silent], false),
            (&[Missing, Silent, Missing], true),
            (&[Missing, Missing, Silent], true),
            (&[Missing, Missing, There], false),
            (&[Missing, Missing, There, Missing], false),
        ] {
            assert_eq!(gone_after(looks), expected, "{looks:?}");
        }
    }

    #[test]
    fn a_build_without_a_record_is_not_missed() {
        let mut sweeper = Sweeper { suspects: [name(3)].into(), ..Sweeper::default() };
        sweeper.judge(&[name(1)].into(), &[(name(2), Look::There)].into());
        assert!(sweeper.gone.is_empty() && sweeper.suspects.is_empty(), "{sweeper:?}");
    }

    #[test]
    fn a_new_coordinator_goes_on_from_what_was_written() {
        let mut sweeper = Sweeper::default();
        sweeper.judge(&[name(1)].into(), &[(name(1), Look::Missing)].into());
        assert_eq!(sweeper.gone, [name(1)].into());
    }
}
