//! `cutover doctor` on this node: checks Consul and its ACLs, the store, the disk, secret files, hooks, the repository, the
//! clock, and the agent's own state. Each bad finding says how to fix it.
//!
//! Non-goals: fixing anything. Every check only reads; `preflight_switch` makes and removes a link of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::BinaryBytes;
use jiff::Timestamp;

use super::{archive, newest, signatures, within_limit};
use crate::agent::coordinator::resolve;
use crate::agent::daemon::context::Context;
use crate::agent::node::work;
use crate::artifact::cache::Usage;
use crate::config::{Hook, SecretFile};
use crate::consul::{Consistency, Secret};
use crate::control::doctor::{CLOCKS_APART, PUBLISH_AGAIN, SYNCHRONIZE_CLOCKS, rights_finding};
use crate::control::rights::{self, Part, Role};
use crate::document::bytes;
use crate::plan::room::Disk;
use crate::protocol::record::{Build, Finding, Mark, Step, decode};
use crate::release::Confinement;
use crate::telemetry::chain;

/// The time limit of the repository check. Below [`PART_LIMIT`](super::PART_LIMIT), so that git's own error is reported and
/// not only that the limit has passed.
const REPOSITORY_LIMIT: Duration = Duration::from_secs(5);
/// Free space below which the finding is a warning: 1 GiB, less than most builds need to be fetched and unpacked.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;

/// The remedy for files that the agent cannot remove.
const REMOVE_BY_HAND: &str = "unmount what is mounted there, or remove the file by hand, as its owner or as root; the agent tries again by itself";

/// Runs all checks at the same time. `asked_at` is the time of the question by the clock of the machine that asked.
pub(super) async fn look(ctx: &Arc<Context>, asked_at: Timestamp) -> Vec<Finding> {
    let clock = clock(asked_at, Timestamp::now());
    let (consul, store, disk, cache, secrets, repository, signatures) = tokio::join!(
        within_limit("consul", async { vec![consul(ctx).await] }),
        within_limit("store", async { vec![store(ctx).await] }),
        within_limit("disk", disk(ctx)),
        within_limit("cache", async { vec![cache(ctx).await] }),
        within_limit("files", secrets(ctx)),
        within_limit("repository", repository(ctx)),
        within_limit(signatures::ABOUT, signatures::look(ctx)),
    );
    let mut findings = [consul, store, disk, cache, secrets, repository, signatures].concat();
    findings.push(confinement(Confinement::of_this_process()));
    findings.extend(ctx.store.notes().iter().map(|note| Finding::new("store", Mark::Note, note)));
    findings.push(clock);
    findings.extend(state(ctx));
    findings
}

/// Checks that Consul can be read, and that the agent's token has every right it needs.
async fn consul(ctx: &Context) -> Finding {
    let about = "consul";
    let part = if ctx.settings.coordinate { Part::Coordinates } else { Part::Follows };
    let service = ctx.settings.service.as_deref();
    let role = Role { node: &ctx.agent.node, consul_node: &ctx.agent.consul_node, service, part };
    let wanted = rights::of_agent(&ctx.agent.keys, &ctx.unit, &role);
    if let Err(error) = ctx.agent.consul.kv_get(&ctx.at.barrier(), Consistency::Consistent).await {
        return Finding::new(about, Mark::Bad, &chain(&error))
            .remedy("see [consul] in the settings, and its token_file");
    }
    match rights::lacking(&ctx.agent.consul, &wanted).await {
        Ok(lacking) => {
            let role = if ctx.settings.coordinate { "coordinator" } else { "agent" };
            let role = format!("{role} --unit {} --node {}", ctx.unit, ctx.agent.node);
            rights_finding(about, "the agent's token", &role, &lacking, Mark::Bad)
        }
        Err(error) => Finding::new(about, Mark::Warn, &format!("not checked: {}", chain(&error))),
    }
}

