//! Answers the questions in the key `question` about this node: its disk, its store and its settings.
//!
//! Each unit has one blocking query (stale) for this key; Consul's watch also wakes it. The agent answers each question
//! once (by its id, also across a restart) into `answers/<node>`, with its own token. A newer question cancels the
//! answer to an older one. Every check has a time limit; one that exceeds it is reported as such.
//!
//! Non-goals: answering takes no lock that a deploy takes, and writes nothing but the answer. It never waits for the unit's
//! owner, except for [`Ask::Repair`], which the owner itself carries out.

mod doctor;
mod dry_run;
mod signatures;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::daemon::context::Context;
use crate::agent::node::inbox::Input;
use crate::backoff::Backoff;
use crate::consul::{Change, Class, Consistency, Error, Watch};
use crate::control::doctor::PUBLISH_AGAIN;
use crate::document::bytes;
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::{Ask, FORMAT, FileChanges, Finding, Latest, Mark, Question, Reply, decode};
use crate::protocol::resolve::NameMeant;
use crate::telemetry::chain;

/// Questions older than this are not answered: the command that asked has ended long ago.
const TOO_OLD: SignedDuration = SignedDuration::from_mins(10);
/// The time limit of one check. The command that asked waits for 10 s.
const PART_LIMIT: Duration = Duration::from_secs(6);
/// Retries of a failed write of the answer, after 0.2, 0.4 and 0.8 s.
const RETRIES: u32 = 3;
/// The first pause before a retry.
const RETRY_FROM: Duration = Duration::from_millis(200);
/// The longest pause before a retry.
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// When this agent first read a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// With its first read after the start.
    AtStart,
    /// Later, so the question was written just now.
    Later,
}

/// What this node found out about a question.
#[derive(Debug, Default)]
struct Found {
    findings: Vec<Finding>,
    /// Bytes, by name.
    figures: BTreeMap<String, u64>,
    /// The files that a deploy would change; none if this node does not coordinate, or they are not known.
    files: Option<FileChanges>,
}

impl Found {
    fn of(findings: Vec<Finding>) -> Self {
        Self { findings, ..Self::default() }
    }
}

/// Answers questions until shutdown.
pub(crate) async fn answer(ctx: Arc<Context>, owner: mpsc::Sender<Input>) {
    // The blocking query has a task of its own: dropping one keeps its connection at Consul busy until the query ends.
    let (sender, mut questions) = watch::channel(None);
    ctx.agent.tasks.spawn(listen(Arc::clone(&ctx), sender));
    loop {
        let asked = questions.borrow_and_update().clone();
        if let Some((question, when)) = asked {
            tokio::select! {
                () = ctx.agent.shutdown.cancelled() => return,
                changed = questions.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = reply(&ctx, &question, when, &owner) => {}
            }
        }
        tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            changed = questions.changed() => if changed.is_err() { return },
        }
    }
}

/// Follows the key `question`.
async fn listen(ctx: Arc<Context>, questions: watch::Sender<Option<(Question, When)>>) {
    let mut watch = Watch::key(&ctx.agent.consul, ctx.at.question(), Consistency::Stale);
    ctx.bells.hang(watch.waker());
    let mut when = When::AtStart;
    loop {
        let change = tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(entry) => {
                let entry = entry.filter(|entry| !entry.value.is_empty());
                let question = entry.map(|entry| decode::<Question>(&entry.key, &entry.value));
                if !matches!(&question, Some(Err(error)) if error.is_newer()) {
                    ctx.troubles.reads_again(&ctx.at.question());
                }
                match question {
                    Some(Ok(question)) => drop(questions.send_replace(Some((question, when)))),
                    Some(Err(error)) if error.is_newer() => ctx.troubles.meets_newer(&error).await,
                    Some(Err(error)) => {
                        tracing::warn!(unit = %ctx.unit, %error, "{}: cannot read a question: {error}", ctx.unit);
                    }
                    None => {}
                }
                when = When::Later;
            }
            Change::Failed(error) => {
                {
                    let error = chain(&error);
                    tracing::debug!(unit = %ctx.unit, error, "{}: cannot read questions: {error}", ctx.unit);
                };
            }
        }
    }
}

/// Whether the command that asked must have ended, judged by the age of the question. A `doctor` question that arrived
/// while this agent was running is never stale, because `doctor` must also get answers from nodes with a wrong clock.
fn is_stale(question: &Question, when: When, now: Timestamp) -> bool {
    let is_old = now.duration_since(question.at).abs() > TOO_OLD;
    is_old && (when == When::AtStart || question.ask != Ask::Doctor)
}

