//! Finds the build that a request selects: reads the records and the git repository;
//! [`protocol::resolve`](crate::protocol::resolve) decides.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::agent::daemon::context::Context;
use crate::agent::node::signatures;
use crate::consul::Error;
use crate::control::catalogue::{Known, known};
use crate::control::ships::{self, ListLimit};
use crate::protocol::coordinator::Resolved;
use crate::protocol::ids::{Branch, Commit};
use crate::protocol::record::{Build, Fault, Request, Step};
use crate::protocol::resolve::{Tips, name_meant, resolve as find};

/// The time limit for `git ls-remote`.
const LS_REMOTE_LIMIT: Duration = Duration::from_secs(30);

/// The time limit for counting the files that a deploy changes: a deploy waits for it.
const COUNT_LIMIT: Duration = Duration::from_secs(2);

/// The build that a request selects, or the fault that refuses the request.
pub(crate) type Found = Result<Resolved, Fault>;

/// Finds the build that `request` selects. The outer error is Consul's; the inner one refuses the request.
///
/// # Errors
///
/// Consul could not be read; the request keeps waiting.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn resolve(ctx: &Context, request: &Request) -> Result<Found, Error> {
    let known = known(&ctx.agent.consul, &ctx.agent.keys, &ctx.unit, request).await?;
    if let Some(newer) = known.passed_over.iter().find(|error| error.is_newer()) {
        let reason = format!("{newer}, so this coordinator cannot tell which build is meant: upgrade its agent");
        return Ok(Err(Fault::new(Step::Request, &reason)));
    }
    for error in &known.passed_over {
        tracing::warn!(unit = %ctx.unit, %error, "{}: cannot read a build record, which counts as absent: {error}", ctx.unit);
    }
    let tips = match (&ctx.settings.repo, name_meant(request, &known.builds)) {
        (Some(repo), Some(meant)) => match ls_remote(repo, &meant.name, LS_REMOTE_LIMIT).await {
            Ok(tips) => Some(tips),
            Err(fault) => return Ok(Err(fault)),
        },
        (None, _) | (_, None) => None,
    };
    let found = find(request, &known.catalogue(&ctx.unit, tips.as_ref()));
    let mut found = match found.and_then(|found| check_rules(ctx, &found.build).map(|()| found)) {
        Ok(found) => found,
        Err(fault) => return Ok(Err(fault)),
    };
    if let Err(fault) = signatures::check_placed(ctx, &found.build, found.release.as_ref()).await {
        return Ok(Err(fault));
    }
    count_files(ctx, &known, &mut found).await;
    Ok(Ok(found))
}

/// Counts the files that differ from the committed release where the records do not tell, which is the case if builds lie
/// between the two. Without the lists of files they stay unknown: no deploy fails or waits long for a count.
async fn count_files(ctx: &Context, known: &Known, found: &mut Resolved) {
    let (Some(changes), Some(from)) = (&mut found.changes, &known.committed) else { return };
    let from = known.builds.iter().find(|build| build.artifact == from.artifact);
    let (None, Some(from)) = (changes.files, from.filter(|from| from.manifest.is_some())) else { return };
    let counted = ships::files(&ctx.store, &ctx.unit.app, from, &found.build, ListLimit { paths: 0, bytes: 0 });
    match tokio::time::timeout(COUNT_LIMIT, Box::pin(counted)).await {
        Ok(Ok(files)) => changes.files = Some(files.counts()),
        Ok(Err(failure)) => {
            let (unit, error) = (&ctx.unit, failure.chain());
            tracing::info!(%unit, error, "{unit}: cannot count the files that a deploy changes: {error}");
        }
        Err(_) => {
            let (unit, limit) = (&ctx.unit, COUNT_LIMIT.as_secs());
            tracing::info!(%unit, "{unit}: cannot count the files that a deploy changes: no answer within {limit} s");
        }
    }
}

/// Checks a build against the unit's `branches` and `require_profile`. The rules also apply to rollbacks, because they say
/// what may run now. They do not apply to the revert of a failed deploy.
///
/// # Errors
///
/// The fault that refuses the build, with the setting and how to proceed.
pub(crate) fn check_rules(ctx: &Context, build: &Build) -> Result<(), Fault> {
    let (unit, settings) = (&ctx.unit, &ctx.settings);
    let refused = |setting: &str, says: &str| {
        let ways = format!("ask for another build, or change {setting} on every node that may coordinate");
        Err(Fault::new(Step::Request, &format!("{says}; {ways}")))
    };
    if let Some(branches) = settings.branches.as_ref().filter(|branches| !branches.matches(&build.branch)) {
        let only = branches.iter().collect::<Vec<_>>().join(", ");
        let (branch, artifact) = (&build.branch, &build.artifact);
        let says = format!("{artifact} is of branch {branch}, and branches allows only {only} on {unit}");
        return refused("branches", &says);
    }
    match (&settings.require_profile, &build.profile) {
        (Some(wanted), profile) if profile.as_ref() != Some(wanted) => {
            let has = profile.as_deref().unwrap_or("(none)");
            let says = format!("{} has profile {has}, and require_profile of {unit} is {wanted}", build.artifact);
            refused("require_profile", &says)
        }
        (_, _) => Ok(()),
    }
}

/// The commits of `refs/heads/<name>` and of `refs/tags/<name>`, as far as they exist. An annotated tag has a line of its own
/// for the commit that it points to. `git ls-remote` also lists other refs that end in these names; they are ignored.
///
/// # Errors
///
/// The fault that refuses the request.
pub(crate) async fn ls_remote(repo: &str, name: &Branch, limit: Duration) -> Result<Tips, Fault> {
    let (branch, tag) = (format!("refs/heads/{name}"), format!("refs/tags/{name}"));
    let peeled = format!("{tag}^{{}}");
    let text = ask_repository(repo, &[&branch, &tag, &peeled], limit).await?;
    let commit_of = |wanted: &str| -> Result<Option<Commit>, Fault> {
        let found = text.lines().filter_map(|line| line.split_once('\t')).find(|(_, reference)| *reference == wanted);
        let parsed = found.map(|(commit, _)| commit.parse::<Commit>()).transpose();
        parsed.map_err(|error| Fault::new(Step::Request, &format!("{wanted} at {}: {error}", without_password(repo))))
    };
    let tag = match commit_of(&peeled)? {
        Some(commit) => Some(commit),
        None => commit_of(&tag)?,
    };
    Ok(Tips { branch: commit_of(&branch)?, tag })
}

/// The output of `git ls-remote` for `names`, within `limit`; empty if the repository has no such ref.
///
/// # Errors
///
/// A fault with the last line of git's output, without the password that the address may contain.
pub(crate) async fn ask_repository(repo: &str, names: &[&str], limit: Duration) -> Result<String, Fault> {
    let shown = without_password(repo);
    let failed = |reason: &str| {
        let reason = reason.replace(repo, &shown);
        let first = names.first().copied().unwrap_or("HEAD");
        Fault::new(Step::Request, &format!("where {first} is could not be read from {shown}: {reason}"))
    };
    let child = Command::new("git")
        .args(["-c", "protocol.ext.allow=never", "ls-remote", "--", repo])
        .args(names)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(limit, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(&format!("git could not be run: {error}"))),
        Err(_) => return Err(failed(&format!("no answer within {} s", limit.as_secs()))),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(text.trim().lines().last().unwrap_or("git failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The repository's address without a password: outcomes of requests are stored in Consul, where many may read them.
pub(crate) fn without_password(repo: &str) -> String {
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
