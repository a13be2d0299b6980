//! The disk work of a participant: prepare and switch. One at a time per unit.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::agent::node::checking;
use crate::agent::node::hook_variables::{Variables, facts_of, hook_variables};
use crate::agent::node::hooks::{self, Call};
use crate::agent::node::pruning;
use crate::agent::node::signatures;
use crate::config::Hook;
use crate::plan::retention::RunResult;
use crate::protocol::journal::{Origin, Target};
use crate::protocol::participant::Way;
use crate::protocol::record::{Fault, Phase, Release, Step};
use crate::release::{CurrentLink, LinkTarget, Links, Placed, Site};

/// Makes the new release and the release to revert to complete and durable, and checks beforehand that the switch can
/// work. PROTOCOL.md P2, P3.
///
/// # Errors
///
/// The fault with which this node refuses the deploy; also if halted.
pub(crate) async fn prepare(
    ctx: &Arc<Context>,
    release: &Release,
    from: Option<&Release>,
    halt: &CancellationToken,
) -> Result<(), Fault> {
    // The cheap check comes first: a node that cannot switch refuses before it fetches anything.
    ctx.on_disk(Step::Preflight, Site::preflight_switch).await?;
    check_signature(ctx, release, halt).await?;
    if let Some(from) = from
        && may_make_ready(ctx, from, halt).await?
    {
        make_ready(ctx, from, Purpose::WayBack, halt).await?;
    }
    make_ready(ctx, release, Purpose::Next, halt).await.map_err(|fault| pruning::tell_kept(ctx, release, fault))?;
    ctx.accepted.note(release);
    Ok(())
}

/// Refuses a release that this node holds and would not accept today, unless it verified the release when it unpacked it. A
/// release that it does not hold is checked before it is unpacked.
async fn check_signature(ctx: &Arc<Context>, release: &Release, halt: &CancellationToken) -> Result<(), Fault> {
    if ctx.settings.signatures.is_empty() || ctx.accepted.is(release) || !holds(ctx, release).await? {
        return Ok(());
    }
    if signatures::is_verified(ctx, &release.release, &release.artifact, &release.sha256).await? {
        return Ok(());
    }
    let build = ctx.stager.record_of(ctx, release, halt).await?;
    signatures::check(ctx, &build)?;
    ctx.accepted.note(release);
    Ok(())
}

/// Whether the way back may be on the disk: it is, or its signature is accepted. If not, this node does not run it, and goes on
/// without it: to refuse would keep every other release from the fleet, also the one that replaces it. A revert then leaves
/// this node as it is, with the reason.
async fn may_make_ready(ctx: &Arc<Context>, from: &Release, halt: &CancellationToken) -> Result<bool, Fault> {
    if ctx.settings.signatures.is_empty() || holds(ctx, from).await? {
        return Ok(true);
    }
    let build = ctx.stager.record_of(ctx, from, halt).await?;
    let Err(fault) = signatures::check(ctx, &build) else { return Ok(true) };
    tracing::warn!(unit = %ctx.unit, artifact = %from.artifact, reason = %fault.reason, "{}: {} cannot go back to {}, which the others run: {}", ctx.unit, ctx.agent.node, from.artifact, fault.reason);
    Ok(false)
}

/// Whether a switch needs no check, by what this node knows by itself: it runs the release, or goes back to what it ran
/// directly before. What ran before the rule must be able to run again, or nothing could be deployed after it.
async fn ran_last(ctx: &Arc<Context>, release: &Release, way: Way) -> Result<bool, Fault> {
    if ctx.published.journal.borrow().runs.as_ref().is_some_and(|runs| runs.same_tree(release)) {
        return Ok(true);
    }
    let name = release.release.clone();
    let look = move |site: &Site| {
        let is_current = site.current()? == CurrentLink::Release(name.clone());
        Ok::<_, io::Error>(is_current || way == Way::Back && site.previous()?.as_ref() == Some(&name))
    };
    ctx.on_disk(Step::Switch, look).await
}