/// Checks that the store has the archive of the committed release. A new node could not join without it.
async fn store(ctx: &Context) -> Finding {
    let about = "store";
    let app = &ctx.unit.app;
    let runs = ctx.published.journal.borrow().record.as_ref().and_then(|record| record.committed.clone());
    let artifact = match runs.map(|release| release.artifact) {
        Some(artifact) => Some(artifact),
        None => newest(ctx).await,
    };
    let Some(artifact) = artifact else {
        return Finding::new(about, Mark::Note, "not checked: nothing has been published yet");
    };
    let key = ctx.agent.keys.build(app, &artifact);
    let entry = ctx.agent.consul.kv_get(&key, Consistency::Default).await.ok().flatten();
    match entry.and_then(|entry| decode::<Build>(&key, &entry.value).ok()) {
        Some(build) => archive(ctx, &build, Mark::Bad).await,
        None => Finding::new(
            about,
            Mark::Bad,
            &format!("{key}, the build record of the committed release, is missing or cannot be read"),
        )
        .remedy(PUBLISH_AGAIN),
    }
}

/// Checks the deploy directory, shared paths, and the programs of the hooks.
async fn disk(ctx: &Arc<Context>) -> Vec<Finding> {
    let links = match work::links(ctx) {
        Ok(links) => links,
        Err(fault) => return vec![Finding::new("shared", Mark::Bad, &fault.reason)],
    };
    let hooks = ctx.settings.hooks.clone();
    let current = ctx.settings.deploy_to.join("current");
    let looked = ctx.on_disk(Step::Preflight, move |site| {
        let free_bytes = site.free_bytes()?;
        let free = bytes(free_bytes);
        let root = site.root().display().to_string();
        let mut findings = vec![match (site.preflight_switch(), free_bytes) {
            (Err(fault), _) => Finding::new("disk", Mark::Bad, &fault.reason),
            (Ok(()), ..LITTLE_SPACE_BYTES) => {
                Finding::new("disk", Mark::Warn, &format!("{root} is writable, but only {free} are free"))
                    .remedy("free some space, or lower keep_releases or max_staged in the settings")
            }
            (Ok(()), _) => Finding::new("disk", Mark::Good, &format!("{root} is writable, {free} are free")),
        }];
        findings
            .extend(site.shared_faults(&links).iter().map(|fault| Finding::new("shared", Mark::Bad, &fault.reason)));
        findings.extend(
            site.unremovable()
                .iter()
                .map(|stays| Finding::new("removal", Mark::Warn, &stays.sentence()).remedy(REMOVE_BY_HAND)),
        );
        let named = [
            ("prepare", &hooks.prepare),
            ("switched", &hooks.switched),
            ("check", &hooks.check),
            ("reverted", &hooks.reverted),
        ];
        findings.extend(named.iter().filter_map(|(name, hook)| hook_finding(name, hook.as_ref()?, &current)));
        Ok::<_, std::io::Error>(findings)
    });
    looked.await.unwrap_or_else(|fault| vec![Finding::new("disk", Mark::Bad, &fault.reason)])
}

/// Checks the cache of archives: its directory, and whether anything can be downloaded to it.
async fn cache(ctx: &Context) -> Finding {
    let about = "cache";
    let cache = Arc::clone(ctx.stager.cache());
    let dir = cache.dir().display().to_string();
    let usage = match tokio::task::spawn_blocking(move || cache.usage()).await {
        Ok(Ok(usage)) => usage,
        Ok(Err(error)) => {
            let remedy = "create it, owned by the agent's user, or correct cache.dir in the settings";
            return Finding::new(about, Mark::Bad, &chain(&error)).remedy(remedy);
        }
        Err(error) => return Finding::new(about, Mark::Warn, &format!("not checked: {error}")),
    };
    let Usage { used_bytes, budget_bytes, disk: Disk { free_bytes, reserve_bytes } } = usage;
    if free_bytes < reserve_bytes {
        let says = format!(
            "only {} are free under {dir}, less than the {} that stay free (cache.min_free): no build can be downloaded",
            BinaryBytes(free_bytes),
            BinaryBytes(reserve_bytes)
        );
        return Finding::new(about, Mark::Warn, &says).remedy("free some space there, or lower cache.min_free");
    }
    let says = format!(
        "{dir} holds {} of at most {} (cache.budget), and leaves {} of the disk free (cache.min_free)",
        BinaryBytes(used_bytes),
        BinaryBytes(budget_bytes),
        BinaryBytes(reserve_bytes)
    );
    Finding::new(about, Mark::Good, &says)
}

