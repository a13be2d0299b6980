//! `cutover deploy --dry-run` on this node: reports what a deploy of a build would do here.
//!
//! Non-goals: a dry run fetches nothing and makes no shared directory. It touches the disk only to try a link and a rename,
//! as the first step of every deploy does.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::{Found, PART_LIMIT, archive, is_coordinator, signatures, within_limit};
use crate::agent::coordinator::resolve;
use crate::agent::daemon::context::Context;
use crate::agent::node::stager::Stager;
use crate::agent::node::work;
use crate::artifact::cache::TreePlace;
use crate::consul::Consistency;
use crate::control::dry_run::{FILES, MEMBERS};
use crate::control::ships::{self, ListLimit};
use crate::control::{Code, Failure};
use crate::document::bytes;
use crate::protocol::coordinator::unattributed;
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName, Sha256};
use crate::protocol::record::{AbsentNodes, Build, Fault, FileChanges, Finding, Mark, Release, Step, decode};
use crate::protocol::resolve::NameMeant;
use crate::protocol::shell::keep::needed;
use crate::release::{Checked, LinkEffect, Links, MARGIN_BYTES, Site, tree_bytes};
use crate::telemetry::chain;

/// The lists of files take at most a fifth of a reply.
const FILES_LIMIT: ListLimit = ListLimit { paths: 20, bytes: 1024 };

/// The deploy that the dry run is about.
pub(super) struct Planned<'a> {
    pub(super) artifact: &'a ArtifactName,
    /// The digest of its archive.
    pub(super) sha256: &'a Sha256,
    /// The release that a rollback switches to. None: a deploy, which makes a new release.
    pub(super) release: Option<&'a ReleaseName>,
    /// The branch or tag whose current commit the build must be of, if the request names one.
    pub(super) meant: Option<&'a NameMeant>,
    /// The `via` that the request would carry, for example `cli`.
    pub(super) via: &'a str,
}

/// Where this node would take the build from, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The release directory of the rollback is on the disk, complete.
    Release,
    /// Prefetched: unpacked in staging.
    Staged,
    /// The archive is in the cache, not yet unpacked.
    Cached,
    /// Only the store has it.
    Store,
}

/// What the checks of the disk found.
struct OnDisk {
    source: Source,
    free_bytes: u64,
    findings: Vec<Finding>,
}

/// Runs all checks at the same time. The figures are bytes to fetch and unpack, and bytes free.
pub(super) async fn look(ctx: &Arc<Context>, planned: &Planned<'_>) -> Found {
    let mut findings = vec![from_and_to(ctx, planned)];
    let build = match build(ctx, planned).await {
        Ok(build) => build,
        Err(finding) => {
            findings.push(finding);
            return Found::of(findings);
        }
    };
    let (disk, rules, ships) = tokio::join!(
        tokio::time::timeout(PART_LIMIT, disk(ctx, planned, &build)),
        within_limit("rules", as_coordinator(ctx, planned, &build)),
        ships(ctx, &build),
    );
    let files = match ships {
        Some(Ok(files)) => Some(files),
        Some(Err(failure)) => {
            findings.push(Finding::new(FILES, Mark::Note, &failure.chain()));
            None
        }
        None => None,
    };
    let disk = match disk {
        Ok(Ok(disk)) => disk,
        Ok(Err(fault)) => {
            findings.push(Finding::new("disk", Mark::Bad, &fault.reason));
            return Found { findings, files, ..Found::default() };
        }
        Err(_) => {
            let says = format!("the disk did not answer within {} s", PART_LIMIT.as_secs());
            findings.push(Finding::new("disk", Mark::Bad, &says));
            return Found { findings, files, ..Found::default() };
        }
    };
    let is_needed = matches!(disk.source, Source::Store);
    findings.extend(disk.findings);
    let without_it = if is_needed { Mark::Bad } else { Mark::Warn };
    findings.extend(within_limit("store", async { vec![archive(ctx, &build, without_it).await] }).await);
    findings.extend(rules);
    findings.extend(signatures::of_planned(ctx, &build, planned.release).await);
    findings.extend(state(ctx));
    let fetch = if is_needed { build.packed_bytes } else { 0 };
    let unpack = if matches!(disk.source, Source::Release | Source::Staged) { 0 } else { build.unpacked_bytes };
    let figures = [("fetch_bytes", fetch), ("unpack_bytes", unpack), ("free_bytes", disk.free_bytes)];
    Found { findings, figures: figures.map(|(name, bytes)| (name.to_owned(), bytes)).into(), files }
}