/// Makes the release of a switch ready. Its signature is checked here too: a node also switches to what it never prepared,
/// because it was away, is no member of the deploy, or because somebody has written the barrier.
async fn ready_to_run(ctx: &Arc<Context>, release: &Release, way: Way, halt: &CancellationToken) -> Result<(), Fault> {
    if !ctx.settings.signatures.is_empty() && !ran_last(ctx, release, way).await? {
        check_signature(ctx, release, halt).await?;
    }
    let purpose = match way {
        Way::Forward if is_promised(ctx, release) => Purpose::Promised,
        Way::Forward => Purpose::Next,
        Way::Back => Purpose::WayBack,
    };
    make_ready(ctx, release, purpose, halt).await
}

/// Whether the fleet waits for this node's answer to the commit of a release that it has prepared.
fn is_promised(ctx: &Context, release: &Release) -> bool {
    let journal = ctx.published.journal.borrow();
    let record = journal.record.as_ref().filter(|record| record.phase == Phase::Commit);
    journal.member == Some(true) && record.and_then(|record| record.target()) == Some(release)
}

/// Why a release has to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It is what the node switches to, by a deploy, a rollback, or to catch up. If it was changed on the disk, it is made anew.
    Next,
    /// As [`Purpose::Next`], but the other nodes switch at this moment: if it was changed since this node promised it, the switch
    /// fails. To make it anew would leave the fleet mixed for as long as that takes.
    Promised,
    /// It is what the node runs, or ran until now: nothing that changed in it, or below `shared/`, keeps a node from going back to
    /// it.
    WayBack,
}

/// Places a release in its directory, runs its prepare hook once, and makes the result durable. A release that is there already
/// is checked, and only gets its links.
async fn make_ready(
    ctx: &Arc<Context>,
    release: &Release,
    purpose: Purpose,
    halt: &CancellationToken,
) -> Result<(), Fault> {
    let mut damage = None;
    {
        // Under the lock: pruning that began before the journal named this deploy has ended, and later pruning keeps
        // it.
        let _one = halted(halt, ctx.disk.lock()).await?;
        if holds(ctx, release).await? {
            if purpose == Purpose::WayBack {
                return Ok(());
            }
            damage = checking::damage(ctx, release, halt).await?;
            match &damage {
                // Its links were made and checked when it was promised.
                None if purpose == Purpose::Promised => return Ok(()),
                None => return relink(ctx, release).await,
                Some(damage) if purpose == Purpose::Promised => return Err(damage.broken_promise(ctx, release)),
                Some(damage) => damage.warn(ctx, release),
            }
        }
    }
    if let Err(fault) = ctx.stager.stage_for(ctx, release, halt).await {
        let Some(damage) = damage else { return Err(fault) };
        damage.run_anyway(ctx, release, &fault)?;
        return relink(ctx, release).await;
    }
    let mut one = halted(halt, ctx.disk.lock()).await?;
    if !is_staged(ctx, release).await? {
        // A prefetch that began before this deploy has removed the staged build. A later prefetch keeps it.
        drop(one);
        ctx.stager.stage_for(ctx, release, halt).await?;
        one = halted(halt, ctx.disk.lock()).await?;
    }
    let _one = one;
    if damage.is_some() {
        let name = release.release.clone();
        ctx.on_disk(Step::Unpack, move |site| site.set_aside(&name)).await?;
    }
    if place(ctx, release).await? == Placed::Existing {
        return Ok(());
    }
    if let Some(hook) = &ctx.settings.hooks.prepare {
        run(ctx, hook, Step::PrepareHook, "prepare", Some(release), halt).await?;
        let name = release.release.clone();
        ctx.on_disk(Step::Sync, move |site| site.note_changes(&name)).await?;
    }
    let name = release.release.clone();
    ctx.on_disk(Step::Sync, move |site| site.seal(&name)).await
}

