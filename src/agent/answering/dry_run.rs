//! What a deploy of a build would do here.
//!
//! Everything is looked at and nothing is done: what is missing is not fetched, and no shared directory is made. Trying
//! a link and renaming it, as every deploy does first, is the one thing that touches the disk.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::{Found, PART_LIMIT, archive, within_limit};
use crate::agent::coordinator::resolve;
use crate::agent::daemon::context::Context;
use crate::agent::node::work;
use crate::consul::Consistency;
use crate::control::dry_run::MEMBERS;
use crate::document::bytes;
use crate::protocol::coordinator::unattributed;
use crate::protocol::ids::{ArtifactName, Branch, Epoch, Node, ReleaseName, Sha256};
use crate::protocol::record::{AbsentNodes, Build, Fault, Finding, Mark, Release, Step, decode};
use crate::release::Site;
use crate::telemetry::chain;

/// What is planned.
pub(super) struct Planned<'a> {
    /// The build.
    pub(super) artifact: &'a ArtifactName,
    /// Its archive.
    pub(super) sha256: &'a Sha256,
    /// The release that a rollback goes back to.
    pub(super) release: Option<&'a ReleaseName>,
    /// The branch whose tip it must be.
    pub(super) branch: Option<&'a Branch>,
    /// Through what it was asked, and so would be requested.
    pub(super) via: &'a str,
}

/// Where the build is, of this node's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The release that is asked for is complete.
    Release,
    /// Unpacked ahead of time.
    Staged,
    /// The archive is in the cache.
    Cached,
    /// In the store alone.
    Away,
}

/// What lies on the disk, and would it do?
struct OnDisk {
    place: Place,
    free_bytes: u64,
    findings: Vec<Finding>,
}

/// Looks at everything at once.
pub(super) async fn look(ctx: &Arc<Context>, planned: &Planned<'_>) -> Found {
    let mut findings = vec![goes(ctx, planned)];
    let build = match build(ctx, planned).await {
        Ok(build) => build,
        Err(finding) => {
            findings.push(finding);
            return (findings, BTreeMap::new());
        }
    };
    let (disk, rules) = tokio::join!(
        tokio::time::timeout(PART_LIMIT, disk(ctx, planned, &build)),
        within_limit("rules", as_coordinator(ctx, planned, &build)),
    );
    let disk = match disk {
        Ok(Ok(disk)) => disk,
        Ok(Err(fault)) => {
            findings.push(Finding::new("disk", Mark::Bad, &fault.reason));
            return (findings, BTreeMap::new());
        }
        Err(_) => {
            let says = format!("the disk did not answer within {} s", PART_LIMIT.as_secs());
            findings.push(Finding::new("disk", Mark::Bad, &says));
            return (findings, BTreeMap::new());
        }
    };
    let is_needed = matches!(disk.place, Place::Away);
    findings.extend(disk.findings);
    let without_it = if is_needed { Mark::Bad } else { Mark::Warn };
    findings.extend(within_limit("store", async { vec![archive(ctx, &build, without_it).await] }).await);
    findings.extend(rules);
    findings.extend(state(ctx));
    let fetch = if is_needed { build.packed_bytes } else { 0 };
    let unpack = if matches!(disk.place, Place::Release | Place::Staged) { 0 } else { build.unpacked_bytes };
    let figures = [("fetch_bytes", fetch), ("unpack_bytes", unpack), ("free_bytes", disk.free_bytes)];
    (findings, figures.map(|(name, bytes)| (name.to_owned(), bytes)).into())
}

/// From what to what.
fn goes(ctx: &Context, planned: &Planned<'_>) -> Finding {
    let from = ctx.journal.borrow().runs.as_ref().map(|runs| (runs.artifact.clone(), runs.release.clone()));
    let from = from.map_or("nothing".to_owned(), |(artifact, release)| format!("{artifact} as {release}"));
    let to = planned.release.map_or("a new release".to_owned(), ToString::to_string);
    Finding::new("goes", Mark::Note, &format!("from {from} to {} as {to}", planned.artifact))
}