/// Reports where unpacking threads can write.
fn confinement(found: &Confinement) -> Finding {
    let about = "unpack";
    match found {
        Confinement::On(version) => {
            let says = format!("limited to the directory of each unpack, by Landlock (version {version})");
            Finding::new(about, Mark::Good, &says)
        }
        Confinement::Off(why) => {
            let says = format!("not limited to the directory of each unpack: {}", why.reason());
            Finding::new(about, Mark::Warn, &says).remedy(why.remedy())
        }
    }
}

/// Checks the secret files of receivers, chat and delegated users. The agent reads each only when it is needed, so a
/// file that cannot be read would otherwise be noticed too late.
async fn secrets(ctx: &Context) -> Vec<Finding> {
    let bad = |says: &str| {
        Finding::new("files", Mark::Bad, says).remedy(
            "create the file, readable for the agent's user, or correct the settings; a new file needs no restart",
        )
    };
    let mut findings = Vec::new();
    for receiver in ctx.agent.notifier.receivers.iter().filter(|receiver| receiver.gets_events_of(&ctx.unit)) {
        if let Err(error) = receiver.check_files().await {
            findings.push(bad(&format!("[notify.{}]: {}", receiver.name, chain(&error))));
        }
    }
    for SecretFile { setting, path } in &ctx.agent.secret_files {
        if let Err(error) = Secret::read(path).await {
            findings.push(bad(&format!("{setting}: {} cannot be read: {error}", path.display())));
        }
    }
    findings
}