async fn holds(ctx: &Arc<Context>, release: &Release) -> Result<bool, Fault> {
    let release = release.clone();
    ctx.on_disk(Step::Preflight, move |site| site.holds(&release)).await
}

async fn is_staged(ctx: &Arc<Context>, release: &Release) -> Result<bool, Fault> {
    let release = release.clone();
    ctx.on_disk(Step::Unpack, move |site| site.is_staged(&release.artifact, &release.sha256)).await
}

/// The unit's shared paths.
///
/// # Errors
///
/// A fault of [`Step::Link`] for a path that cannot be linked into any release.
pub(crate) fn links(ctx: &Context) -> Result<Links, Fault> {
    let text = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    Links::new(&text(&ctx.settings.linked_dirs), &text(&ctx.settings.linked_files))
        .map_err(|error| Fault::new(Step::Link, &error.to_string()))
}

async fn place(ctx: &Arc<Context>, release: &Release) -> Result<Placed, Fault> {
    let links = links(ctx)?;
    let release = release.clone();
    ctx.on_disk(Step::Unpack, move |site| site.place(&release, &links)).await
}

/// Checks and makes the links of a complete release.
async fn relink(ctx: &Arc<Context>, release: &Release) -> Result<(), Fault> {
    let links = links(ctx)?;
    let name = release.release.clone();
    ctx.on_disk(Step::Link, move |site| site.relink(&name, &links)).await?;
    checking::mark_unused(ctx, release).await;
    Ok(())
}

/// Switches `current` durably and runs the hooks. PROTOCOL.md S2, S3.
///
/// A halt stops hooks and fetching, but never comes between the move of the symlink and the sync of its directory.
/// `moved` gets the time when the symlink moved, even if a hook fails afterwards.
///
/// # Errors
///
/// The fault of the step that failed. `current` may have moved before: the journal names the old and the new release.
pub(crate) async fn switch(
    ctx: &Arc<Context>,
    to: &Target,
    way: Way,
    origin: Option<&Origin>,
    moved: &OnceLock<Instant>,
    halt: &CancellationToken,
) -> Result<(), Fault> {
    let (release, link) = match to {
        Target::Release(release) => {
            // The link has not moved yet, so an agent that stops does not wait for a download.
            let stop = halt.child_token();
            let ready = ready_to_run(ctx, release, way, &stop);
            tokio::pin!(ready);
            tokio::select! {
                ready = &mut ready => ready?,
                () = ctx.agent.shutdown.cancelled() => {
                    stop.cancel();
                    ready.await?;
                }
            }
            (Some(release), LinkTarget::Release(release.release.clone()))
        }
        Target::Origin => (
            None,
            match origin {
                Some(Origin::Link(text)) => LinkTarget::Verbatim(text.into()),
                Some(Origin::Nothing) => LinkTarget::Nothing,
                // The origin is lost. To remove the link could delete the link of another tool.
                None => {
                    let reason =
                        "this node no longer knows what current was before Cutover: set current by hand, or deploy";
                    return Err(Fault::new(Step::Switch, reason));
                }
            },
        ),
    };
    if halt.is_cancelled() {
        return Err(Fault::new(Step::Switch, "stopped before the switch"));
    }
    let _one = halted(halt, ctx.disk.lock()).await?;
    let left =
        ctx.published.journal.borrow().runs.clone().filter(|runs| Some(&runs.release) != release.map(|r| &r.release));
    // Computed before the link moves, because `CUTOVER_PREVIOUS_PATH` depends on it.
    let variables = |phase| hook_variables(ctx, release, phase);
    let (switched, check, reverted) = (variables("switched"), variables("check"), variables("reverted"));
    if let (Way::Back, Some(left)) = (way, &left) {
        // The fleet reverted this release, so it counts as failed even if its hooks succeeded on this node.
        pruning::record_run(ctx, left, RunResult::Failed).await;
    }
    if let Some(at) = ctx.on_disk(Step::Switch, move |site| site.switch(&link)).await? {
        moved.get_or_init(|| at);
    }
    let hooks = &ctx.settings.hooks;
    let calls = match way {
        Way::Forward => vec![(&hooks.switched, Step::SwitchedHook, switched), (&hooks.check, Step::CheckHook, check)],
        Way::Back => vec![(&hooks.reverted, Step::RevertedHook, reverted)],
    };
    for (hook, step, variables) in calls {
        let Some(hook) = hook else { continue };
        let result = call(ctx, hook, step, release, variables, halt).await;
        if let (Err(_), Some(release), Way::Forward) = (&result, release, way) {
            pruning::record_run(ctx, release, RunResult::Failed).await;
            if is_promised(ctx, release) {
                return result.map_err(|fault| pruning::tell_kept(ctx, release, fault));
            }
        }
        result?;
    }
    if let Some(release) = release {
        pruning::record_run(ctx, release, RunResult::Done).await;
    }
    if let (Way::Forward, Some(left)) = (way, &left) {
        checking::mark_unused(ctx, left).await;
    }
    Ok(())
}

