//! `cutover publish`: read the directory, pack and upload it at once, record, announce.
//!
//! In this order, so that a record never names an archive that is not in the store. The object's name contains digits of a
//! digest of its content, so no publisher replaces the object of another one by other bytes. If the command is interrupted at any
//! point, running it again completes the work: an object without a record is replaced, and a record with the same digest
//! counts as success. A publisher that finds its name taken removes its own object.
//!
//! The rules for names and records are in [`crate::control::publish`], those for removing old builds in
//! [`crate::control::retention`].

mod interrupt;
mod progress;
mod source;
mod upload;
mod work;

use std::path::PathBuf;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::interrupt::Signals;
use self::progress::blocking;
use self::source::Source;
use self::upload::Uploader;
use self::work::Work;
use crate::cli::args::Publish;
use crate::cli::context::Context;
use crate::cli::origin::{self, Given, Origin};
use crate::cli::output::{self, Format, clean};
use crate::cli::ships;
use crate::cli::signer;
use crate::cli::store::{self, Location};
use crate::cli::view;
use crate::control::publish::{Candidate, OtherContent, PublishState, Recorded, Recorder, signer_named};
use crate::control::retention::{self, Pruned};
use crate::control::{Code, Failure};
use crate::document::bytes;
use crate::protocol::ids::{App, KeyId};
use crate::protocol::record::Build;

/// How often publishing begins again because another program recorded or removed the build meanwhile.
const TURNS: usize = 8;

/// The published build; `--output json` prints it in this form.
#[derive(Debug, Serialize)]
struct Published<'a> {
    app: &'a App,
    /// Whether the build was published before this command.
    already: bool,
    /// What was wrong with the archive in the store, if it was uploaded again: `missing`, `cut` or `altered`.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<&'static str>,
    #[serde(flatten)]
    record: &'a Build,
    /// The key that has signed the record: the one of this command, or another one whose signature stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<KeyId>,
    /// The builds removed afterwards; none if every build is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<Pruned>,
}

/// A published build, and how it came to be.
struct Outcome {
    build: Build,
    already: bool,
    repaired: Option<&'static str>,
}

/// Publishes a directory or an archive.
///
/// # Errors
///
/// Exit code 1 if the commit is already published with different content, if the key cannot sign, and after Ctrl-C or
/// SIGTERM; 2 if branch, commit or store are unknown, or the key's password; 7 and 8 as Consul and the store answer.
pub(crate) async fn run(context: &Context, args: &Publish) -> Result<Code, Failure> {
    let place = store::locate(&args.store).await?.patient();
    let mut signals = Signals::install()?;
    // The key comes first: a wrong password ends the command before the work.
    let signer = signals.may_end(signer::read(args)).await?;
    let origin = signals.may_end(find_origin(args)).await?;
    say(&origin.source);
    let recorder = Recorder::new(&context.access, &args.app);
    // An unreadable list of builds fails here, before the work of packing and uploading.
    signals.may_end(recorder.latest()).await?;
    let stop = CancellationToken::new();
    // From here on, there are files to remove.
    let publish = async {
        let source = Source::read(args, origin.commit_secs, &stop).await?;
        let what = Work { args, origin: &origin, source: &source, signer: signer.as_ref() };
        let outcome = publish(&recorder, &place, &what, &stop).await?;
        recorder.announce(&outcome.build.artifact).await;
        let pruned = match args.keep_builds.or(place.keep_builds) {
            Some(keep) if !stop.is_cancelled() => prune(context, &place, &args.app, keep).await,
            Some(_) | None => None,
        };
        let Outcome { build, already, repaired } = outcome;
        let signed_by = signer.as_ref().and_then(|_| signer_named(&build));
        print(context, &Published { app: &args.app, already, repaired, record: &build, signed_by, pruned })
    };
    // Boxed, because the future of the AWS SDK is large and would be part of every caller's future.
    interrupt::unless_interrupted(&mut signals, &stop, Box::pin(publish)).await?;
    Ok(Code::Done)
}

