//! Records a published build in Consul: its record, `latest`, its run, and an event.
//!
//! A build of a pull request is not in `latest`, because nothing but its name or commit selects it. The name and the place
//! of a build follow from the other records ([`naming`]). They are read before each try of the write, which
//! fails if the run or `latest` has changed since.
//!
//! One transaction writes record, `latest` and run, so agents never see a build in `latest` without its record. A record is
//! written once. Publishing the same archive again succeeds without a change, and another archive under the same name is
//! refused. Only a signature can be added later, or replaced by who asks for that.

mod candidate;
mod signature;

use jiff::Timestamp;

pub(crate) use self::candidate::{Candidate, Content};
pub(crate) use self::signature::{Standing, signer_named};

use self::candidate::MAX_REBUILDS;

use super::access::Access;
use super::attester::{PlannedWrite, Scope};
use super::code::{Code, Failure};
use super::naming::{self, NameForm, Siblings};
use crate::artifact::store::{Store, Told};
use crate::consul::{Consistency, EVENT_LIMIT_BYTES, TxnOp, TxnResult};
use crate::protocol::ids::{App, ArtifactName, ModifyIndex};
use crate::protocol::keys::BUILD_EVENT;
use crate::protocol::newest::newest;
use crate::protocol::record::{ArchiveFormat, Build, Latest, Run, RunState, decode, encode};

/// How often a transaction is tried that conflicts with another publisher of the app. Each conflict means that another
/// publisher succeeded, so this many CI jobs can finish at the same moment.
const TRIES: usize = 32;
/// What to do if a build with different content has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherContent {
    Refuse,
    /// Use the next free rebuild number.
    Rebuild,
}

/// Whether a candidate is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishState {
    /// Not yet; this name is free for it.
    Free(ArtifactName),
    /// Yes, with this record.
    Published(Box<Build>),
    /// That depends on the digest of the archive in this format: the record that has the name tells of no tree.
    Undecided(ArchiveFormat),
}

/// The result of [`Recorder::record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    New(Box<Build>),
    /// The name belongs to another publisher's record, with the same content or other content, or to the CI run of another
    /// branch. What [`Recorder::state`] says now decides.
    Taken,
}

/// Writes the records of one app's builds.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    access: &'a Access,
    app: &'a App,
}

impl<'a> Recorder<'a> {
    #[must_use]
    pub(crate) const fn new(access: &'a Access, app: &'a App) -> Self {
        Self { access, app }
    }

    /// Finds the name that the candidate gets, or the record that it already has.
    ///
    /// # Errors
    ///
    /// Exit code 1 if the name belongs to different content and [`OtherContent::Refuse`] is set.
    pub(crate) async fn state(&self, candidate: &Candidate, other: OtherContent) -> Result<PublishState, Failure> {
        let (of, commit) = (candidate.of(), &candidate.commit);
        let mut form = naming::form(self.access, self.app, of, commit).await?;
        let mut name = form.name(of, commit, None);
        let mut first = self.build(&name).await?;
        // Another branch took the name after the look at it. It keeps the name, so this one has the other.
        if form == NameForm::Short && first.as_ref().is_some_and(|build| build.of() != of) {
            form = NameForm::Distinct;
            name = form.name(of, commit, None);
            first = self.build(&name).await?;
        }
        let Some(first) = first else { return Ok(PublishState::Free(name)) };
        match candidate.is(&first) {
            Some(true) => return Ok(PublishState::Published(Box::new(first))),
            None => return Ok(PublishState::Undecided(first.format)),
            Some(false) if other == OtherContent::Refuse => return Err(candidate.taken(&first)),
            Some(false) => {}
        }
        for number in 2..=MAX_REBUILDS {
            let name = form.name(of, commit, Some(number));
            let Some(build) = self.build(&name).await? else { return Ok(PublishState::Free(name)) };
            match candidate.is(&build) {
                Some(true) => return Ok(PublishState::Published(Box::new(build))),
                None => return Ok(PublishState::Undecided(build.format)),
                Some(false) => {}
            }
        }
        let what = format!("{name} has {MAX_REBUILDS} rebuilds already");
        Err(Failure::new(Code::Failed, what).hint("publish from another commit"))
    }

