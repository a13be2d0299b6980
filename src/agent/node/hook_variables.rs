//! Environment variables of hooks: the release, the deploy, and the author of the request.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::agent::daemon::context::Context;
use crate::consul::Consistency;
use crate::protocol::ids::Epoch;
use crate::protocol::record::{History, Release, Step, decode, deploy_id};

/// How long a hook waits for the deploy history from Consul. It is short because the whole fleet waits for a switch.
const FACTS_LIMIT: Duration = Duration::from_secs(2);

pub(super) type Variables = BTreeMap<&'static str, String>;

/// Facts about a release from its history, and the id of the deploy that prepares it or switches to it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The id of the deploy; see [`deploy_id`].
    pub(super) id: String,
    pub(super) branch: String,
    pub(super) commit: String,
    pub(super) by: String,
}

/// The variables of every hook of this unit for `release`. `CUTOVER_PREVIOUS_PATH` depends on where `current` points
/// now.
pub(super) fn hook_variables(ctx: &Context, release: Option<&Release>, phase: &str) -> Variables {
    let current = std::fs::canonicalize(ctx.settings.deploy_to.join("current")).ok();
    // In a retry after the link has moved, `current` is `release` itself; the journal names the release before it.
    let is_there = current.as_ref().is_some_and(|path| release.is_some_and(|r| path.ends_with(r.release.as_str())));
    let ran = || ctx.published.journal.borrow().runs.as_ref().map(|runs| ctx.release_path(runs));
    let previous = if is_there { ran() } else { current };
    let previous = previous.map(|path| path.display().to_string()).unwrap_or_default();
    let text = |of: fn(&Release) -> String| release.map(of).unwrap_or_default();
    BTreeMap::from([
        ("CUTOVER_APP", ctx.unit.app.to_string()),
        ("CUTOVER_GROUP", ctx.unit.group.to_string()),
        ("CUTOVER_NODE", ctx.agent.node.to_string()),
        ("CUTOVER_EPOCH", text(|r| r.epoch.to_string())),
        ("CUTOVER_PHASE", phase.to_owned()),
        ("CUTOVER_ARTIFACT", text(|r| r.artifact.to_string())),
        ("CUTOVER_RELEASE", text(|r| r.release.to_string())),
        ("CUTOVER_RELEASE_PATH", release.map(|r| ctx.release_path(r).display().to_string()).unwrap_or_default()),
        ("CUTOVER_PREVIOUS_PATH", previous),
    ])
}

/// Author, branch and commit of a release, and the id of the deploy. Facts that cannot be read stay empty.
pub(super) async fn facts_of(ctx: &Context, release: Option<&Release>) -> Facts {
    let deploy = ctx.deploy().or_else(|| release.map(|release| release.epoch));
    // In a revert the release has an older epoch than the deploy that is reverted.
    let older = release.map(|release| release.epoch).filter(|epoch| Some(*epoch) != deploy);
    let (of_deploy, of_older) = tokio::join!(history(ctx, deploy), history(ctx, older));
    let id = deploy.map(|epoch| deploy_id(&ctx.unit, epoch, of_deploy.as_ref().map_or("", |h| h.author.id.as_str())));
    let history = if older.is_some() { of_older } else { of_deploy };
    let history = history.as_ref().filter(|_| release.is_some());
    // The release record on disk has branch and commit too, even while Consul does not answer.
    let here = match release.cloned() {
        Some(Release { release: name, artifact, .. }) => {
            let record = ctx.on_disk(Step::Preflight, move |site| site.record(&name)).await.ok().flatten();
            record.filter(|here| here.artifact == artifact)
        }
        None => None,
    };
    let text = |value: Option<String>| value.unwrap_or_default();
    let branch = here.as_ref().map(|r| &r.branch).or_else(|| history.and_then(|h| h.branch.as_ref()));
    let commit = here.as_ref().map(|r| &r.commit).or_else(|| history.and_then(|h| h.commit.as_ref()));
    Facts {
        id: text(id),
        branch: text(branch.map(ToString::to_string)),
        commit: text(commit.map(ToString::to_string)),
        by: text(history.map(|h| h.author.by.clone())),
    }
}

async fn history(ctx: &Context, epoch: Option<Epoch>) -> Option<History> {
    let key = ctx.at.history(epoch?);
    let read = ctx.agent.consul.kv_get(&key, Consistency::Stale);
    let entry = tokio::time::timeout(FACTS_LIMIT, read).await.ok().and_then(Result::ok).flatten()?;
    decode(&key, &entry.value).ok()
}
