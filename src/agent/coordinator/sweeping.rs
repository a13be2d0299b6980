//! The coordinator's sweep of the store: checks whether each build with a record still has its archive, unchanged.
//!
//! When the list of missing and damaged archives changes, the sweep writes it to `<unit>/store`, under the lease. If the archive
//! of the committed release is one of them, the sweep raises an alarm, because a new node could not join.
//!
//! An archive counts as missing or damaged only if two sweeps in a row found so (not counting sweeps without an
//! answer): a publisher removes the archive of an old build before its record, and a bucket may be slow to show an
//! object. A store that does not answer, or has no directory of the app (it may not be mounted), proves nothing.
//!
//! Every sweep compares sizes, and the digests that the store tells. An archive is read only where that is not enough: in a
//! directory, in a bucket that lost the digest that `publish` stored with the object, and where the object changed since the
//! last sweep. A coordinator reads each version of an object once, and in each sweep only a few.
//!
//! Non-goals: the sweep repairs nothing, and no deploy is refused because of it, since nodes that have a build can run it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::daemon::context::Context;
use crate::artifact::store::{Stat, Store, StoreError, Stored};
use crate::consul::{Consistency, Error, TxnOp};
use crate::protocol::ids::{ArtifactName, ModifyIndex};
use crate::protocol::record::{Build, Damage, FORMAT, Sweep, check_format, decode, encode};
use crate::telemetry::chain;

/// The longest pause before a new coordinator's first sweep. It keeps frequent changes of the coordinator from loading the
/// store.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// The longest pause before an archive that was missing or damaged for the first time is checked again.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(30);
/// How many archives are checked at the same time.
const AT_ONCE: usize = 4;
/// The shortest time between two calls of the store: at most 100 calls a second.
const PACE: Duration = Duration::from_millis(10);
/// After this many failures in a row, the sweep stops, because the store seems to be unavailable.
const FAILURES: usize = 3;
/// The most names that are written. With names of 108 bytes, this stays below Consul's limit for a value (512 KiB).
const MOST_WRITTEN: usize = 2000;
/// A sweep begins to read another archive until it has read this much: a second or two of one processor.
const READ_BYTES: u64 = 256 << 20;

/// The store's answer about one archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Present,
    Flawed(Flaw),
    /// The store did not answer, or was not asked.
    Unknown,
}

/// What is wrong with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Missing,
    Damaged(Damage),
}

impl Flaw {
    /// The end of a sentence about the archive.
    const fn text(self) -> &'static str {
        match self {
            Self::Missing => "missing from the store",
            Self::Damaged(Damage::Cut) => "cut in the store: it has fewer bytes than the build record",
            Self::Damaged(Damage::Altered) => "altered in the store: its bytes are not those of the build record",
        }
    }
}

/// A version of an object that was checked: its version, and the result.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Checked {
    version: String,
    look: Look,
}

/// An archive that must be read to be judged.
struct Unread {
    build: Build,
    version: String,
}

/// Sweeps until the lease ends.
pub(crate) async fn sweep(ctx: Arc<Context>, lease: Lease) {
    tokio::select! {
        () = lease.over() => {}
        () = sweep_on(&ctx, &lease) => {}
    }
    // The next coordinator raises the alarm again if the archive is still missing or damaged.
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
    /// Missing or damaged twice in a row.
    flawed: BTreeMap<ArtifactName, Flaw>,
    /// Missing or damaged once.
    suspects: BTreeSet<ArtifactName>,
    /// The newest version of each object that was checked as far as necessary.
    checked: BTreeMap<ArtifactName, Checked>,
    /// Whether the store did not answer the last time. Logged only when this changes.
    is_silent: bool,
}