/// The build record, if it says what is planned.
async fn build(ctx: &Context, planned: &Planned<'_>) -> Result<Build, Finding> {
    let key = ctx.keys.build(&ctx.unit.app, planned.artifact);
    let bad = |says: &str| Finding::new("digest", Mark::Bad, says);
    let entry = ctx.consul.kv_get(&key, Consistency::Default).await;
    let entry = entry.map_err(|error| bad(&format!("the build record cannot be read: {}", chain(&error))))?;
    let entry = entry.ok_or_else(|| bad(&format!("{key} is gone")).mend("publish the build again"))?;
    let build: Build = decode(&key, &entry.value).map_err(|error| bad(&error.to_string()))?;
    if build.sha256 != *planned.sha256 {
        let says = format!("{key} says SHA-256 {}, and {} is asked for", build.sha256, planned.sha256);
        return Err(bad(&says).mend("somebody wrote over the record; publish from another commit"));
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
    ctx.on_disk(Step::Preflight, move |site| {
        let is_held = release.as_ref().map(|release| site.holds(release)).transpose()?.unwrap_or(false);
        let place = if is_held {
            Place::Release
        } else if site.is_staged(&build.artifact, &build.sha256)? {
            Place::Staged
        } else if stager.has_archive(&build) {
            Place::Cached
        } else {
            Place::Away
        };
        let mut findings = vec![release_finding(place, &build)];
        if matches!(place, Place::Cached | Place::Away) {
            let archive = if place == Place::Away { build.packed_bytes } else { 0 };
            let beside = if is_on_same_disk(site, stager.cache_dir()) { archive } else { 0 };
            findings.push(match site.fits(&build, beside) {
                Ok(()) => Finding::new("space", Mark::Good, "it fits"),
                Err(fault) => Finding::new("space", Mark::Bad, &fault.reason),
            });
        }
        if !is_held {
            let faults = site.shared_faults(&links);
            if faults.is_empty() {
                findings.push(Finding::new(
                    "shared",
                    Mark::Good,
                    "linked files and directories are there, or will be made",
                ));
            }
            findings.extend(faults.iter().map(|fault| Finding::new("shared", Mark::Bad, &fault.reason)));
        }
        findings.push(match site.preflight_switch() {
            Ok(()) => Finding::new("switch", Mark::Good, "current can be switched"),
            Err(fault) => Finding::new("switch", Mark::Bad, &fault.reason),
        });
        Ok::<_, std::io::Error>(OnDisk { place, free_bytes: site.free_bytes()?, findings })
    })
    .await
}

fn release_finding(place: Place, build: &Build) -> Finding {
    let says = match place {
        Place::Release => "the release is on the disk: nothing is fetched or unpacked".to_owned(),
        Place::Staged => "it lies unpacked ahead of time: nothing is fetched".to_owned(),
        Place::Cached => format!("its archive is in the cache: {} are unpacked", bytes(build.unpacked_bytes)),
        Place::Away => {
            format!("{} are fetched, and {} unpacked", bytes(build.packed_bytes), bytes(build.unpacked_bytes))
        }
    };
    Finding::new("release", Mark::Good, &says)
}

/// Whether an archive in the cache takes from the same space. What cannot be told is taken to be so.
fn is_on_same_disk(site: &Site, cache: &std::path::Path) -> bool {
    // A cache that is not made yet will lie where its nearest parent does.
    let cache = cache.ancestors().find_map(|path| path.metadata().ok());
    match (site.root().metadata(), cache) {
        (Ok(root), Some(cache)) => root.dev() == cache.dev(),
        _ => true,
    }
}

/// What only the node that coordinates can tell: the unit's rules are its settings.
async fn as_coordinator(ctx: &Context, planned: &Planned<'_>, build: &Build) -> Vec<Finding> {
    match ctx.consul.kv_get(&ctx.at.coordinator(), Consistency::Default).await {
        Ok(Some(lock)) if lock.session.is_some() && lock.value == ctx.node.as_str().as_bytes() => {}
        Ok(_) => return Vec::new(),
        Err(error) => {
            let says = format!("whether this node coordinates cannot be read: {}", chain(&error));
            return vec![Finding::new("rules", Mark::Warn, &says)];
        }
    }
    let mut findings = vec![members(ctx).await];
    findings.push(match resolve::check_rules(ctx, build) {
        Ok(()) => Finding::new("rules", Mark::Good, "branches and require_profile allow it"),
        Err(fault) => Finding::new("rules", Mark::Bad, &fault.reason),
    });
    findings.extend(attribution(ctx, planned.via));
    if let (Some(repo), Some(branch)) = (&ctx.settings.repo, planned.branch) {
        let tip = resolve::ls_remote(repo, branch, PART_LIMIT).await;
        findings.push(match tip {
            Ok(tip) if tip == build.commit => {
                Finding::new("branch", Mark::Good, &format!("{branch} is at {} in the repository", tip.short()))
            }
            Ok(tip) => {
                let says = format!(
                    "{branch} is at {} in the repository, and {} is of {}",
                    tip.short(),
                    build.artifact,
                    build.commit.short()
                );
                let way = format!("publish that commit, or ask for artifact:{}", build.artifact);
                Finding::new("branch", Mark::Bad, &says).mend(&way)
            }
            Err(fault) => Finding::new("branch", Mark::Bad, &fault.reason),
        });
    }
    findings
}

/// Whether somebody would vouch for who asks, where that is required.
fn attribution(ctx: &Context, via: &str) -> Option<Finding> {
    if !ctx.settings.require_attribution {
        return None;
    }
    let about = "attribution";
    Some(match via {
        "cli" | "kv" => Finding::new(about, Mark::Bad, &unattributed(&ctx.unit).reason),
        _ => Finding::new(about, Mark::Note, "needed here: an agent vouches for whom it knows by token, proxy or chat"),
    })
}

/// Whether the nodes that are away keep a deploy from starting.
async fn members(ctx: &Context) -> Finding {
    let prefix = ctx.at.nodes();
    let entries = match ctx.consul.kv_list(&prefix, Consistency::Default).await {
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
            Finding::new(MEMBERS, Mark::Note, &format!("away, and left out: {names}"))
        }
        (AbsentNodes::Skip, false) => {
            Finding::new(MEMBERS, Mark::Bad, &format!("{} nodes are alive, min_nodes is {least}", alive.len()))
        }
        (AbsentNodes::Fail, false) => Finding::new(MEMBERS, Mark::Bad, &format!("registered and not alive: {names}"))
            .mend(
                "start them, or set absent_nodes = \"skip\"; one that Consul's catalog does not list is not waited for",
            ),
    }
}

/// What is wrong with this node besides.
fn state(ctx: &Context) -> Vec<Finding> {
    let mut findings = Vec::new();
    if ctx.session.borrow().is_none() {
        findings.push(Finding::new("session", Mark::Bad, "this node has no session in Consul, so it counts as absent"));
    }
    let alarm = ctx.record.borrow().as_ref().and_then(|record| record.alarm.clone());
    findings.extend(alarm.map(|alarm| Finding::new("alarm", Mark::Warn, &alarm)));
    let hooks = &ctx.settings.hooks;
    let names = [("prepare", &hooks.prepare), ("switched", &hooks.switched), ("check", &hooks.check)];
    let set: Vec<&str> = names.iter().filter(|(_, hook)| hook.is_some()).map(|(name, _)| *name).collect();
    if !set.is_empty() {
        findings.push(Finding::new(
            "hooks",
            Mark::Note,
            &format!("would run, and cannot be tried: {}", set.join(", ")),
        ));
    }
    findings
}