/// The release that runs, and the one that would.
fn from_and_to(ctx: &Context, planned: &Planned<'_>) -> Finding {
    let from = ctx.published.journal.borrow().runs.as_ref().map(|runs| (runs.artifact.clone(), runs.release.clone()));
    let from = from.map_or("nothing".to_owned(), |(artifact, release)| format!("{artifact} as {release}"));
    let to = planned.release.map_or("a new release".to_owned(), ToString::to_string);
    Finding::new("goes", Mark::Note, &format!("from {from} to {} as {to}", planned.artifact))
}

/// The build record, if it exists and has the planned digest.
async fn build(ctx: &Context, planned: &Planned<'_>) -> Result<Build, Finding> {
    let key = ctx.agent.keys.build(&ctx.unit.app, planned.artifact);
    let bad = |says: &str| Finding::new("digest", Mark::Bad, says);
    let entry = ctx.agent.consul.kv_get(&key, Consistency::Default).await;
    let entry = entry.map_err(|error| bad(&format!("the build record cannot be read: {}", chain(&error))))?;
    let entry = entry
        .ok_or_else(|| bad(&format!("{key}, the build record, does not exist")).remedy("publish the build again"))?;
    let build: Build = decode(&key, &entry.value).map_err(|error| bad(&error.to_string()))?;
    if build.sha256 != *planned.sha256 {
        let says = format!("{key} has SHA-256 {}, but the deploy would be of {}", build.sha256, planned.sha256);
        return Err(bad(&says).remedy("the record was overwritten: publish another commit"));
    }
    Ok(build)
}

async fn disk(ctx: &Arc<Context>, planned: &Planned<'_>, build: &Build) -> Result<OnDisk, Fault> {
    let links = work::links(ctx)?;
    let release = planned.release.map(|name| Release {
        epoch: Epoch::default(),
        artifact: planned.artifact.clone(),
        sha256: planned.sha256.clone(),
        release: name.clone(),
    });
    let (build, stager) = (build.clone(), Arc::clone(&ctx.stager));
    let needed: BTreeSet<ArtifactName> =
        needed(&ctx.published.journal.borrow()).map(|release| release.artifact.clone()).collect();
    ctx.on_disk(Step::Preflight, move |site| {
        let is_held = release.as_ref().map(|release| site.holds(release)).transpose()?.unwrap_or(false);
        let source = if is_held {
            Source::Release
        } else if site.is_staged(&build.artifact, &build.sha256)? {
            Source::Staged
        } else if stager.has_archive(&build) {
            Source::Cached
        } else {
            Source::Store
        };
        let mut findings = vec![release_finding(source, &build)];
        if let (Source::Release, Some(release)) = (source, &release) {
            findings.extend(damage(site, release)?);
        }
        if matches!(source, Source::Cached | Source::Store) {
            findings.push(space(site, &stager, &build, &needed)?);
        }
        findings.extend(shared_findings(site, source, &build.artifact, release.as_ref(), &links)?);
        findings.push(match site.preflight_switch() {
            Ok(()) => Finding::new("switch", Mark::Good, "current can be switched"),
            Err(fault) => Finding::new("switch", Mark::Bad, &fault.reason),
        });
        Ok::<_, io::Error>(OnDisk { source, free_bytes: site.free_bytes()?, findings })
    })
    .await
}

/// Checks the shared paths, as a deploy and a rollback do, and reports what their links change.
fn shared_findings(
    site: &Site,
    source: Source,
    artifact: &ArtifactName,
    release: Option<&Release>,
    links: &Links,
) -> io::Result<Vec<Finding>> {
    let about = "shared";
    let faults = site.shared_faults(links);
    let mut findings: Vec<Finding> = faults.iter().map(|fault| Finding::new(about, Mark::Bad, &fault.reason)).collect();
    if findings.is_empty() {
        findings.push(Finding::new(about, Mark::Good, "shared files and directories exist, or will be created"));
    }
    match (source, release) {
        (Source::Release, Some(release)) => {
            let name = &release.release;
            findings.extend(site.unlinked(name, links)?.iter().map(|path| {
                let says = format!(
                    "a link to shared/ replaces {path:?} of releases/{name}, which is kept as {path}.not-linked"
                );
                Finding::new(about, Mark::Warn, &says)
            }));
        }
        (Source::Staged, _) => {
            findings.extend(site.staged_link_effects(artifact, links).iter().map(|effect| match effect {
                LinkEffect::Fills(what) => Finding::new(about, Mark::Note, what),
                LinkEffect::Hides(what) => Finding::new(about, Mark::Warn, what),
            }));
        }
        (Source::Release | Source::Cached | Source::Store, _) => {}
    }
    Ok(findings)
}

