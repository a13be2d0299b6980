//! What hooks are told by environment variables: the release, the deploy, and who asked for it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::agent::daemon::context::Context;
use crate::consul::Consistency;
use crate::protocol::ids::Epoch;
use crate::protocol::record::{History, Release, Step, decode, deploy_id};

/// How long Consul may take to say who asked: a hook of a switch waits for it, and with it the fleet.
const FACTS_LIMIT: Duration = Duration::from_secs(2);

/// Environment variables of a hook.
pub(super) type Variables = BTreeMap<&'static str, String>;

/// What the history says about a release, and about the deploy that it is switched to or made ready for.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// What the deploy goes by; see [`deploy_id`].
    pub(super) id: String,
    pub(super) branch: String,
    pub(super) commit: String,
    pub(super) by: String,
}

/// The variables that every hook of this unit gets for `release`, as `current` is now.
pub(super) fn hook_variables(ctx: &Context, release: Option<&Release>, phase: &str) -> Variables {
    let current = std::fs::canonicalize(ctx.settings.deploy_to.join("current")).ok();
    // Tried again after the link has moved, the release is not what ran before itself: the journal knows that.
    let is_there = current.as_ref().is_some_and(|path| release.is_some_and(|r| path.ends_with(r.release.as_str())));
    let ran = || ctx.published.journal.borrow().runs.as_ref().map(|runs| ctx.release_path(runs));
    let previous = if is_there { ran() } else { current };
    let previous = previous.map(|path| path.display().to_string()).unwrap_or_default();
    let text = |of: fn(&Release) -> String| release.map(of).unwrap_or_default();
    BTreeMap::from([
        ("CUTOVER_APP", ctx.unit.app.to_string()),
        ("CUTOVER_GROUP", ctx.unit.group.to_string()),
        ("CUTOVER_NODE", ctx.node.to_string()),
        ("CUTOVER_EPOCH", text(|r| r.epoch.to_string())),
        ("CUTOVER_PHASE", phase.to_owned()),
        ("CUTOVER_ARTIFACT", text(|r| r.artifact.to_string())),
        ("CUTOVER_RELEASE", text(|r| r.release.to_string())),
        ("CUTOVER_RELEASE_PATH", release.map(|r| ctx.release_path(r).display().to_string()).unwrap_or_default()),
        ("CUTOVER_PREVIOUS_PATH", previous),
    ])
}

/// Who asked for a release, what was built, and what the deploy goes by: for hooks. What cannot be read is left empty.
pub(super) async fn facts_of(ctx: &Context, release: Option<&Release>) -> Facts {
    let deploy = ctx.deploy().or_else(|| release.map(|release| release.epoch));
    // On the way back the release is of an older epoch than the deploy that is taken back.
    let older = release.map(|release| release.epoch).filter(|epoch| Some(*epoch) != deploy);
    let (of_deploy, of_older) = tokio::join!(history(ctx, deploy), history(ctx, older));
    let id = deploy.map(|epoch| deploy_id(&ctx.unit, epoch, of_deploy.as_ref().map_or("", |h| h.author.id.as_str())));
    let history = if older.is_some() { of_older } else { of_deploy };
    let history = history.as_ref().filter(|_| release.is_some());
    // What was built is known here too, also while Consul is away.
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
    let read = ctx.consul.kv_get(&key, Consistency::Stale);
    let entry = tokio::time::timeout(FACTS_LIMIT, read).await.ok().and_then(Result::ok).flatten()?;
    decode(&key, &entry.value).ok()
}
