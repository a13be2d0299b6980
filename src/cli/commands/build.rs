//! `cutover build`: how a build goes in CI, and marks of bad builds.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::prune;
use crate::artifact::artifact_name;
use crate::cli::args::{Build, BuildMark, BuildOrigin};
use crate::cli::context::Context;
use crate::cli::origin::{self, Given};
use crate::cli::output::{self, Format, clean};
use crate::cli::request::author;
use crate::control::runs::{self, Event, Told};
use crate::control::{Code, Failure, operate};
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{BadMark, Run, RunState};

/// What CI's word came to.
#[derive(Serialize)]
struct Reported<'a> {
    app: &'a App,
    artifact: &'a ArtifactName,
    record: &'a Run,
}

/// What a mark came to.
#[derive(Serialize)]
struct Marked<'a> {
    app: &'a App,
    artifact: &'a ArtifactName,
    /// Whether it was marked bad before; of a mark that is put, not looked at.
    was_bad: Option<bool>,
    /// The mark that stands; none: it may be deployed.
    bad: Option<BadMark>,
}

/// Writes what was said, and prints it.
///
/// # Errors
///
/// Exit code 2 where neither flags, CI's environment nor git say which build it is, 3 for a build to mark that has no
/// record, 6 where others write the key at the same moment, 7 without the right to write it.
pub async fn run(context: &Context, args: &Build) -> Result<Code, Failure> {
    match args {
        Build::Start(start) => {
            let event = Event::Begun {
                lost_at: Timestamp::now().checked_add(start.lost_after.unwrap_or(runs::LOST_AFTER)).ok(),
            };
            report(context, &start.origin, "", event).await
        }
        Build::Fail(end) => report(context, &end.origin, &end.reason, Event::Failed).await,
        Build::Cancel(end) => report(context, &end.origin, &end.reason, Event::Canceled).await,
        Build::MarkBad(mark) => mark_bad(context, mark).await,
        Build::MarkGood(mark) => mark_good(context, mark).await,
        Build::Prune(args) => prune::run(context, args).await,
    }
}

async fn report(context: &Context, args: &BuildOrigin, reason: &str, event: Event) -> Result<Code, Failure> {
    let given = Given { branch: args.branch.clone(), commit: args.commit.clone() };
    let found =
        tokio::task::spawn_blocking(move || origin::find(&given, &PathBuf::from("."), |name| std::env::var(name).ok()));
    let found = found
        .await
        .map_err(|error| Failure::new(Code::Failed, "looking for branch and commit failed").caused_by(error))??;
    output::say(&clean(&found.source));
    let told = Told {
        artifact: artifact_name(&found.branch, &found.commit, None),
        branch: found.branch,
        commit: found.commit,
        summary: found.summary,
        url: args.url.clone().or(found.url),
        by: found.by,
        reason: reason.to_owned(),
    };
    let run = runs::record(&context.access, &args.app, &told, event, Timestamp::now()).await?;
    let state = match run.state {
        RunState::Building => "building",
        RunState::Canceled => "canceled",
        RunState::Failed => "failed",
        RunState::Published => "published already, and stays so",
    };
    let text = format!("{}  {state}", told.artifact);
    print(context, &Reported { app: &args.app, artifact: &told.artifact, record: &run }, &text)
}

async fn mark_bad(context: &Context, args: &BuildMark) -> Result<Code, Failure> {
    let BuildMark { app, artifact, reason } = args;
    let mark = operate::mark_bad(&context.access, app, artifact, &author(reason), Timestamp::now()).await?;
    let text = format!(
        "{artifact}  marked bad: a deploy of it is refused unless forced; `cutover build mark-good {app} {artifact}` takes it back"
    );
    print(context, &Marked { app, artifact, was_bad: None, bad: Some(mark) }, &text)
}

async fn mark_good(context: &Context, args: &BuildMark) -> Result<Code, Failure> {
    let BuildMark { app, artifact, reason } = args;
    let was_bad = operate::mark_good(&context.access, app, artifact, &author(reason), Timestamp::now()).await?;
    let text = if was_bad { "not marked bad any more" } else { "was not marked bad" };
    print(context, &Marked { app, artifact, was_bad: Some(was_bad), bad: None }, &format!("{artifact}  {text}"))
}

fn print(context: &Context, document: &impl Serialize, text: &str) -> Result<Code, Failure> {
    output::result(&match context.format {
        Format::Text => clean(text) + "\n",
        Format::Json => output::json(document)?,
    })?;
    Ok(Code::Done)
}
