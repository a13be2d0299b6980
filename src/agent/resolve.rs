//! Reads what a request's meaning depends on, and has the pure part decide.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::context::Context;
use crate::consul::{Consistency, Entry, Error};
use crate::protocol::coordinator::Resolved;
use crate::protocol::ids::{ArtifactName, Branch, Commit};
use crate::protocol::record::{BadMark, Barrier, Build, Fault, History, Request, Step, Wanted, decode};
use crate::protocol::resolve::{Catalogue, branch_meant, resolve as find};

/// How long the repository may take to say where a branch is.
const LS_REMOTE_LIMIT: Duration = Duration::from_secs(30);

/// Finds the build that `request` means: the outer result is Consul's, the inner one the request's.
///
/// # Errors
///
/// Consul could not be read; the request still waits.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn resolve(ctx: &Context, request: &Request) -> Result<Result<Resolved, Fault>, Error> {
    let app = &ctx.unit.app;
    let at_history = ctx.at.all_history();
    let (at_builds, at_runs, at_bad, at_barrier) =
        (ctx.keys.builds(app), ctx.keys.runs(app), ctx.keys.bad_marks(app), ctx.at.barrier());
    let past = async {
        match request.wanted {
            Wanted::Rollback(_) => records::<History>(ctx, &at_history).await,
            Wanted::Deploy(_) => Ok(Vec::new()),
        }
    };
    let (builds, runs, bad, past, barrier) = tokio::try_join!(
        records::<Build>(ctx, &at_builds),
        records(ctx, &at_runs),
        ctx.consul.kv_list(&at_bad, Consistency::Consistent),
        past,
        ctx.consul.kv_get(&at_barrier, Consistency::Consistent),
    )?;
    let runs = by_artifact(runs);
    let mark = |entry: Entry| Some((entry.key.strip_prefix(&at_bad)?.parse().ok()?, BadMark::parse(&entry.value)?));
    let bad: BTreeMap<ArtifactName, BadMark> = bad.into_iter().filter_map(mark).collect();
    let builds: Vec<Build> = builds.into_iter().map(|(_, build)| build).collect();
    let history: Vec<History> = past.into_iter().map(|(_, record)| record).collect();
    let committed = barrier.and_then(|entry| Barrier::decode(&entry.key, &entry.value).ok()).and_then(|b| b.committed);
    let tip = match (&ctx.settings.repo, branch_meant(request, &builds)) {
        (Some(repo), Some(branch)) => match ls_remote(repo, &branch).await {
            Ok(tip) => Some(tip),
            Err(fault) => return Ok(Err(fault)),
        },
        (None, _) | (_, None) => None,
    };
    Ok(find(
        request,
        &Catalogue {
            unit: &ctx.unit,
            builds: &builds,
            runs: &runs,
            bad: &bad,
            tip: tip.as_ref(),
            history: &history,
            committed: committed.as_ref(),
        },
    )
    .and_then(|found| within_rules(ctx, found)))
}

/// The unit's own rules for what is deployed here. What has run here may run here again: they are for what is new.
fn within_rules(ctx: &Context, found: Resolved) -> Result<Resolved, Fault> {
    if found.release.is_some() {
        return Ok(found);
    }
    let build = &found.build;
    if let Some(branches) = ctx.settings.branches.as_ref().filter(|branches| !branches.matches(&build.branch)) {
        let only = branches.iter().collect::<Vec<_>>().join(", ");
        let reason = format!("branch {} is not deployed to {}: its branches are {only}", build.branch, ctx.unit);
        return Err(Fault::new(Step::Request, &reason));
    }
    match (&ctx.settings.require_profile, &build.profile) {
        (Some(wanted), profile) if profile.as_ref() != Some(wanted) => {
            let has = profile.as_deref().unwrap_or("(none)");
            let reason = format!("{} has profile {has}, and {} takes only {wanted}", build.artifact, ctx.unit);
            Err(Fault::new(Step::Request, &reason))
        }
        (_, _) => Ok(found),
    }
}

/// Every readable record under a prefix, with the last part of its key. An unreadable one is no build.
async fn records<T: serde::de::DeserializeOwned>(ctx: &Context, prefix: &str) -> Result<Vec<(String, T)>, Error> {
    let entries = ctx.consul.kv_list(prefix, Consistency::Consistent).await?;
    let read = |entry: Entry| match decode::<T>(&entry.key, &entry.value) {
        Ok(record) => Some((entry.key.strip_prefix(prefix)?.to_owned(), record)),
        Err(error) => {
            tracing::warn!(unit = %ctx.unit, %error, "passed over");
            None
        }
    };
    Ok(entries.into_iter().filter_map(read).collect())
}

fn by_artifact<T>(records: Vec<(String, T)>) -> BTreeMap<ArtifactName, T> {
    records.into_iter().filter_map(|(name, record)| Some((name.parse().ok()?, record))).collect()
}

/// Where exactly `refs/heads/<branch>` is: `git ls-remote` also lists other refs that end so.
async fn ls_remote(repo: &str, branch: &Branch) -> Result<Commit, Fault> {
    let name = format!("refs/heads/{branch}");
    let shown = without_password(repo);
    let failed = |reason: &str| {
        let reason = reason.replace(repo, &shown);
        Fault::new(Step::Request, &format!("where {branch} is could not be read from {shown}: {reason}"))
    };
    let child = Command::new("git")
        .args(["-c", "protocol.ext.allow=never", "ls-remote", "--", repo, &name])
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(LS_REMOTE_LIMIT, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(&format!("git could not be run: {error}"))),
        Err(_) => return Err(failed(&format!("no answer within {} s", LS_REMOTE_LIMIT.as_secs()))),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(text.trim().lines().last().unwrap_or("git failed")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().filter_map(|line| line.split_once('\t')).find(|(_, reference)| *reference == name);
    match found.map(|(commit, _)| commit.parse::<Commit>()) {
        Some(Ok(commit)) => Ok(commit),
        Some(Err(error)) => Err(failed(&error.to_string())),
        None => Err(Fault::new(Step::NotFound, &format!("the repository has no branch {branch}"))),
    }
}

/// The repository's address as everybody may read it: what comes of a request stands in Consul.
fn without_password(repo: &str) -> String {
    let parts = repo.split_once("://").and_then(|(scheme, rest)| {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (_, host) = authority.rsplit_once('@')?;
        Some(format!("{scheme}://{host}{path}"))
    });
    parts.unwrap_or_else(|| repo.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_shown_without_its_password() {
        assert_eq!(without_password("https://bot:s3cret@git.example.com/shop.git"), "https://git.example.com/shop.git");
        assert_eq!(without_password("https://git.example.com/a@b.git"), "https://git.example.com/a@b.git");
        assert_eq!(without_password("git@git.example.com:shop.git"), "git@git.example.com:shop.git");
    }
}