async fn run(
    ctx: &Arc<Context>,
    hook: &Hook,
    step: Step,
    phase: &str,
    release: Option<&Release>,
    halt: &CancellationToken,
) -> Result<(), Fault> {
    call(ctx, hook, step, release, hook_variables(ctx, release, phase), halt).await
}

async fn call(
    ctx: &Arc<Context>,
    hook: &Hook,
    step: Step,
    release: Option<&Release>,
    mut variables: Variables,
    halt: &CancellationToken,
) -> Result<(), Fault> {
    // Empty variables are set too: a script under `set -u` fails on an unset one.
    let facts = facts_of(ctx, release).await;
    let epoch = ctx.deploy().map(tracing::field::display);
    let deploy = facts.id.clone();
    variables.insert("CUTOVER_ID", facts.id);
    variables.insert("CUTOVER_BRANCH", facts.branch);
    variables.insert("CUTOVER_COMMIT", facts.commit);
    variables.insert("CUTOVER_BY", facts.by);
    let directory = release.map_or_else(|| ctx.settings.deploy_to.clone(), |release| ctx.release_path(release));
    let output = format!("{}-{}.log", release.map_or("origin", |r| r.release.as_str()), step.as_str());
    let call = Call {
        unit: ctx.unit.clone(),
        node: ctx.agent.node.clone(),
        step,
        command: hook.command.clone(),
        timeout: hook.timeout,
        directory,
        variables,
        secret_env: ctx.settings.secret_env.clone(),
        output_file: ctx.settings.deploy_to.join(pruning::OUTPUT).join(output),
    };
    let (unit, node, name) = (&ctx.unit, &ctx.agent.node, step.as_str().trim_end_matches("_hook"));
    tracing::info!(%unit, epoch, deploy, hook = step.as_str(), "{unit}: {name} hook started on {node}");
    let begun = Instant::now();
    let result = hooks::run(&call, halt).await;
    ctx.agent.metrics.hook_took(name, begun.elapsed());
    match &result {
        Ok(()) => {
            tracing::info!(%unit, epoch, deploy, hook = step.as_str(), "{unit}: {name} hook succeeded on {node}");
        }
        Err(fault) => {
            let last_line = fault.output.lines().map(str::trim).rfind(|line| !line.is_empty());
            let printed = last_line.map(|line| format!("; its last output: {line}")).unwrap_or_default();
            tracing::warn!(
                %unit, epoch, deploy, hook = step.as_str(), reason = %fault.reason,
                "{unit}: {name} hook failed on {node}: {}{printed}", fault.reason
            );
        }
    }
    result
}

/// The result of `work`, or a fault if halted before.
async fn halted<T>(halt: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::select! {
        () = halt.cancelled() => {
            Err(Fault::new(Step::Switch, "stopped: the deploy no longer needs it, or the agent is stopping"))
        }
        done = work => Ok(done),
    }
}