async fn publish(
    recorder: &Recorder<'_>,
    place: &Location,
    what: &Work<'_>,
    stop: &CancellationToken,
) -> Result<Outcome, Failure> {
    let Work { args, origin, source, .. } = *what;
    let mut candidate = Candidate {
        branch: origin.branch.clone(),
        tag: origin.tag.clone(),
        pull_request: origin.pull_request.clone(),
        commit: origin.commit.clone(),
        content: source.content(),
    };
    let other = if args.rebuild { OtherContent::Rebuild } else { OtherContent::Refuse };
    let store = place.open().await?;
    store::say_ignored(&store);
    let uploader = Uploader { recorder, store, app: &args.app, source, stop };
    for _ in 0..TURNS {
        match recorder.state(&candidate, other).await? {
            PublishState::Published(standing) => {
                recorder.restore_latest(&standing).await?;
                // Before the repair: whoever changed the record must not choose which object is replaced.
                let build = what.sign_again(recorder, *standing, stop).await?;
                let repaired = uploader.repair(&build).await?;
                // The build may have been removed meanwhile as an old one. Then it is published anew.
                if recorder.build(&build.artifact).await?.as_ref() == Some(&build) {
                    return Ok(Outcome { build, already: true, repaired });
                }
            }
            PublishState::Undecided(format) => {
                candidate.content.sha256 = Some(source.complete(format, stop).await?.sha256.clone());
            }
            PublishState::Free(name) => {
                recorder.check_allowed(&name).await?;
                let object = what.object(&name, source.format);
                let objects = uploader.objects(&name, &object);
                let archive = uploader.put_new(&objects).await?;
                let write = async {
                    let build = what.build(name, source.format, archive.packed()).await?;
                    let before = recorder.newest_before(&build).await?;
                    let files = source.listing.get().await?;
                    let since = ships::since(&uploader.store, &args.app, git_dir(args), &build, before, files);
                    recorder.record(what.signed(Build { since: Some(since.await?), ..build })).await
                };
                match write.await.inspect_err(|_| uploader.tell_unrecorded(&objects))? {
                    Recorded::New(build) => return Ok(Outcome { build: *build, already: false, repaired: None }),
                    // The next turn finds the record, or the name that this branch gets instead.
                    Recorded::Taken => {
                        say(&format!("another program took the name {} meanwhile", objects.artifact));
                        uploader.discard(&objects).await;
                    }
                }
            }
        }
    }
    let what = format!(
        "the build of {} at {} was recorded and removed by other programs {TURNS} times in a row",
        candidate.of(),
        candidate.commit.short()
    );
    Err(Failure::new(Code::Busy, what).hint("publish again"))
}

/// Removes builds beyond the newest `keep`. A failure is only a warning, because the new build is published.
async fn prune(context: &Context, place: &Location, app: &App, keep: u32) -> Option<Pruned> {
    let pruned = async { retention::prune(&context.access, &place.open().await?, app, keep).await };
    match Box::pin(pruned).await {
        Ok(pruned) => Some(pruned),
        Err(failure) => {
            say(&format!("warning: old builds were not removed: {}", failure.chain()));
            None
        }
    }
}

/// Where git runs. An archive has no checkout around it, so git runs in the working directory.
fn git_dir(args: &Publish) -> PathBuf {
    if args.file.is_some() { PathBuf::from(".") } else { args.dir.clone() }
}

async fn find_origin(args: &Publish) -> Result<Origin, Failure> {
    let given = Given { branch: args.branch.clone(), commit: args.commit.clone() };
    let dir = git_dir(args);
    blocking("finding branch and commit", move || origin::find(&given, &dir, |name| std::env::var(name).ok())).await
}

fn say(line: &str) {
    output::say(&clean(line));
}

fn print(context: &Context, published: &Published<'_>) -> Result<(), Failure> {
    let text = match context.format {
        Format::Json => output::json(published)?,
        Format::Text => {
            let Published { record: build, already, repaired, signed_by, pruned, .. } = published;
            let how = if *already { "already published" } else { "published" };
            let repaired = repaired.map(|flaw| format!("repaired     the archive in the store was {flaw}\n"));
            format!(
                "{how}  {}\nsha256       {}\nsize         {} packed, {} unpacked, {} entries\ncommit       {} of {}\n",
                build.artifact,
                build.sha256,
                bytes(build.packed_bytes),
                bytes(build.unpacked_bytes),
                build.entries,
                build.commit,
                build.of()
            ) + &repaired.unwrap_or_default()
                + &view::since(build)
                + &signed_by.as_ref().map(|key| format!("signed by    {key}\n")).unwrap_or_default()
                + &pruned.as_ref().map(view::pruned).unwrap_or_default()
        }
    };
    Ok(output::result(&text)?)
}
