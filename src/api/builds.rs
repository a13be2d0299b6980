//! Builds from any CI: reports of its runs, and records of archives that CI uploaded itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::attest::{self, Claim};
use super::body::{At, Object, fields};
use super::error::{Answer, Problem};
use super::{Api, Caller};
use crate::artifact::artifact_name;
use crate::control::publish::{Candidate, OtherContent, PublishState, Recorder};
use crate::control::runs::{self, CiReport, Event};
use crate::control::{Code, Failure};
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, Sha256};
use crate::protocol::record::{ArchiveFormat, Build, RunState, Summary};

/// The longest text of a record, in bytes: a URL of CI's.
const MAX_TEXT_BYTES: usize = 2048;

/// The record of a build whose archive is in the store, without author and time, which the agent adds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    artifact: ArtifactName,
    branch: Branch,
    commit: Commit,
    subject: Option<String>,
    author: Option<String>,
    sha256: Sha256,
    packed_bytes: u64,
    unpacked_bytes: u64,
    entries: u64,
    format: ArchiveFormat,
    profile: Option<String>,
    pull_request: Option<String>,
    url: Option<String>,
    by: Option<String>,
    id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reported {
    state: RunState,
    branch: Branch,
    commit: Commit,
    subject: Option<String>,
    author: Option<String>,
    url: Option<String>,
    by: Option<String>,
    #[serde(default)]
    reason: String,
    lost_at: Option<Timestamp>,
}

/// The field that distinguishes a run from a build.
#[derive(Debug, Deserialize)]
struct Kind {
    state: Option<serde::de::IgnoredAny>,
}

/// `POST /v1/builds/<app>`.
pub(super) async fn record(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At(app): At<App>,
    Object(bytes): Object,
) -> Answer {
    if fields::<Kind>(&bytes)?.state.is_some() {
        let reported = fields(&bytes)?;
        return report(api, caller, app, reported).await;
    }
    let published = fields(&bytes)?;
    publish(api, caller, app, published).await
}

async fn report(api: Arc<Api>, caller: Caller, app: App, reported: Reported) -> Answer {
    let Reported { state, branch, commit, subject, author, url, by, reason, lost_at } = reported;
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
    check_texts([("url", url.as_deref()), ("by", by.as_deref()), ("reason", Some(&reason))])?;
    let written = Arc::clone(&api);
    let report = async move {
        // A run is not part of the history, so it needs no attestation.
        let claim = Claim { by, ..Claim::default() };
        let (_, author) = attest::vouch(&written, caller.access(), caller.identity().await?, claim)?;
        let artifact = artifact_name(&branch, &commit, None);
        let report = CiReport { artifact, branch, commit, summary, url, by: author.by, reason };
        let run = runs::record(caller.access(), &app, &report, event, now).await?;
        Ok((report.artifact, run))
    };
    let (artifact, run) = api.finish(report).await?;
    Ok(Json(json!({"artifact": artifact, "run": run})).into_response())
}

async fn publish(api: Arc<Api>, caller: Caller, app: App, published: Published) -> Answer {
    let Published { artifact, branch, commit, sha256, packed_bytes, unpacked_bytes, entries, format, .. } = published;
    let Published { subject, author, profile, pull_request, url, by, id, .. } = published;
    let summary = summary(subject.as_deref(), author.as_deref())?;
    let texts = [("profile", &profile), ("pull_request", &pull_request), ("url", &url), ("by", &by)];
    check_texts(texts.map(|(name, text)| (name, text.as_deref())))?;
    let written = Arc::clone(&api);
    let publish = async move {
        let candidate =
            Candidate { name: artifact, branch: branch.clone(), commit: commit.clone(), sha256: sha256.clone() };
        candidate.check_name()?;
        let claim = Claim { by, id, ..Claim::default() };
        let (access, author) = attest::vouch(&written, caller.access(), caller.identity().await?, claim)?;
        let recorder = Recorder::new(&access, &app);
        // An existing record is a conflict, also where it cannot be read. It is not the agent's failure.
        let conflict = |mut failure: Failure| {
            if failure.code == Code::Failed {
                failure.code = Code::Refused;
            }
            failure
        };
        let artifact = match recorder.state(&candidate, OtherContent::Refuse).await.map_err(conflict)? {
            PublishState::Published(build) => return Ok((StatusCode::OK, *build)),
            PublishState::Free(artifact) => artifact,
        };
        let (by, id, at) = (author.by, author.id, Timestamp::now());
        let build = Build {
            artifact,
            branch,
            commit,
            summary,
            sha256,
            packed_bytes,
            unpacked_bytes,
            entries,
            format,
            profile,
            pull_request,
            url,
            by,
            id,
            at,
        };
        if let Some(store) = &written.store {
            recorder.check_stored(store, &build).await?;
        }
        recorder.record(&build).await.map_err(conflict)?;
        recorder.announce(&build.artifact).await;
        Ok((StatusCode::CREATED, build))
    };
    let (status, build) = api.finish(publish).await?;
    Ok((status, Json(build)).into_response())
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
