//! What a build ships compared with an earlier one: commits from the build records, files from the manifests in the store.

use super::access::Access;
use super::code::{Code, Failure};
use super::read;
use crate::artifact::manifest::{Manifest, ManifestError, diff, packed_limit, unpack};
use crate::artifact::store::{Store, StoreError};
use crate::document::{BuildDocument, Files};
use crate::protocol::comparison::{Earlier, compare};
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::newest::newest;
use crate::protocol::record::{Base, Build, CommitList, Commits, FileChanges, Since};

/// How much of a list of files is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListLimit {
    /// The most paths of each list.
    pub(crate) paths: usize,
    /// The most bytes of the paths of each list.
    pub(crate) bytes: usize,
}

/// For a document about one build.
const DOCUMENT_LIMIT: ListLimit = ListLimit { paths: 200, bytes: 16 * 1024 };

/// The build `artifact` compared with `against`, or else with the build before it on its branch. The document says what
/// cannot be read of the store, and why.
///
/// # Errors
///
/// [`Code::NotFound`] if one of the two builds is not recorded; as any read of Consul.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn show(
    access: &Access,
    store: Option<&Store>,
    app: &App,
    artifact: &ArtifactName,
    against: Option<&ArtifactName>,
) -> Result<BuildDocument, Failure> {
    let found = read::builds(access, app).await?;
    let missing = |name: &ArtifactName, what: &str| {
        Failure::new(Code::NotFound, format!("no {what} {name} of {app} is recorded"))
            .hint(format!("`cutover builds {app}` lists the builds"))
    };
    let row = found.builds.iter().find(|row| row.artifact == *artifact);
    let row = row.ok_or_else(|| missing(artifact, "build"))?.clone();
    let records: Vec<&Build> = found.builds.iter().filter_map(|row| row.record.as_ref()).collect();
    let against = match (against, &row.record) {
        (Some(name), _) => {
            let build = records.iter().find(|build| build.artifact == *name);
            Some(Against::of(build.ok_or_else(|| missing(name, "published build"))?))
        }
        (None, Some(build)) => Against::before(build, &records),
        (None, None) => None,
    };
    let Between { commits, files } = match (&row.record, &against) {
        (Some(build), Some(against)) => between(store, app, &records, against, build).await,
        (Some(_), None) => Between::unknown(Commits::First, "there is no earlier build of its branch"),
        (None, _) => {
            let reason = "the build has no artifact";
            Between::unknown(Commits::unknown(reason, CommitList::default()), reason)
        }
    };
    let against = against.map(|against| against.base.artifact);
    Ok(BuildDocument { app: app.clone(), build: row, against, commits, files, problems: found.problems })
}

/// The build that another is compared with.
struct Against<'a> {
    base: Base,
    /// None if its record was removed.
    build: Option<&'a Build>,
}

impl<'a> Against<'a> {
    fn of(build: &'a Build) -> Self {
        Self { base: Base { artifact: build.artifact.clone(), commit: build.commit.clone() }, build: Some(build) }
    }

    /// The build before `build` on its branch, as its record names it; for a record that names none, the newest of those that
    /// were published before it. None: there is none.
    fn before(build: &Build, records: &[&'a Build]) -> Option<Self> {
        match &build.since {
            Some(Since { base: Some(base), .. }) => {
                let record = records.iter().find(|record| record.artifact == base.artifact);
                Some(Self { base: base.clone(), build: record.copied() })
            }
            Some(Since { base: None, .. }) => None,
            None => {
                let earlier = records.iter().copied().filter(|other| other.of() == build.of() && other.at < build.at);
                newest(earlier).map(Self::of)
            }
        }
    }
}

/// The differences between two builds.
struct Between {
    commits: Commits,
    files: Files,
}

impl Between {
    fn unknown(commits: Commits, reason: &str) -> Self {
        Self { commits, files: Files::Unknown { reason: reason.to_owned() } }
    }
}

async fn between(
    store: Option<&Store>,
    app: &App,
    records: &[&Build],
    against: &Against<'_>,
    build: &Build,
) -> Between {
    let Base { artifact, commit } = &against.base;
    let changes = compare(records.iter().copied(), Earlier { artifact, commit: Some(commit) }, build);
    let listed = match (against.build, store) {
        (Some(from), Some(store)) => files(store, app, from, build, DOCUMENT_LIMIT).await,
        (None, _) => Err(Failure::new(Code::NotFound, format!("the record of {artifact} was removed"))),
        (Some(_), None) => {
            let what = "the artifact store, which has the lists of files, is not configured here";
            Err(Failure::new(Code::NotFound, what))
        }
    };
    let files = match listed {
        Ok(changes) => Files::Listed { changes },
        Err(failure) => Files::unlisted(changes.files, failure.chain()),
    };
    Between { commits: changes.commits, files }
}

/// The files that differ from the build `from` to the build `to`.
///
/// # Errors
///
/// As [`manifest`], of the first one that cannot be used.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn files(
    store: &Store,
    app: &App,
    from: &Build,
    to: &Build,
    limit: ListLimit,
) -> Result<FileChanges, Failure> {
    let same = from.manifest.is_some() && from.manifest == to.manifest;
    if same {
        return Ok(FileChanges::default());
    }
    let (from, to) = tokio::try_join!(manifest(store, app, from), manifest(store, app, to))?;
    Ok(diff(&from, &to).shortened(limit.paths, limit.bytes))
}

/// The manifest of a build, checked against its record.
///
/// # Errors
///
/// [`Code::NotFound`] if the build has none, or it is not in the store; [`Code::Failed`] if its bytes are not those that the
/// record names; as any read of the store.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn manifest(store: &Store, app: &App, build: &Build) -> Result<Manifest, Failure> {
    let artifact = &build.artifact;
    let Some(digest) = build.manifest.clone() else {
        let what = format!("{artifact} has no list of its files: an older version or CI itself recorded the build");
        return Err(Failure::new(Code::NotFound, what));
    };
    let key = store.manifest_key(app, build);
    let unusable = |error: ManifestError| {
        let what = format!("{}, the list of the files of {artifact}, cannot be used", store.place(&key));
        Failure::new(Code::Failed, what).caused_by(error)
    };
    let limit = packed_limit(&digest).map_err(unusable)?;
    // Boxed, because the future of the AWS SDK is large and would be part of every caller's future.
    let bytes = match Box::pin(store.get_small(&key, usize::try_from(limit).unwrap_or(usize::MAX))).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { place }) => {
            let what = format!("{place}, the list of the files of {artifact}, does not exist");
            return Err(Failure::new(Code::NotFound, what).hint("publish the same build again"));
        }
        Err(error) => return Err(error.into()),
    };
    let unpacked = tokio::task::spawn_blocking(move || unpack(&bytes, &digest)).await;
    unpacked.unwrap_or_else(|error| Err(ManifestError::Zstd(std::io::Error::other(error)))).map_err(unusable)
}
