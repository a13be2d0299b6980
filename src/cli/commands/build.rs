//! `cutover build`: the state of builds in CI, bad marks, single builds, and what signatures cover.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::{prune, show};
use crate::cli::args::{Build, BuildMark, BuildOrigin, SignedText};
use crate::cli::context::Context;
use crate::cli::origin::{self, Given};
use crate::cli::output::{self, Format, clean, clean_lines};
use crate::cli::request::author;
use crate::control::publish::Recorder;
use crate::control::runs::{self, CiReport, Event, Recorded};
use crate::control::{Code, Failure, operate};
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{BadMark, Run, RunState, Signature};

/// The result of `build start`, `fail` and `cancel`.
#[derive(Serialize)]
struct Reported<'a> {
    app: &'a App,
    artifact: &'a ArtifactName,
    record: &'a Run,
}

/// The result of `build mark-bad` and `mark-good`.
#[derive(Serialize)]
struct Marked<'a> {
    app: &'a App,
    artifact: &'a ArtifactName,
    /// Whether the build was marked bad before; none for `mark-bad`, which does not look.
    was_bad: Option<bool>,
    /// The bad mark; none if the build may be deployed.
    bad: Option<BadMark>,
}

/// Writes the state or the mark, and prints it.
///
/// # Errors
///
/// Exit code 2 if neither flags, CI's environment nor git identify the build, 3 if a build to mark has no record, 6 if
/// another client wrote the key at the same moment, 7 if the token may not write the key.
pub(crate) async fn run(context: &Context, args: &Build) -> Result<Code, Failure> {
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
        Build::Show(args) => show::run(context, args).await,
        Build::SignedText(args) => signed_text(context, args).await,
        Build::Prune(args) => prune::run(context, args).await,
    }
}

async fn report(context: &Context, args: &BuildOrigin, reason: &str, event: Event) -> Result<Code, Failure> {
    let given = Given { branch: args.branch.clone(), commit: args.commit.clone() };
    let found =
        tokio::task::spawn_blocking(move || origin::find(&given, &PathBuf::from("."), |name| std::env::var(name).ok()));
    let found = found
        .await
        .map_err(|error| Failure::new(Code::Failed, "finding branch and commit failed").caused_by(error))??;
    output::say(&clean(&found.source));
    let report = CiReport {
        branch: found.branch,
        commit: found.commit,
        tag: found.tag,
        pull_request: found.pull_request,
        ancestors: found.ancestors,
        summary: found.summary,
        url: args.url.clone().or(found.url),
        by: found.by,
        reason: reason.to_owned(),
    };
    let Recorded { artifact, run } = runs::record(&context.access, &args.app, &report, event, Timestamp::now()).await?;
    let state = match run.state {
        RunState::Building => "building",
        RunState::Canceled => "canceled",
        RunState::Failed => "failed",
        RunState::Published => "already published; its state stays published",
    };
    let text = format!("{artifact}  {state}");
    print(context, &Reported { app: &args.app, artifact: &artifact, record: &run }, &text)
}

async fn mark_bad(context: &Context, args: &BuildMark) -> Result<Code, Failure> {
    let BuildMark { app, artifact, reason } = args;
    let mark = operate::mark_bad(&context.access, app, artifact, &author(reason), Timestamp::now()).await?;
    let text = format!(
        "{artifact}  marked bad: deploys of it are refused unless forced; undo with `cutover build mark-good {app} {artifact}`"
    );
    print(context, &Marked { app, artifact, was_bad: None, bad: Some(mark) }, &text)
}

async fn mark_good(context: &Context, args: &BuildMark) -> Result<Code, Failure> {
    let BuildMark { app, artifact, reason } = args;
    let was_bad = operate::mark_good(&context.access, app, artifact, &author(reason), Timestamp::now()).await?;
    let text = if was_bad { "no longer marked bad" } else { "was not marked bad" };
    print(context, &Marked { app, artifact, was_bad: Some(was_bad), bad: None }, &format!("{artifact}  {text}"))
}

/// What a signature covers, and the signature.
#[derive(Serialize)]
struct Signed<'a> {
    app: &'a App,
    artifact: &'a ArtifactName,
    text: String,
    signature: Option<Signature>,
}

async fn signed_text(context: &Context, args: &SignedText) -> Result<Code, Failure> {
    let SignedText { app, artifact, signature: only_signature } = args;
    let build = Recorder::new(&context.access, app).published(artifact).await?;
    let text = crate::signing::signed_text(app, &build);
    let signature = build.signature;
    let printed = match (context.format, only_signature, &signature) {
        (Format::Json, _, _) => output::json(&Signed { app, artifact, text, signature })?,
        (Format::Text, true, None) => {
            let hint = "`cutover publish --sign KEY` of the same build adds a signature";
            return Err(Failure::new(Code::NotFound, format!("{artifact} is not signed")).hint(hint));
        }
        // Byte for byte, because minisign checks these bytes; a person reads them on a terminal.
        (Format::Text, true, Some(signature)) => signature.as_str().to_owned(),
        (Format::Text, false, _) => text,
    };
    let is_read = context.format == Format::Text && output::prints_to_terminal();
    output::result(&if is_read { clean_lines(&printed, "") } else { printed })?;
    Ok(Code::Done)
}

fn print(context: &Context, document: &impl Serialize, text: &str) -> Result<Code, Failure> {
    output::result(&match context.format {
        Format::Text => clean(text) + "\n",
        Format::Json => output::json(document)?,
    })?;
    Ok(Code::Done)
}