/// Answers one question, unless it is for another node or answered already.
async fn reply(ctx: &Arc<Context>, question: &Question, when: When, owner: &mpsc::Sender<Input>) {
    if !question.is_for(&ctx.agent.node) || is_stale(question, when, Timestamp::now()) {
        return;
    }
    let key = ctx.at.reply(&ctx.agent.node);
    match ctx.agent.consul.kv_get(&key, Consistency::Consistent).await {
        Ok(entry) => {
            let given = entry.and_then(|entry| decode::<Reply>(&key, &entry.value).ok());
            if given.is_some_and(|given| given.id == question.id) {
                return;
            }
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(
                unit = %ctx.unit, error,
                "{}: a question by {} is not answered, because this node's earlier answer cannot be read: {error}",
                ctx.unit, question.by
            );
            return;
        }
    }
    let Found { findings, figures, files } = match &question.ask {
        Ask::Doctor => Found::of(Box::pin(doctor::look(ctx, question.at)).await),
        Ask::DryRun { artifact, sha256, release, branch, tag } => {
            let (release, via) = (release.as_ref(), question.via.as_str());
            let meant = NameMeant::from_names(branch.as_ref(), tag.as_ref());
            let planned = dry_run::Planned { artifact, sha256, release, meant: meant.as_ref(), via };
            Box::pin(dry_run::look(ctx, &planned)).await
        }
        Ask::Repair { .. } => Found::of(vec![repair(ctx, owner).await]),
    };
    let runs = ctx.published.journal.borrow().runs.clone();
    let at = Timestamp::now();
    let reply = Reply { format: FORMAT, id: question.id.clone(), runs, findings, figures, files, at }.encode();
    let mut backoff = Backoff::new(RETRY_FROM, LONGEST_RETRY);
    let written = loop {
        match ctx.agent.consul.kv_put(&key, &reply).await {
            Err(error) if error.class() == Class::Transient && backoff.failures() < RETRIES => {
                tokio::time::sleep(backoff.pause(fastrand::f64())).await;
            }
            written => break written,
        }
    };
    match written {
        Ok(()) => tracing::info!(
            unit = %ctx.unit, by = %question.by, via = %question.via,
            "{}: this node answered a question by {} ({})", ctx.unit, question.by, question.via
        ),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(
                unit = %ctx.unit, error,
                "{}: cannot write the answer to a question by {}: {error}", ctx.unit, question.by
            );
        }
    }
}

/// Has the unit's owner restore `current`.
async fn repair(ctx: &Context, owner: &mpsc::Sender<Input>) -> Finding {
    let (sender, done) = oneshot::channel();
    let asked = async {
        owner.send(Input::Repair(sender)).await.ok()?;
        done.await.ok()
    };
    match tokio::time::timeout(PART_LIMIT, asked).await {
        Ok(Some(finding)) => finding,
        Ok(None) => Finding::new("repair", Mark::Bad, "the agent is stopping"),
        Err(_) => {
            tracing::warn!(
                unit = %ctx.unit,
                "{}: the repair of current has not finished within {} s and continues", ctx.unit, PART_LIMIT.as_secs()
            );
            Finding::new("repair", Mark::Warn, "not finished yet: the node is busy with a release")
                .remedy("`cutover status` shows whether current still differs")
        }
    }
}

/// Runs one check within the time limit.
async fn within_limit(about: &str, look: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    tokio::time::timeout(PART_LIMIT, look).await.unwrap_or_else(|_| {
        let says = format!("no answer within {} s", PART_LIMIT.as_secs());
        vec![Finding::new(about, Mark::Bad, &says).remedy("see the agent's log")]
    })
}

/// The newest build of the app, as `latest` lists it; none also if the key cannot be read.
async fn newest(ctx: &Context) -> Option<ArtifactName> {
    let key = ctx.agent.keys.latest(&ctx.unit.app);
    let entry = ctx.agent.consul.kv_get(&key, Consistency::Default).await.ok().flatten()?;
    decode::<Latest>(&key, &entry.value).ok()?.builds.into_iter().next().map(|build| build.artifact)
}

/// Whether this node holds the coordinator's lock.
async fn is_coordinator(ctx: &Context) -> Result<bool, Error> {
    let lock = ctx.agent.consul.kv_get(&ctx.at.coordinator(), Consistency::Default).await?;
    Ok(lock.is_some_and(|lock| lock.session.is_some() && lock.value == ctx.agent.node.as_str().as_bytes()))
}

/// Checks that the store has the archive of a build, with the recorded size. `without_it` is the mark if not.
async fn archive(ctx: &Context, build: &crate::protocol::record::Build, without_it: Mark) -> Finding {
    let about = "store";
    match ctx.stager.object(build).await {
        (place, Ok(Some(size))) if size == build.packed_bytes => {
            Finding::new(about, Mark::Good, &format!("{place} exists, {}", bytes(size)))
        }
        (place, Ok(Some(size))) => {
            let says = format!("{place} has {size} bytes, but its build record says {}", build.packed_bytes);
            Finding::new(about, without_it, &says).remedy("publish the build again")
        }
        (place, Ok(None)) => Finding::new(about, without_it, &format!("{place} does not exist")).remedy(PUBLISH_AGAIN),
        (place, Err(error)) => {
            Finding::new(about, without_it, &format!("{place} cannot be checked: {}", chain(&error)))
                .remedy("check that the store is up, and [store] and this node's credentials")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(ask: Ask) -> Question {
        let at = Timestamp::UNIX_EPOCH;
        Question { format: FORMAT, id: "1".to_owned(), ask, by: "ann".to_owned(), via: "cli".to_owned(), at }
    }

    #[test]
    fn an_old_question_is_ignored_but_a_wrong_clock_is_reported() {
        let later = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(11);
        let repair = question(Ask::Repair { node: "web-1".parse().unwrap() });
        let doctor = question(Ask::Doctor);
        assert!(is_stale(&repair, When::Later, later) && is_stale(&doctor, When::AtStart, later));
        assert!(!is_stale(&doctor, When::Later, later));
        let soon = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(9);
        assert!(!is_stale(&repair, When::AtStart, soon));
        let behind = Timestamp::UNIX_EPOCH - SignedDuration::from_mins(11);
        assert!(is_stale(&repair, When::Later, behind), "a clock that is far behind cannot tell a question's age");
    }
}
