//! Builds from any CI: reports of its runs, and records of archives that CI uploaded itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};

use super::attest::{self, ClaimedAuthor, ID_PATTERN};
use super::body::{At, Object, fields};
use super::describe::{Operation, Reply};
use super::error::{Answer, Problem};
use super::{Api, Caller};
use crate::control::publish::{Candidate, Content, Recorder, Standing, signer_named};
use crate::control::runs::{self, CiReport, Event};
use crate::control::{self, Code, Failure};
use crate::protocol::git_ref::GitRef;
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, InvalidName, ObjectName, Sha256, Time};
use crate::protocol::record::{
    ArchiveFormat, Build, MAX_LABEL_BYTES, ManifestDigest, Place, Run, RunState, Signature, Since, Summary,
};
use crate::signing::named_key;

/// The longest text of a record, in bytes: a URL of CI's.
const MAX_TEXT_BYTES: usize = 2048;

/// A build whose archive is in the store, at `<prefix>/<app>/<object>`. The agent adds author and time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishedBody {
    artifact: ArtifactName,
    branch: Branch,
    commit: Commit,
    /// The first line of the commit message; 256 bytes are kept.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    subject: Option<String>,
    /// The author of the commit; 256 bytes are kept.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    author: Option<String>,
    sha256: Sha256,
    /// The size of the archive.
    packed_bytes: u64,
    /// The total size of the files in the archive.
    unpacked_bytes: u64,
    /// The number of entries in the archive.
    entries: u64,
    format: ArchiveFormat,
    /// The name of the archive's object; `<artifact>.<format>` if left out. A name that contains digits of `sha256`, as
    /// `<artifact>-<16 digits>.<format>`, keeps two uploads with different bytes apart.
    object: Option<ObjectName>,
    /// The kind of build, for example `release`.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    profile: Option<String>,
    #[schemars(length(max = MAX_TEXT_BYTES))]
    pull_request: Option<String>,
    /// The tag, if CI built one: the same name as `branch`. `refs/tags/<tag>` as `branch` does the same.
    tag: Option<Branch>,
    /// The nearest ancestors of the commit, at least 12 hex digits of each; 64 are kept.
    #[serde(default)]
    ancestors: Vec<String>,
    /// Part of every record; the agent replaces it, because it depends on the other builds of the app.
    #[schemars(with = "Option<Time>")]
    order: Option<Timestamp>,
    /// What is new since another build, as `cutover publish` records it.
    since: Option<Since>,
    /// The SHA-256 of the directory that was packed, as `cutover publish` computes it.
    tree: Option<Sha256>,
    /// The list of the build's files, which is in the store at the object's key with `.manifest.zst` at its end.
    manifest: Option<ManifestDigest>,
    /// CI's page.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    url: Option<String>,
    /// The minisign signature of the other fields: the content of a `.minisig` file. It can also be added to a build that is
    /// recorded already.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    signature: Option<String>,
    /// Whether `signature` replaces one that the record has already; without this, that one stays.
    #[serde(default)]
    replace_signature: bool,
    /// The claimed author of the record.
    #[schemars(length(max = MAX_LABEL_BYTES))]
    by: Option<String>,
    /// The caller's id for the request; a fresh one if left out.
    #[schemars(regex(pattern = ID_PATTERN))]
    id: Option<String>,
}

/// The state of a CI run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunBody {
    #[schemars(extend("enum" = ["building", "canceled", "failed"]))]
    state: RunState,
    branch: Branch,
    commit: Commit,
    /// The first line of the commit message; 256 bytes are kept.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    subject: Option<String>,
    /// The author of the commit; 256 bytes are kept.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    author: Option<String>,
    /// CI's page.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    url: Option<String>,
    /// The pull request that CI builds; a deploy of the branch does not wait for it.
    #[schemars(length(max = MAX_TEXT_BYTES))]
    pull_request: Option<String>,
    /// The tag, if CI built one: the same name as `branch`. `refs/tags/<tag>` as `branch` does the same.
    tag: Option<Branch>,
    /// The claimed author of the report.
    #[schemars(length(max = MAX_LABEL_BYTES))]
    by: Option<String>,
    /// Why the run failed or was canceled.
    #[serde(default)]
    #[schemars(length(max = MAX_TEXT_BYTES))]
    reason: String,
    /// When an unfinished build counts as lost; 6 hours from now if left out.
    #[schemars(with = "Option<Time>")]
    lost_at: Option<Timestamp>,
}

/// A build, or the state of a CI run.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum RecordBody {
    Build(Box<PublishedBody>),
    Run(Box<RunBody>),
}

