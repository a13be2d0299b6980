//! The name and the place of a build: what the records of the other builds of the app decide about them.
//!
//! Several branches can reduce to one short name. It belongs to the one that takes it first, by a check-and-set of
//! `runs/<name>` at the start of the build, or of `builds/<name>` at the publish. At that commit, the others get the
//! distinct name. A name that was taken stays taken until both records are removed.

use jiff::Timestamp;

use super::access::Access;
use super::code::{Code, Failure};
use crate::artifact::{artifact_name, distinct_name};
use crate::document::Entries;
use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::{App, ArtifactName, Commit};
use crate::protocol::newest;
use crate::protocol::record::{Build, Run, decode};

/// The two forms of an artifact's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameForm {
    Short,
    /// With digits that distinguish it from other branches.
    Distinct,
}

impl NameForm {
    pub(crate) const ALL: [Self; 2] = [Self::Short, Self::Distinct];

    #[must_use]
    pub(crate) fn name(self, of: BuildRef<'_>, commit: &Commit, rebuild: Option<u32>) -> ArtifactName {
        match self {
            Self::Short => artifact_name(of.name, commit, rebuild),
            Self::Distinct => distinct_name(of, commit, rebuild),
        }
    }
}

/// The form of the name that builds of `of` have at this commit.
///
/// # Errors
///
/// [`Code::Failed`] if others took both names; as any use of Consul.
pub(crate) async fn form(access: &Access, app: &App, of: BuildRef<'_>, commit: &Commit) -> Result<NameForm, Failure> {
    for form in NameForm::ALL {
        if !is_foreign(access, app, &form.name(of, commit, None), of).await? {
            return Ok(form);
        }
    }
    let [short, distinct] = NameForm::ALL.map(|form| form.name(of, commit, None));
    let what = format!("the names {short} and {distinct} belong to builds of other branches");
    Err(Failure::new(Code::Failed, what).hint("publish another commit"))
}

/// Whether a build or a run of another branch, tag or pull request has the name. Unreadable records have no owner.
///
/// # Errors
///
/// As any use of Consul.
pub(crate) async fn is_foreign(
    access: &Access,
    app: &App,
    name: &ArtifactName,
    of: BuildRef<'_>,
) -> Result<bool, Failure> {
    let (at_build, at_run) = (access.keys.build(app, name), access.keys.run(app, name));
    let entries = access.kv.at_one_moment(&[at_build.clone(), at_run.clone()]).await?;
    let build: Option<Build> = entries.get(&at_build).and_then(|entry| decode(&at_build, &entry.value).ok());
    let run: Option<Run> = entries.get(&at_run).and_then(|entry| decode(&at_run, &entry.value).ok());
    Ok(build.is_some_and(|build| build.of() != of) || run.is_some_and(|run| run.of() != of))
}

/// The readable builds and runs of one branch, tag or pull request.
#[derive(Debug)]
pub(crate) struct Siblings {
    pub(crate) builds: Vec<Build>,
    pub(crate) runs: Vec<Run>,
}

impl Siblings {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// As any use of Consul.
    pub(crate) async fn read(access: &Access, app: &App, of: BuildRef<'_>) -> Result<Self, Failure> {
        let at_runs = access.keys.runs(app);
        let (builds, runs) = tokio::try_join!(builds_of(access, app, of), access.kv.entries(&at_runs))?;
        let mut runs: Vec<Run> = readable(&runs);
        runs.retain(|run| run.of() == of);
        Ok(Self { builds, runs })
    }

    /// The place of a commit; see [`newest::order_of`].
    #[must_use]
    pub(crate) fn order_of(&self, of: BuildRef<'_>, commit: &Commit, now: Timestamp) -> Timestamp {
        newest::order_of(of, commit, &self.builds, &self.runs, now)
    }
}

/// The readable builds of one branch, tag or pull request.
///
/// # Errors
///
/// As any use of Consul.
pub(crate) async fn builds_of(access: &Access, app: &App, of: BuildRef<'_>) -> Result<Vec<Build>, Failure> {
    let mut builds: Vec<Build> = readable(&access.kv.entries(&access.keys.builds(app)).await?);
    builds.retain(|build| build.of() == of);
    Ok(builds)
}

fn readable<T: serde::de::DeserializeOwned>(entries: &Entries) -> Vec<T> {
    entries.iter().filter_map(|(key, entry)| decode(key, &entry.value).ok()).collect()
}