/// The finding about a hook's program, if there is anything wrong with it.
fn hook_finding(name: &str, hook: &Hook, current: &Path) -> Option<Finding> {
    let program = hook.command.first()?;
    let remedy = format!("install it, or correct hooks.{name} in the settings");
    let bad = |says: String| Some(Finding::new("hooks", Mark::Bad, &says).remedy(&remedy));
    if Path::new(program).is_absolute() {
        return if is_executable(Path::new(program)) {
            None
        } else {
            bad(format!("{name}: {program} does not exist or is not executable"))
        };
    }
    if program.contains('/') {
        // A relative path is a file of the release. Before the first release there is nothing to check, and the next
        // release may contain the file: so this is a warning.
        if !current.exists() || is_executable(&current.join(program)) {
            return None;
        }
        let says = format!("{name}: {program} does not exist in current or is not executable");
        return Some(Finding::new("hooks", Mark::Warn, &says).remedy("the next release must contain it, executable"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir: PathBuf| is_executable(&dir.join(program)));
    if found { None } else { bad(format!("{name}: {program} is not in the agent's PATH")) }
}

/// Checks only the mode bits, not the agent's user: any execute permission counts, as it does for root.
fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Checks that the git repository answers. Only coordinators need it, to find the tip of a branch.
async fn repository(ctx: &Context) -> Vec<Finding> {
    let Some(repo) = ctx.settings.repo.as_ref().filter(|_| ctx.settings.coordinate) else { return Vec::new() };
    let about = "repository";
    vec![match resolve::ask_repository(repo, &["HEAD"], REPOSITORY_LIMIT).await {
        Ok(_) => Finding::new(about, Mark::Good, &format!("{} answers", resolve::without_password(repo))),
        Err(fault) => Finding::new(about, Mark::Bad, &fault.reason)
            .remedy("check git, its SSH key and known_hosts for the agent's user"),
    }]
}

/// Compares this node's clock with the clock of the machine that asked. The difference includes the time that the question
/// took to arrive, at most about a second.
fn clock(asked_at: Timestamp, now: Timestamp) -> Finding {
    let apart = now.duration_since(asked_at);
    let seconds = apart.as_secs();
    if apart.abs() <= CLOCKS_APART {
        return Finding::new("clock", Mark::Good, &format!("{now}, the same as where doctor was started"));
    }
    let how = if seconds < 0 { "behind" } else { "ahead of" };
    Finding::new(
        "clock",
        Mark::Warn,
        &format!("{now} here, {} s {how} the clock where doctor was started", seconds.unsigned_abs()),
    )
    .remedy(SYNCHRONIZE_CLOCKS)
}

/// Reports session, alarm, drift of `current`, Consul's watch, and version, from the agent's own state.
fn state(ctx: &Context) -> Vec<Finding> {
    let mut findings = vec![match ctx.published.session.borrow().as_ref() {
        Some(_) => Finding::new("session", Mark::Good, "alive in Consul"),
        None => Finding::new("session", Mark::Bad, "no session in Consul, so this node counts as absent")
            .remedy("the agent's log says why it cannot create one"),
    }];
    let record = ctx.published.record.borrow().clone();
    if let Some(alarm) = record.as_ref().and_then(|record| record.alarm.as_ref()) {
        findings.push(Finding::new("alarm", Mark::Bad, alarm));
    }
    if let Some(record) = record.as_ref().filter(|record| record.has_drifted()) {
        let current = record.current.as_deref().unwrap_or("gone");
        let remedy = format!("`cutover node repair {} {}` restores it", ctx.agent.node, ctx.unit);
        findings.push(
            Finding::new("current", Mark::Bad, &format!("was changed by another program, and is now: {current}"))
                .remedy(&remedy),
        );
    }
    let rung = ctx.bells.has_rung();
    findings.push(if rung {
        Finding::new("watch", Mark::Good, "Consul's watch has called since the agent started")
    } else {
        Finding::new(
            "watch",
            Mark::Note,
            "Consul's watch has not called since the agent started; deploys work without it, since the agent also polls",
        )
        .remedy("`cutover consul watch-config` prints the watch for /etc/consul.d")
    });
    let says = format!("{}, settings {}", env!("CARGO_PKG_VERSION"), ctx.settings.digest());
    findings.push(Finding::new("version", Mark::Note, &says));
    findings
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::release::Why;

    fn hook(program: &str) -> Hook {
        Hook { command: vec![program.to_owned()], timeout: Duration::from_secs(1) }
    }

    #[test]
    fn a_hook_whose_program_is_missing_is_found_before_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mark = |program: &str| hook_finding("check", &hook(program), dir.path()).map(|finding| finding.mark);
        assert_eq!((mark("/bin/sh"), mark("sh")), (None, None));
        assert_eq!((mark("/nowhere/x"), mark("no-such-program-at-all")), (Some(Mark::Bad), Some(Mark::Bad)));
        assert_eq!(mark("./bin/healthy"), Some(Mark::Warn));
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/healthy"), "").unwrap();
        assert_eq!(mark("./bin/healthy"), Some(Mark::Warn), "it exists, but is not executable");
        std::fs::set_permissions(dir.path().join("bin/healthy"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(mark("./bin/healthy"), None);
    }

    #[test]
    fn a_node_that_unpacks_with_all_its_rights_is_warned_about() {
        let on = confinement(&Confinement::On(landlock::ABI::V7));
        assert_eq!((on.mark, on.remedy.as_str()), (Mark::Good, ""));
        for why in [Why::Missing, Why::Disabled, Why::TooOld, Why::Refused("Argument list too long".to_owned())] {
            let off = confinement(&Confinement::Off(why.clone()));
            assert_eq!((off.mark, off.remedy.as_str()), (Mark::Warn, why.remedy()));
            assert!(off.says.ends_with(&why.reason()), "{}", off.says);
        }
    }

    #[test]
    fn a_clock_that_differs_is_reported_with_its_direction() {
        let at = Timestamp::UNIX_EPOCH;
        assert_eq!(clock(at, at + SignedDuration::from_secs(2)).mark, Mark::Good);
        assert!(clock(at, at + SignedDuration::from_secs(90)).says.contains("90 s ahead of the clock"));
        assert!(clock(at, at - SignedDuration::from_secs(90)).says.contains("90 s behind the clock"));
    }
}