impl RecordBody {
    fn parse(object: &[u8]) -> Result<Self, Problem> {
        if fields::<Kind>(object)?.state.is_some() {
            return fields(object).map(Self::Run);
        }
        fields(object).map(Self::Build)
    }
}

/// The field that distinguishes a run from a build.
#[derive(Debug, Deserialize)]
struct Kind {
    state: Option<serde::de::IgnoredAny>,
}

/// The stored report of a CI run.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunReport {
    artifact: ArtifactName,
    run: Run,
}

#[derive(Debug)]
pub(super) enum Recorded {
    Build(Box<Build>),
    /// The build was recorded before.
    Known(Box<Build>),
    Run(Box<RunReport>),
}

impl IntoResponse for Recorded {
    fn into_response(self) -> Response {
        match self {
            Self::Build(build) => (StatusCode::CREATED, Json(build)).into_response(),
            Self::Known(build) => Json(build).into_response(),
            Self::Run(report) => Json(report).into_response(),
        }
    }
}

impl Reply for Recorded {
    fn describe(operation: &mut Operation<'_>) {
        let either = json_schema!({"anyOf": [operation.written::<RunReport>(), operation.written::<Build>()]});
        let content = ("application/json", either);
        operation.answer(StatusCode::OK, "The stored report, or the record that existed before.", Some(content));
        let content = ("application/json", operation.written::<Build>());
        operation.answer(StatusCode::CREATED, "Recorded.", Some(content));
    }
}

/// `POST /v1/builds/<app>`.
pub(super) async fn record(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At(app): At<App>,
    Object(bytes, _): Object<RecordBody>,
) -> Answer<Recorded> {
    match RecordBody::parse(&bytes)? {
        RecordBody::Build(published) => publish(api, caller, app, *published).await,
        RecordBody::Run(reported) => report(api, caller, app, *reported).await,
    }
}

async fn report(api: Arc<Api>, caller: Caller, app: App, reported: RunBody) -> Answer<Recorded> {
    let RunBody { state, branch, commit, subject, author, url, pull_request, tag, by, reason, lost_at } = reported;
    let (branch, tag) = name_and_tag(&branch, tag)?;
    let now = Timestamp::now();
    let event = match state {
        RunState::Building => Event::Begun { lost_at: lost_at.or_else(|| now.checked_add(runs::LOST_AFTER).ok()) },
        RunState::Canceled => Event::Canceled,
        RunState::Failed => Event::Failed,
        RunState::Published => {
            let hint =
                "send the record of the build instead: artifact, sha256, packed_bytes, unpacked_bytes, entries, format";
            return Err(Problem::usage("state: published is not reported as a state", hint));
        }
    };
    let summary = summary(subject.as_deref(), author.as_deref())?;
    let pull = ("pull_request", pull_request.as_deref());
    check_texts([("url", url.as_deref()), ("by", by.as_deref()), pull, ("reason", Some(&reason))])?;
    let written = Arc::clone(&api);
    let report = async move {
        // A run is not part of the history, so it needs no attestation.
        let claim = ClaimedAuthor { by, ..ClaimedAuthor::default() };
        let (_, author) = attest::vouch(&written, caller.access(), caller.identity().await?, claim)?;
        let (by, ancestors) = (author.by, Vec::new());
        let report = CiReport { branch, commit, tag, pull_request, ancestors, summary, url, by, reason };
        Ok(runs::record(caller.access(), &app, &report, event, now).await?)
    };
    let runs::Recorded { artifact, run } = api.finish(report).await?;
    Ok(Recorded::Run(Box::new(RunReport { artifact, run })))
}

/// The record that a body describes, without its author.
fn build(published: PublishedBody) -> Result<Build, Problem> {
    let PublishedBody { artifact, branch, commit, sha256, packed_bytes, unpacked_bytes, entries, format, .. } =
        published;
    let PublishedBody { object, subject, author, profile, pull_request, tag, ancestors, order, .. } = published;
    let PublishedBody { tree, since, manifest, url, signature, by, .. } = published;
    let signature = signature.map(self::signature).transpose()?;
    let (branch, tag) = name_and_tag(&branch, tag)?;
    let ancestors = Place::read_ancestors(&ancestors)
        .ok_or_else(|| Problem::usage("ancestors: not at least 12 hex digits each", "give full commits"))?;
    let summary = summary(subject.as_deref(), author.as_deref())?;
    let texts = [("profile", &profile), ("pull_request", &pull_request), ("url", &url), ("by", &by)];
    check_texts(texts.map(|(name, text)| (name, text.as_deref())))?;
    Ok(Build {
        artifact,
        branch,
        commit,
        summary,
        sha256,
        packed_bytes,
        unpacked_bytes,
        entries,
        format,
        tree,
        object,
        profile,
        pull_request,
        tag,
        place: Place { order, ancestors },
        url,
        by: String::new(),
        id: String::new(),
        at: Timestamp::now(),
        since,
        manifest,
        signature,
    })
}