    /// The record of a candidate under a name that its publisher chose; none if the name is free for it.
    ///
    /// # Errors
    ///
    /// Exit code 1 if the name belongs to another branch, or to different content; also if the candidate has no digest of
    /// its archive, and the record tells of nothing else.
    pub(crate) async fn standing(
        &self,
        candidate: &Candidate,
        name: &ArtifactName,
    ) -> Result<Option<Box<Build>>, Failure> {
        match self.build(name).await? {
            Some(build) => match candidate.is(&build) {
                Some(true) => Ok(Some(Box::new(build))),
                Some(false) | None => Err(candidate.taken(&build)),
            },
            None if naming::is_foreign(self.access, self.app, name, candidate.of()).await? => {
                Err(candidate.name_taken(name))
            }
            None => Ok(None),
        }
    }

    /// The record that has a name.
    ///
    /// # Errors
    ///
    /// Exit code 1 if it cannot be read; as any use of Consul.
    pub(crate) async fn build(&self, name: &ArtifactName) -> Result<Option<Build>, Failure> {
        let key = self.access.keys.build(self.app, name);
        let Some(entry) = self.access.kv.entry(&key).await? else { return Ok(None) };
        decode(&key, &entry.value).map(Some).map_err(|error| {
            Failure::new(Code::Failed, format!("cannot read whether {name} is published")).caused_by(error).hint(
                format!("nothing was changed; `consul kv get {key}` shows it, `consul kv delete {key}` frees the name"),
            )
        })
    }