fn release_finding(source: Source, build: &Build) -> Finding {
    let says = match source {
        Source::Release => "the release is on the disk: nothing to fetch or unpack".to_owned(),
        Source::Staged => "the build is prefetched and unpacked: nothing to fetch".to_owned(),
        Source::Cached => format!("the archive is in the cache: {} to unpack", bytes(build.unpacked_bytes)),
        Source::Store => {
            format!("{} to fetch, {} to unpack", bytes(build.packed_bytes), bytes(build.unpacked_bytes))
        }
    };
    Finding::new("release", Mark::Good, &says)
}

/// What was changed in a release that a rollback would run. A deploy checks again.
fn damage(site: &Site, release: &Release) -> io::Result<Option<Finding>> {
    let name = &release.release;
    Ok(match site.check_quickly(name)? {
        Checked::AsMade | Checked::MayBeOwn(_) | Checked::Unchecked => None,
        Checked::Changed { differences, .. } => {
            let says =
                format!("releases/{name} was changed while it did not run, and will be unpacked anew: {differences}");
            Some(Finding::new("release", Mark::Warn, &says))
        }
    })
}

/// Whether the archive and the unpacked build fit, after old archives are removed, and if need be prefetched builds that are not in
/// `needed`.
fn space(site: &Site, stager: &Stager, build: &Build, needed: &BTreeSet<ArtifactName>) -> io::Result<Finding> {
    let prefetched: u64 =
        site.staged()?.iter().filter(|it| !needed.contains(&it.artifact)).map(|it| it.disk_bytes).sum();
    let fits = |without_bytes: u64| {
        let bytes = tree_bytes(build).saturating_sub(without_bytes);
        let tree = TreePlace { root: site.root().to_owned(), bytes, reserve_bytes: MARGIN_BYTES };
        stager.cache().review(&stager.app, build, &tree)
    };
    let about = "space";
    Ok(match (fits(0), fits(prefetched)) {
        (Ok(()), _) => match site.fits(build) {
            Ok(()) => Finding::new(about, Mark::Good, "there is enough free space"),
            Err(fault) => Finding::new(about, Mark::Bad, &fault.reason),
        },
        (Err(_), Ok(())) => {
            Finding::new(about, Mark::Good, "there is enough free space once prefetched builds are removed")
        }
        (Err(error), Err(_)) => Finding::new(about, Mark::Bad, &chain(&error)),
    })
}

/// The files that differ from the release that runs here, or why they are not known. Only the coordinator looks, since
/// each node would find the same; none on the others, and where nothing runs yet.
async fn ships(ctx: &Context, build: &Build) -> Option<Result<FileChanges, Failure>> {
    let from = ctx.published.journal.borrow().runs.as_ref().map(|runs| runs.artifact.clone())?;
    if !is_coordinator(ctx).await.unwrap_or(false) {
        return None;
    }
    let key = ctx.agent.keys.build(&ctx.unit.app, &from);
    let find = async {
        let failed = |what: String| Failure::new(Code::Failed, what);
        let entry = ctx.agent.consul.kv_get(&key, Consistency::Default).await?;
        let entry = entry.ok_or_else(|| failed(format!("the record of {from} was removed")))?;
        let decoded = decode::<Build>(&key, &entry.value);
        let from = decoded.map_err(|error| failed(format!("the record of {from} cannot be read")).caused_by(error))?;
        ships::files(&ctx.store, &ctx.unit.app, &from, build, FILES_LIMIT).await
    };
    let found = tokio::time::timeout(PART_LIMIT, find).await;
    let late = |_| {
        let what = format!("the store did not answer within {} s", PART_LIMIT.as_secs());
        Err(Failure::new(Code::Unreachable, what))
    };
    Some(found.unwrap_or_else(late))
}