impl Sweeper {
    /// One sweep: reads the builds, asks the store, and writes a changed result.
    async fn round(&mut self, ctx: &Context, lease: &Lease) -> Result<(), Error> {
        let (at_builds, at_store) = (ctx.agent.keys.builds(&ctx.unit.app), ctx.at.store());
        let (builds, stands) = tokio::try_join!(
            ctx.agent.consul.kv_list(&at_builds, Consistency::Consistent),
            ctx.agent.consul.kv_get(&at_store, Consistency::Consistent),
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
        let previous = flaws_of(&stands);
        self.judge(&previous, &looks);
        let result = self.result();
        ctx.agent.metrics.builds_gone(&ctx.unit, result.gone.len());
        ctx.agent.metrics.builds_damaged(&ctx.unit, result.damaged.len());
        if (&result.gone, &result.damaged) == (&stands.gone, &stands.damaged) {
            return Ok(());
        }
        for (artifact, flaw) in self.flawed.iter().filter(|(artifact, flaw)| previous.get(*artifact) != Some(*flaw)) {
            let what = flaw.text();
            tracing::error!(unit = %ctx.unit, %artifact, "{}: the archive of {artifact} is {what}", ctx.unit);
        }
        for (artifact, flaw) in previous.iter().filter(|(artifact, _)| !self.flawed.contains_key(*artifact)) {
            let what = flaw.text();
            tracing::info!(unit = %ctx.unit, %artifact, "{}: the archive of {artifact} is no longer {what}", ctx.unit);
        }
        let value = encode(&Sweep { at: Some(Timestamp::now()), ..result }).into_bytes();
        match lease.write([TxnOp::Cas { key: at_store, value, index }]).await? {
            Written::Applied | Written::Lost => {}
            // An operator changed the key by hand. The next sweep reads it.
            Written::Conflict(refusals) => {
                tracing::info!(unit = %ctx.unit, ?refusals, "{}: the key store changed before the result of the sweep was written; the next sweep writes it", ctx.unit);
            }
        }
        Ok(())
    }

    /// The record of the current result.
    fn result(&self) -> Sweep {
        let mut result = Sweep { format: FORMAT, ..Sweep::default() };
        for (artifact, flaw) in self.flawed.iter().take(MOST_WRITTEN) {
            match flaw {
                Flaw::Missing => drop(result.gone.insert(artifact.clone())),
                Flaw::Damaged(damage) => drop(result.damaged.insert(artifact.clone(), *damage)),
            }
        }
        result
    }

    /// Asks the store for each build's archive.
    async fn look(&mut self, ctx: &Context, builds: Vec<Build>) -> BTreeMap<ArtifactName, Look> {
        // Builds that the store is not asked about must stay in the result.
        let mut looks: BTreeMap<ArtifactName, Look> =
            builds.iter().map(|build| (build.artifact.clone(), Look::Unknown)).collect();
        self.checked.retain(|artifact, _| looks.contains_key(artifact));
        let mut asking: JoinSet<(Build, Result<Option<Stat>, StoreError>)> = JoinSet::new();
        let mut waiting = builds.into_iter();
        let mut failures = 0;
        let mut unread = Vec::new();
        loop {
            while asking.len() < AT_ONCE
                && failures < FAILURES
                && let Some(build) = waiting.next()
            {
                let (store, app) = (ctx.store.clone(), ctx.unit.app.clone());
                asking.spawn(async move {
                    let key = store.key(&app, &build);
                    let found = store.stat(&key).await;
                    (build, found)
                });
                tokio::time::sleep(PACE).await;
            }
            let Some(ended) = asking.join_next().await else { break };
            let Ok((build, found)) = ended else { continue };
            match found {
                Ok(found) => {
                    failures = 0;
                    self.is_silent &= found.is_none();
                    let artifact = build.artifact.clone();
                    match found {
                        None => drop(looks.insert(artifact, Look::Flawed(Flaw::Missing))),
                        Some(stat) => match self.compare(&ctx.store, &build, &stat) {
                            Some(look) => drop(looks.insert(artifact, look)),
                            None => unread.push(Unread { build, version: stat.version }),
                        },
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.cannot_list(ctx, &chain(&error));
                }
            }
        }
        self.read(ctx, unread, &mut looks).await;
        self.check_mounted(ctx, &mut looks).await;
        looks
    }

    /// What is known of an object without reading it; none if it must be read.
    fn compare(&mut self, store: &Store, build: &Build, stat: &Stat) -> Option<Look> {
        if let Some(damage) = stat.damage(build) {
            return Some(Look::Flawed(Flaw::Damaged(damage)));
        }
        let look = match self.checked.get(&build.artifact) {
            Some(checked) if checked.version == stat.version => return Some(checked.look),
            Some(_) => return None,
            None if stat.told.as_ref().and_then(|told| told.is_of(build)).is_some() => Look::Present,
            // A record without the object's name is of a version that stored no digest with its objects.
            None if build.object.is_none() && matches!(store, Store::S3(_)) => Look::Present,
            None => return None,
        };
        self.checked.insert(build.artifact.clone(), Checked { version: stat.version.clone(), look });
        Some(look)
    }

    /// Reads archives, that of the committed release first, then the newest ones. The rest stays unknown until a later sweep.
    async fn read(&mut self, ctx: &Context, mut unread: Vec<Unread>, looks: &mut BTreeMap<ArtifactName, Look>) {
        let committed = ctx.published.journal.borrow().record.as_ref().and_then(|record| record.committed.clone());
        let is_committed = |build: &Build| committed.as_ref().is_some_and(|it| it.artifact == build.artifact);
        unread.sort_by_key(|it| std::cmp::Reverse((is_committed(&it.build), it.build.at)));
        let read_bytes = AtomicU64::new(0);
        for Unread { build, version } in unread {
            if read_bytes.load(std::sync::atomic::Ordering::Relaxed) >= READ_BYTES {
                break;
            }
            let key = ctx.store.key(&ctx.unit.app, &build);
            let look = match Box::pin(ctx.store.compare(&key, &build, &read_bytes)).await {
                Ok(Stored::Intact) => Look::Present,
                Ok(Stored::Missing) => Look::Flawed(Flaw::Missing),
                Ok(Stored::Damaged(damage)) => Look::Flawed(Flaw::Damaged(damage)),
                Err(error) => {
                    self.cannot_list(ctx, &chain(&error));
                    break;
                }
            };
            if look != Look::Flawed(Flaw::Missing) {
                self.checked.insert(build.artifact.clone(), Checked { version, look });
            }
            looks.insert(build.artifact, look);
        }
    }

    /// If archives are missing and none was found, checks whether the store is mounted. If not, every answer counts as unknown.
    async fn check_mounted(&mut self, ctx: &Context, looks: &mut BTreeMap<ArtifactName, Look>) {
        let is_missing = |look: &Look| *look == Look::Flawed(Flaw::Missing);
        if !looks.values().any(is_missing) || looks.values().any(|look| !is_missing(look) && *look != Look::Unknown) {
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
            tracing::warn!(unit = %ctx.unit, error, "{}: cannot list the store, so this sweep counts no archive as missing or damaged: {error}", ctx.unit);
        }
    }

    /// Updates the missing and damaged archives from one sweep. `previous` is the result of the last sweep, by any coordinator.
    fn judge(&mut self, previous: &BTreeMap<ArtifactName, Flaw>, looks: &BTreeMap<ArtifactName, Look>) {
        let (mut flawed, mut suspects) = (BTreeMap::new(), BTreeSet::new());
        for (artifact, look) in looks {
            let (was_flawed, was_suspect) = (previous.get(artifact), self.suspects.contains(artifact));
            let flaw = match look {
                Look::Present => continue,
                Look::Flawed(flaw) if was_flawed.is_some() || was_suspect => Some(flaw),
                Look::Flawed(_) => None,
                Look::Unknown => was_flawed,
            };
            if let Some(flaw) = flaw {
                flawed.insert(artifact.clone(), *flaw);
            } else if *look != Look::Unknown || was_suspect {
                suspects.insert(artifact.clone());
            }
        }
        (self.flawed, self.suspects) = (flawed, suspects);
    }

    /// Raises or clears the alarm that the archive of the committed release is missing or damaged.
    fn raise(&self, ctx: &Context) {
        let committed = ctx.published.journal.borrow().record.as_ref().and_then(|record| record.committed.clone());
        let alarm = committed.and_then(|release| self.result().alarm(&release.artifact));
        if ctx.troubles.set_unjoinable(alarm.clone()) {
            if let Some(alarm) = alarm {
                tracing::error!(unit = %ctx.unit, %alarm, "{}: {alarm}", ctx.unit);
            } else {
                tracing::info!(unit = %ctx.unit, "{}: the archive of the committed release is back, and new nodes can join", ctx.unit);
            }
        }
    }
}

/// The flaws in a record.
fn flaws_of(sweep: &Sweep) -> BTreeMap<ArtifactName, Flaw> {
    let damaged = sweep.damaged.iter().map(|(artifact, damage)| (artifact.clone(), Flaw::Damaged(*damage)));
    damaged.chain(sweep.gone.iter().map(|artifact| (artifact.clone(), Flaw::Missing))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::store::{S3Settings, StoreUrl, Told};

    fn name(n: u32) -> ArtifactName {
        format!("master-{n:08x}").parse().unwrap()
    }

    /// The flaw of the archive after sweeps with these answers.
    fn flaw_after(looks: &[Look]) -> Option<Flaw> {
        let mut sweeper = Sweeper::default();
        let mut previous = BTreeMap::new();
        for look in looks {
            sweeper.judge(&previous, &[(name(1), *look), (name(2), Look::Present)].into());
            previous.clone_from(&sweeper.flawed);
        }
        assert!(!previous.contains_key(&name(2)), "this archive was always present");
        previous.get(&name(1)).copied()
    }

    const MISSING: Look = Look::Flawed(Flaw::Missing);
    const CUT: Look = Look::Flawed(Flaw::Damaged(Damage::Cut));

    #[test]
    fn an_archive_is_missing_only_after_two_sweeps_in_a_row() {
        use Look::{Present, Unknown};
        for (looks, expected) in [
            (&[MISSING][..], false),
            (&[MISSING, MISSING], true),
            (&[MISSING, Present, MISSING], false),
            (&[Unknown, Unknown, Unknown], false),
            (&[MISSING, Unknown], false),
            (&[MISSING, Unknown, MISSING], true),
            (&[MISSING, MISSING, Unknown], true),
            (&[MISSING, MISSING, Present], false),
            (&[MISSING, MISSING, Present, MISSING], false),
        ] {
            assert_eq!(flaw_after(looks), expected.then_some(Flaw::Missing), "{looks:?}");
        }
    }

    #[test]
    fn a_damaged_archive_counts_as_a_missing_one_does() {
        assert_eq!(flaw_after(&[CUT]), None);
        assert_eq!(flaw_after(&[MISSING, CUT]), Some(Flaw::Damaged(Damage::Cut)), "the newest answer counts");
        assert_eq!(flaw_after(&[CUT, CUT, MISSING]), Some(Flaw::Missing));
        assert_eq!(flaw_after(&[CUT, CUT, Look::Present]), None);
    }

    #[test]
    fn a_build_without_a_record_is_never_missing() {
        let mut sweeper = Sweeper { suspects: [name(3)].into(), ..Sweeper::default() };
        sweeper.judge(&[(name(1), Flaw::Missing)].into(), &[(name(2), Look::Present)].into());
        assert!(sweeper.flawed.is_empty() && sweeper.suspects.is_empty(), "{sweeper:?}");
    }

    #[test]
    fn a_new_coordinator_continues_from_the_written_result() {
        let (mut sweeper, cut) = (Sweeper::default(), Flaw::Damaged(Damage::Cut));
        let written = Sweep { gone: [name(1)].into(), damaged: [(name(2), Damage::Cut)].into(), ..Sweep::default() };
        sweeper.judge(&flaws_of(&written), &[(name(1), MISSING), (name(2), CUT)].into());
        assert_eq!(sweeper.flawed, [(name(1), Flaw::Missing), (name(2), cut)].into());
        let result = sweeper.result();
        assert_eq!((result.gone, result.damaged), (written.gone, written.damaged));
    }

    #[tokio::test]
    async fn an_archive_is_read_only_where_the_store_does_not_tell_enough() {
        let url = StoreUrl::parse("dir:///nonexistent").unwrap();
        let store = Store::open(&url, &S3Settings::default()).await.unwrap();
        let build = Build::sample("master-00000001");
        let stat = |bytes: u64, digit: Option<&str>, version: &str| {
            let told = digit.map(|digit| Told::Archive(digit.repeat(64).parse().unwrap()));
            Stat { bytes, told, version: version.to_owned() }
        };
        let altered = Some(Look::Flawed(Flaw::Damaged(Damage::Altered)));
        let mut sweeper = Sweeper::default();
        assert_eq!(sweeper.compare(&store, &build, &stat(0, None, "a")), Some(CUT));
        assert_eq!(sweeper.compare(&store, &build, &stat(2, None, "a")), altered);
        assert_eq!(sweeper.compare(&store, &build, &stat(1, Some("1"), "a")), altered);
        assert_eq!(sweeper.compare(&store, &build, &stat(1, None, "a")), None, "a directory tells no digest");
        assert_eq!(sweeper.compare(&store, &build, &stat(1, Some("0"), "a")), Some(Look::Present));
        assert_eq!(sweeper.compare(&store, &build, &stat(1, None, "a")), Some(Look::Present), "known already");
        assert_eq!(sweeper.compare(&store, &build, &stat(1, Some("0"), "b")), None, "the object was replaced");
    }
}