    /// The newest recorded build of the same branch, tag or pull request as `build`, other than itself; none if there is none.
    /// Records that cannot be read count as absent.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    pub(crate) async fn newest_before(&self, build: &Build) -> Result<Option<Build>, Failure> {
        let builds = naming::builds_of(self.access, self.app, build.of()).await?;
        let others = builds.iter().filter(|other| other.artifact != build.artifact);
        Ok(newest(others).cloned())
    }

    /// The CI run of a build, and the index of its key; no run if there is none, or it cannot be read.
    async fn run(&self, name: &ArtifactName) -> Result<(Option<Run>, ModifyIndex), Failure> {
        let key = self.access.keys.run(self.app, name);
        let Some(entry) = self.access.kv.entry(&key).await? else { return Ok((None, ModifyIndex(0))) };
        Ok((decode(&key, &entry.value).ok(), entry.modify_index))
    }

    /// The newest builds, and the index of their key.
    ///
    /// # Errors
    ///
    /// Exit code 1 if the key has another content. It is shared by all publishers, so it is not replaced automatically.
    pub(crate) async fn latest(&self) -> Result<(Latest, ModifyIndex), Failure> {
        let key = self.access.keys.latest(self.app);
        let Some(entry) = self.access.kv.entry(&key).await? else { return Ok((Latest::default(), ModifyIndex(0))) };
        if entry.value.trim_ascii().is_empty() {
            return Ok((Latest::default(), entry.modify_index));
        }
        let latest = decode(&key, &entry.value).map_err(|error| {
            Failure::new(Code::Failed, format!("cannot add to the newest builds of {}", self.app))
                .caused_by(error)
                .hint(format!("`consul kv delete {key}` removes it, and the next publish makes a new one"))
        })?;
        Ok((latest, entry.modify_index))
    }

    /// Checks that the token may record a build. Call this before the upload: an archive without a record is never used or
    /// removed.
    ///
    /// # Errors
    ///
    /// [`Code::NotAllowed`], naming the key; as any use of Consul.
    pub(crate) async fn check_allowed(&self, name: &ArtifactName) -> Result<(), Failure> {
        let keys = &self.access.keys;
        let keys = [keys.build(self.app, name), keys.latest(self.app), keys.run(self.app, name)];
        let Some(key) = self.access.kv.unwritable(keys).await? else { return Ok(()) };
        let what = format!("nothing is published: the token may not write {key}");
        let hint = "`cutover consul acl-policy publisher` prints the policy that it needs";
        Err(Failure::new(Code::NotAllowed, what).hint(hint))
    }

    /// Records a build whose archive is in the store, with its place.
    ///
    /// # Errors
    ///
    /// Exit code 6 after too many conflicts, 5 if the outcome is unknown.
    pub(crate) async fn record(&self, mut build: Build) -> Result<Recorded, Failure> {
        let key = self.access.keys.build(self.app, &build.artifact);
        for _ in 0..TRIES {
            let (mut latest, index) = self.latest().await?;
            let (run, run_index) = self.run(&build.artifact).await?;
            if run.as_ref().is_some_and(|run| run.of() != build.of()) {
                return Ok(Recorded::Taken);
            }
            let siblings = Siblings::read(self.access, self.app, build.of()).await?;
            build.place.order = Some(siblings.order_of(build.of(), &build.commit, build.at));
            latest.push(&build);
            if let Some(newest) = newest(siblings.builds.iter().chain([&build])) {
                latest.lead(newest);
            }
            let begun_at = run.and_then(|run| run.begun_at);
            let writes = self.writes(&build, begun_at, run_index, &latest, index);
            let value = encode(&build);
            let planned = PlannedWrite { scope: Scope::App(self.app), key: &key, id: &build.id, value: &value };
            if self.access.attesting(planned, self.write(&build, &writes), |is_written| *is_written).await? {
                return Ok(Recorded::New(Box::new(build)));
            }
            if self.build(&build.artifact).await?.is_some() {
                return Ok(Recorded::Taken);
            }
        }
        let what = format!("other publishers of {} wrote first {TRIES} times in a row", self.app);
        Err(Failure::new(Code::Busy, what).hint("publish again"))
    }

    /// Writes the operations; returns whether the build is recorded. After a lost answer, the record tells.
    async fn write(&self, build: &Build, writes: &[TxnOp]) -> Result<bool, Failure> {
        match self.access.kv.client().txn(writes, Consistency::Default).await {
            Ok(TxnResult::Applied(_)) => Ok(true),
            Ok(TxnResult::Refused(_)) => Ok(false),
            Err(error) if error.outcome_unknown() => match self.build(&build.artifact).await {
                Ok(Some(standing)) => Ok(standing == *build),
                _ => Err(Failure::from(error).hint("publish again: a build that is published already is not changed")),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn writes(
        &self,
        build: &Build,
        begun_at: Option<Timestamp>,
        run_index: ModifyIndex,
        latest: &Latest,
        index: ModifyIndex,
    ) -> Vec<TxnOp> {
        let keys = &self.access.keys;
        let run = Run {
            branch: build.branch.clone(),
            commit: build.commit.clone(),
            summary: build.summary.clone(),
            state: RunState::Published,
            url: build.url.clone(),
            by: build.by.clone(),
            reason: String::new(),
            pull_request: build.pull_request.clone(),
            tag: build.tag.clone(),
            place: build.place.clone(),
            begun_at,
            lost_at: None,
            at: build.at,
        };
        let cas = |key: String, value: String, index| TxnOp::Cas { key, value: value.into_bytes(), index };
        let mut writes = vec![
            cas(keys.build(self.app, &build.artifact), encode(build), ModifyIndex(0)),
            cas(keys.run(self.app, &build.artifact), encode(&run), run_index),
        ];
        if !build.of().is_pull_request() {
            writes.push(cas(keys.latest(self.app), encode(latest), index));
        }
        writes
    }

    /// Adds a published build to `latest` if it is missing there, for example after the key was deleted.
    ///
    /// # Errors
    ///
    /// As [`Recorder::latest`], and exit code 6 after too many conflicts.
    pub(crate) async fn restore_latest(&self, build: &Build) -> Result<(), Failure> {
        if build.of().is_pull_request() {
            return Ok(());
        }
        for _ in 0..TRIES {
            let (latest, index) = self.latest().await?;
            let builds = naming::builds_of(self.access, self.app, build.of()).await?;
            let newest = newest(&builds).unwrap_or(build);
            let Some(restored) = with_restored(&latest, build, newest) else { return Ok(()) };
            let (key, value) = (self.access.keys.latest(self.app), encode(&restored));
            if self.access.kv.replace(&key, &value, index).await? != super::kv::Replaced::Lost {
                return Ok(());
            }
        }
        Err(Failure::new(Code::Busy, format!("other publishers of {} wrote first {TRIES} times in a row", self.app)))
    }

    /// Checks that the store is mounted; call this before the upload. Fails if builds of the app are recorded, but the store
    /// has no directory of the app: then it is probably an empty mount point, and no node would find the upload.
    ///
    /// # Errors
    ///
    /// Exit code 1; as [`Recorder::latest`], and as any use of the store.
    pub(crate) async fn check_mounted(&self, store: &Store) -> Result<(), Failure> {
        if self.latest().await?.0.builds.is_empty() || Box::pin(store.has_app(self.app)).await? {
            return Ok(());
        }
        let place = store.place(self.app.as_str());
        let what = format!("{place} does not exist, but builds of {} were published before", self.app);
        Err(Failure::new(Code::Failed, what).hint("mount the store; if it is a new store, create that directory in it"))
    }

    /// Checks that the archive of a build is in the store, without reading it.
    ///
    /// # Errors
    ///
    /// [`Code::Refused`] if it is missing, has another size, or was stored with another digest; as any use of the store.
    pub(crate) async fn check_stored(&self, store: &Store, build: &Build) -> Result<(), Failure> {
        let key = store.key(self.app, build);
        let place = store.place(&key);
        let what = match Box::pin(store.stat(&key)).await? {
            None => format!("{place} does not exist"),
            Some(stat) if stat.bytes != build.packed_bytes => {
                format!("{place} has {} bytes, but packed_bytes is {}", stat.bytes, build.packed_bytes)
            }
            Some(stat) => match stat.told.filter(|told| told.is_of(build) == Some(false)) {
                Some(Told::Archive(told)) => {
                    format!("{place} has the SHA-256 {told} in its metadata, but sha256 is {}", build.sha256)
                }
                Some(Told::Tree(told)) => {
                    format!("{place} has the tree {told} in its metadata, but the record has another")
                }
                None => return Ok(()),
            },
        };
        Err(Failure::new(Code::Refused, what).hint("upload the archive first, then record it"))
    }

    /// Fires an event that wakes agents. Without it they find the build a little later, so a failure is only a warning.
    pub(crate) async fn announce(&self, artifact: &ArtifactName) {
        let whole = format!("{}/{artifact}", self.app);
        let payload = if whole.len() <= EVENT_LIMIT_BYTES { whole } else { self.app.to_string() };
        if let Err(error) = self.access.kv.client().event_fire(BUILD_EVENT, payload).await {
            let error = Failure::from(error);
            (self.access.print_line)(&format!(
                "warning: the event {BUILD_EVENT} could not be fired: {}; agents will find the build without it",
                error.chain()
            ));
        }
    }
}

/// `latest` with the build inserted by time, and the newest build of its branch before the others of it; none if that
/// changes nothing.
fn with_restored(latest: &Latest, build: &Build, newest: &Build) -> Option<Latest> {
    let mut restored = latest.clone();
    if !latest.builds.iter().any(|b| b.artifact == build.artifact) {
        let older = latest.builds.iter().position(|b| b.at < build.at);
        restored.insert(older.unwrap_or(latest.builds.len()), build);
    }
    if restored.builds.iter().any(|b| b.of() == build.of()) {
        restored.lead(newest);
    }
    (restored != *latest).then_some(restored)
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::protocol::record::LATEST_BUILDS;

    fn build(n: u32) -> Build {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(n));
        Build { at, ..Build::sample(&format!("master-{n:08x}")) }
    }

    #[test]
    fn a_restored_build_is_sorted_by_its_time() {
        let mut latest = Latest::default();
        for n in [1, 3] {
            latest.push(&build(n));
        }
        let restored = with_restored(&latest, &build(2), &build(3)).unwrap();
        let order: Vec<_> = restored.builds.iter().map(|b| b.artifact.as_str()).collect();
        assert_eq!(order, ["master-00000003", "master-00000002", "master-00000001"]);
        assert_eq!(with_restored(&latest, &build(3), &build(3)), None);
        // The newest of the branch leads, also if it was published before.
        let restored = with_restored(&latest, &build(2), &build(1)).unwrap();
        assert_eq!(restored.builds[0].artifact.as_str(), "master-00000001");
    }

    #[test]
    fn a_build_older_than_a_full_list_is_not_restored() {
        let mut latest = Latest::default();
        for n in 10..10 + u32::try_from(LATEST_BUILDS).unwrap() {
            latest.push(&build(n));
        }
        assert_eq!(with_restored(&latest, &build(2), &build(29)), None);
    }
}