/// The checks that only the coordinator makes, since its settings hold the rules for the whole unit. Other nodes report
/// none.
async fn as_coordinator(ctx: &Context, planned: &Planned<'_>, build: &Build) -> Vec<Finding> {
    match is_coordinator(ctx).await {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(error) => {
            let says = format!("cannot read whether this node is the coordinator: {}", chain(&error));
            return vec![Finding::new("rules", Mark::Warn, &says)];
        }
    }
    let mut findings = vec![members(ctx).await];
    findings.push(match resolve::check_rules(ctx, build) {
        Ok(()) => Finding::new("rules", Mark::Good, "branches and require_profile allow this build"),
        Err(fault) => Finding::new("rules", Mark::Bad, &fault.reason),
    });
    findings.extend(attribution(ctx, planned.via));
    if let (Some(repo), Some(meant)) = (&ctx.settings.repo, planned.meant) {
        let name = &meant.name;
        let tips = resolve::ls_remote(repo, name, PART_LIMIT).await;
        findings.push(match tips.and_then(|tips| meant.tip(&tips).cloned()) {
            Ok(tip) if tip == build.commit => {
                Finding::new("branch", Mark::Good, &format!("{name} is at {} in the repository", tip.short()))
            }
            Ok(tip) => {
                let says = format!(
                    "{name} is at {} in the repository, but {} was built from {}",
                    tip.short(),
                    build.artifact,
                    build.commit.short()
                );
                let way = format!("publish that commit, or deploy artifact:{}", build.artifact);
                Finding::new("branch", Mark::Bad, &says).remedy(&way)
            }
            Err(fault) => Finding::new("branch", Mark::Bad, &fault.reason),
        });
    }
    findings
}

/// Whether an agent would attest the author of the request, if `require_attribution` is set.
fn attribution(ctx: &Context, via: &str) -> Option<Finding> {
    if !ctx.settings.require_attribution {
        return None;
    }
    let about = "attribution";
    Some(match via {
        "cli" | "kv" => Finding::new(about, Mark::Bad, &unattributed(&ctx.unit).reason),
        _ => Finding::new(
            about,
            Mark::Note,
            "required here: the agent attests authors that it knows by token, proxy or chat",
        ),
    })
}

/// Whether absent nodes would keep a deploy from starting.
async fn members(ctx: &Context) -> Finding {
    let prefix = ctx.at.nodes();
    let entries = match ctx.agent.consul.kv_list(&prefix, Consistency::Default).await {
        Ok(entries) => entries,
        Err(error) => return Finding::new(MEMBERS, Mark::Bad, &format!("cannot be read: {}", chain(&error))),
    };
    let (alive, away): (Vec<_>, Vec<_>) = entries
        .iter()
        .filter_map(|entry| Some((entry.key.strip_prefix(&prefix)?.parse::<Node>().ok()?, entry.session.is_some())))
        .partition(|(_, is_alive)| *is_alive);
    let names = away.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>().join(", ");
    let policy = ctx.settings.policy();
    let least = usize::try_from(policy.min_nodes).unwrap_or(usize::MAX);
    match (policy.absent_nodes, away.is_empty()) {
        (_, true) => Finding::new(MEMBERS, Mark::Good, &format!("all {} registered nodes are alive", alive.len())),
        (AbsentNodes::Skip, false) if alive.len() >= least => {
            Finding::new(MEMBERS, Mark::Note, &format!("absent, and skipped: {names}"))
        }
        (AbsentNodes::Skip, false) => {
            Finding::new(MEMBERS, Mark::Bad, &format!("{} nodes are alive, but min_nodes is {least}", alive.len()))
        }
        (AbsentNodes::Fail, false) => Finding::new(MEMBERS, Mark::Bad, &format!("registered but not alive: {names}"))
            .remedy("start them, or set absent_nodes = \"skip\"; a node that left Consul's catalog is not waited for"),
    }
}

/// Session, alarm and hooks of this node.
fn state(ctx: &Context) -> Vec<Finding> {
    let mut findings = Vec::new();
    if ctx.published.session.borrow().is_none() {
        findings.push(Finding::new("session", Mark::Bad, "no session in Consul, so this node counts as absent"));
    }
    let alarm = ctx.published.record.borrow().as_ref().and_then(|record| record.alarm.clone());
    findings.extend(alarm.map(|alarm| Finding::new("alarm", Mark::Warn, &alarm)));
    let hooks = &ctx.settings.hooks;
    let names = [("prepare", &hooks.prepare), ("switched", &hooks.switched), ("check", &hooks.check)];
    let set: Vec<&str> = names.iter().filter(|(_, hook)| hook.is_some()).map(|(name, _)| *name).collect();
    if !set.is_empty() {
        findings.push(Finding::new(
            "hooks",
            Mark::Note,
            &format!("these hooks would run, and a dry run cannot try them: {}", set.join(", ")),
        ));
    }
    findings
}