async fn publish(api: Arc<Api>, caller: Caller, app: App, published: PublishedBody) -> Answer<Recorded> {
    let claim = ClaimedAuthor { by: published.by.clone(), id: published.id.clone(), ..ClaimedAuthor::default() };
    let other = if published.replace_signature { Standing::IsReplaced } else { Standing::Stays };
    let build = build(published)?;
    if build.signature.is_some()
        && let Some(reason) = api.host.rejects(&app, &build)
    {
        let hint =
            "`cutover build signed-text` prints the text of a recorded build; sign it by a key that this node has";
        return Err(Failure::new(Code::Refused, format!("{} {reason}", build.artifact)).hint(hint).into());
    }
    let written = Arc::clone(&api);
    let publish = async move {
        let candidate = Candidate {
            branch: build.branch.clone(),
            tag: build.tag.clone(),
            pull_request: build.pull_request.clone(),
            commit: build.commit.clone(),
            // One tree can have several archives, and this request is about one of them.
            content: Content { tree: None, sha256: Some(build.sha256.clone()) },
        };
        candidate.check_name(&build.artifact)?;
        let (access, author) = attest::vouch(&written, caller.access(), caller.identity().await?, claim)?;
        let build = Build { by: author.by, id: author.id, ..build };
        let recorder = Recorder::new(&access, &app);
        // An existing record is a conflict, also where it cannot be read. It is not the agent's failure.
        let conflict = |mut failure: Failure| {
            if failure.code == Code::Failed {
                failure.code = Code::Refused;
            }
            failure
        };
        let standing = async || recorder.standing(&candidate, &build.artifact).await.map_err(conflict);
        let known = async |standing| {
            if build.signature.is_none() {
                return Ok(Recorded::Known(standing));
            }
            let signed = recorder.add_signature(&build, other).await.map_err(conflict)?;
            if signer_named(&signed) != signer_named(&build) {
                let key = signer_named(&signed).map(|key| key.to_string()).unwrap_or_default();
                let what = format!("{} is signed by key {key} already", signed.artifact);
                let hint = "send replace_signature as well to replace that signature";
                return Err(Failure::new(Code::Refused, what).hint(hint).into());
            }
            recorder.announce(&signed.artifact).await;
            Ok(Recorded::Known(Box::new(signed)))
        };
        if let Some(standing) = standing().await? {
            return known(standing).await;
        }
        if let Some(store) = &written.store {
            recorder.check_stored(store, &build).await?;
        }
        match recorder.record(build.clone()).await.map_err(conflict)? {
            control::publish::Recorded::New(build) => {
                recorder.announce(&build.artifact).await;
                Ok(Recorded::Build(build))
            }
            control::publish::Recorded::Taken => {
                if let Some(standing) = standing().await? {
                    return known(standing).await;
                }
                let what = format!("the record of {} was removed while it was being published", build.artifact);
                Err(Failure::new(Code::Busy, what).hint("send the record again").into())
            }
        }
    };
    api.finish(publish).await
}

/// The name of the branch or tag, and the tag.
fn name_and_tag(branch: &Branch, tag: Option<Branch>) -> Result<(Branch, Option<Branch>), Problem> {
    let hint = "give the name of a branch, or refs/tags/<tag>";
    let named: GitRef =
        branch.as_str().parse().map_err(|invalid: InvalidName| Problem::usage(format!("branch: {invalid}"), hint))?;
    if tag.as_ref().is_some_and(|tag| tag != named.name()) {
        return Err(Problem::usage("tag: differs from branch", "give the same name for both, or leave tag out"));
    }
    Ok((named.name().clone(), named.tag().cloned().or(tag)))
}

/// A signature, which must have the form of one. Whether it fits is checked by the nodes, which have the keys.
fn signature(text: String) -> Result<Signature, Problem> {
    let signature = Signature::from(text);
    named_key(&signature).map_err(|error| {
        Problem::usage(format!("signature: the build {error}"), "send the four lines of the .minisig file")
    })?;
    Ok(signature)
}

/// The commit's subject and author, one line each.
fn summary(subject: Option<&str>, author: Option<&str>) -> Result<Summary, Problem> {
    check_texts([("subject", subject), ("author", author)])?;
    Ok(Summary::new(subject, author))
}

fn check_texts<const N: usize>(texts: [(&str, Option<&str>); N]) -> Result<(), Problem> {
    for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
            let message = format!("{name}: longer than {MAX_TEXT_BYTES} bytes, or contains a control character");
            return Err(Problem::usage(message, "shorten it, or leave it out"));
        }
    }
    Ok(())
}
