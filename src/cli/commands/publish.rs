//! `cutover publish`: pack, upload, record, announce.
//!
//! In this order, so that a record never names an archive that is not in the store. The object's name contains digits of the
//! archive's digest, so no publisher replaces the object of another one by other bytes. If the command is interrupted at any
//! point, running it again completes the work: an object without a record is replaced, and a record with the same digest
//! counts as success. A publisher that finds its name taken removes its own object.
//!
//! The rules for names and records are in [`crate::control::publish`], those for removing old builds in
//! [`crate::control::retention`].

mod interrupt;
mod upload;

use std::future::Future;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use crate::artifact::{GitDir, Inspected, LeftOut, Packing, inspect, object_name, pack};
use crate::cli::args::{LinkChoice, PackFormat, Publish};
use crate::cli::context::Context;
use crate::cli::origin::{self, Given, Origin};
use crate::cli::output::{self, Format, clean};
use crate::cli::packing;
use crate::cli::ships::{self, Files};
use crate::cli::store::{self, Location};
use crate::cli::view;
use crate::control::publish::{Candidate, OtherContent, PublishState, Recorded, Recorder};
use crate::control::retention::{self, Pruned};
use crate::control::{Code, Failure};
use crate::document::bytes;
use crate::plan::unpack::LinkPolicy;
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{ArchiveFormat, Build, Place};
use interrupt::StoppableWriter;
use upload::Uploader;

/// How often the progress bar is redrawn: smooth to the eye, and cheap compared with the work.
const REDRAW: Duration = Duration::from_millis(100);
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
    /// The builds removed afterwards; none if every build is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<Pruned>,
}

/// An archive on this machine. An archive that this command packed is removed on drop.
struct Archive {
    path: PathBuf,
    facts: Inspected,
    _packed: Option<NamedTempFile>,
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
/// Exit code 1 if the commit is already published with different content, and after Ctrl-C or SIGTERM; 2 if branch, commit
/// or store are unknown, 7 and 8 as Consul and the store answer.
pub(crate) async fn run(context: &Context, args: &Publish) -> Result<Code, Failure> {
    let place = store::locate(&args.store).await?;
    let origin = find_origin(args).await?;
    say(&origin.source);
    let recorder = Recorder::new(&context.access, &args.app);
    // An unreadable list of builds fails here, before the work of packing and uploading.
    recorder.latest().await?;
    let given = match &args.file {
        Some(path) => Some(read_archive(args, path).await?),
        None => None,
    };
    let stop = CancellationToken::new();
    // From here on, there are files to remove.
    let publish = async {
        let archive = match given {
            Some(archive) => archive,
            None => pack_archive(args, origin.commit_secs, &stop).await?,
        };
        if !args.allow_empty {
            packing::check_not_empty(archive.facts.entries, args.file.as_ref().unwrap_or(&args.dir))?;
        }
        let outcome = publish(&recorder, args, &place, &origin, &archive, &stop).await?;
        recorder.announce(&outcome.build.artifact).await;
        let pruned = match args.keep_builds.or(place.keep_builds) {
            Some(keep) if !stop.is_cancelled() => prune(context, &place, &args.app, keep).await,
            Some(_) | None => None,
        };
        let Outcome { build, already, repaired } = outcome;
        print(context, &Published { app: &args.app, already, repaired, record: &build, pruned })
    };
    // Boxed, because the future of the AWS SDK is large and would be part of every caller's future.
    interrupt::unless_interrupted(&stop, Box::pin(publish)).await?;
    Ok(Code::Done)
}

async fn publish(
    recorder: &Recorder<'_>,
    args: &Publish,
    place: &Location,
    origin: &Origin,
    archive: &Archive,
    stop: &CancellationToken,
) -> Result<Outcome, Failure> {
    let candidate = Candidate {
        branch: origin.branch.clone(),
        tag: origin.tag.clone(),
        pull_request: origin.pull_request.clone(),
        commit: origin.commit.clone(),
        sha256: archive.facts.sha256.clone(),
    };
    let other = if args.rebuild { OtherContent::Rebuild } else { OtherContent::Refuse };
    let files = files(archive).await?;
    for _ in 0..TURNS {
        match recorder.state(&candidate, other).await? {
            PublishState::Published(build) => {
                recorder.restore_latest(&build).await?;
                let store = place.open().await?;
                let uploader = Uploader { recorder, store, app: &args.app, archive, files: &files, stop };
                let repaired = uploader.repair(&build).await?;
                // The build may have been removed meanwhile as an old one. Then it is published anew.
                if recorder.build(&build.artifact).await?.as_ref() == Some(&*build) {
                    return Ok(Outcome { build: *build, already: true, repaired });
                }
            }
            PublishState::Free(name) => {
                recorder.check_allowed(&name).await?;
                let mut build = build(args, origin, &archive.facts, name);
                let store = place.open().await?;
                let before = recorder.newest_before(&build).await?;
                let since = ships::since(&store, &args.app, git_dir(args), &build, before, &files);
                build.since = Some(since.await?);
                build.manifest = files.digest();
                let uploader = Uploader { recorder, store, app: &args.app, archive, files: &files, stop };
                uploader.put_new(&build).await?;
                match recorder.record(build.clone()).await.inspect_err(|_| uploader.tell_unrecorded(&build))? {
                    Recorded::New(build) => return Ok(Outcome { build: *build, already: false, repaired: None }),
                    // The next turn finds the record, or the name that this branch gets instead.
                    Recorded::Taken => {
                        say(&format!("another program took the name {} meanwhile", build.artifact));
                        uploader.discard(&build).await;
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

fn build(args: &Publish, origin: &Origin, facts: &Inspected, artifact: ArtifactName) -> Build {
    let build = Build {
        object: None,
        artifact,
        branch: origin.branch.clone(),
        commit: origin.commit.clone(),
        summary: origin.summary.clone(),
        sha256: facts.sha256.clone(),
        packed_bytes: facts.packed_bytes,
        unpacked_bytes: facts.unpacked_bytes,
        entries: facts.entries,
        format: facts.format,
        profile: args.profile.clone(),
        pull_request: origin.pull_request.clone(),
        tag: origin.tag.clone(),
        place: Place { order: None, ancestors: origin.ancestors.clone() },
        url: origin.url.clone(),
        by: origin.by.clone(),
        id: String::new(),
        at: Timestamp::now(),
        since: None,
        manifest: None,
    };
    Build { object: Some(object_name(&build)), ..build }
}

/// Where git runs. An archive has no checkout around it, so git runs in the working directory.
fn git_dir(args: &Publish) -> PathBuf {
    if args.file.is_some() { PathBuf::from(".") } else { args.dir.clone() }
}

/// The list of the archive's files.
async fn files(archive: &Archive) -> Result<Files, Failure> {
    let manifest = archive.facts.manifest.clone();
    blocking("listing the files of the archive", move || Ok(Files::new(manifest))).await
}

async fn find_origin(args: &Publish) -> Result<Origin, Failure> {
    let given = Given { branch: args.branch.clone(), commit: args.commit.clone() };
    let dir = git_dir(args);
    blocking("finding branch and commit", move || origin::find(&given, &dir, |name| std::env::var(name).ok())).await
}

/// Inspects the given archive.
async fn read_archive(args: &Publish, path: &Path) -> Result<Archive, Failure> {
    say(&format!("reading {}", path.display()));
    let (named, links) = (path.to_owned(), links(args));
    let facts = blocking("reading the archive", move || {
        inspect(&named, links).map_err(|error| Failure::new(Code::Failed, "nothing was published").caused_by(error))
    });
    Ok(Archive { facts: facts.await?, path: path.to_owned(), _packed: None })
}

fn links(args: &Publish) -> LinkPolicy {
    match args.links {
        LinkChoice::Inside => LinkPolicy::Inside,
        LinkChoice::Any => LinkPolicy::Any,
    }
}

/// Packs the directory into a temporary file.
async fn pack_archive(args: &Publish, commit_secs: Option<u64>, stop: &CancellationToken) -> Result<Archive, Failure> {
    let chosen = packing::mtimes(commit_secs, |name| std::env::var(name).ok())?;
    if let Some(note) = &chosen.note {
        say(note);
    }
    let format = match args.format {
        PackFormat::TarGz => ArchiveFormat::TarGz,
        PackFormat::TarZst => ArchiveFormat::TarZst,
    };
    let git = if args.with_git { GitDir::Pack } else { GitDir::LeaveOut };
    let packing = Packing { format, mtimes: chosen.mtimes, links: links(args), git };
    let (dir, read, stop) = (args.dir.clone(), Arc::new(AtomicU64::new(0)), stop.clone());
    let label = format!("packing {}", dir.display());
    let counter = Arc::clone(&read);
    let work = blocking("packing", move || pack_to_file(&dir, &packing, &counter, &stop));
    let packed = shown(&label, None, &read, work).await?;
    if let Some(line) = packing::left_out(&packed.left_out) {
        say(&line);
    }
    Ok(packed.archive)
}

struct PackedDir {
    archive: Archive,
    left_out: LeftOut,
}

fn pack_to_file(
    dir: &Path,
    packing: &Packing,
    read: &AtomicU64,
    stop: &CancellationToken,
) -> Result<PackedDir, Failure> {
    let failed = || Failure::new(Code::Failed, "nothing was published");
    let no_file = |error: std::io::Error| {
        failed()
            .caused_by(error)
            .hint("the archive is packed into a temporary file; set TMPDIR to a directory with enough space")
    };
    let file = tempfile::Builder::new().prefix("cutover-").tempfile().map_err(no_file)?;
    let out = StoppableWriter::new(BufWriter::new(file.as_file()), stop);
    let packed = pack(dir, out, packing, read).map_err(|error| {
        if stop.is_cancelled() { interrupt::interrupted("nothing was published") } else { failed().caused_by(error) }
    })?;
    let facts = Inspected {
        format: packing.format,
        sha256: packed.sha256,
        packed_bytes: packed.packed_bytes,
        unpacked_bytes: packed.unpacked_bytes,
        entries: packed.entries,
        manifest: packed.manifest,
    };
    let archive = Archive { path: file.path().to_owned(), facts, _packed: Some(file) };
    Ok(PackedDir { archive, left_out: packed.left_out })
}

/// Runs blocking work on a thread that may block.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| Failure::new(Code::Failed, format!("{what} failed")).caused_by(error))?
}

/// Runs `work` with a progress bar on a terminal; elsewhere prints one line first.
async fn shown<T, E: Into<Failure>>(
    label: &str,
    total: Option<u64>,
    count: &AtomicU64,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    if !output::talks_to_terminal() {
        say(label);
        return work.await.map_err(Into::into);
    }
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match total {
        Some(_) => "{msg}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}",
        None => "{spinner} {msg}  {bytes}  {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(clean(label));
    let mut redraw = tokio::time::interval(REDRAW);
    tokio::pin!(work);
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            _ = redraw.tick() => bar.set_position(count.load(Ordering::Relaxed)),
        }
    };
    bar.finish_and_clear();
    ended.map_err(Into::into)
}

fn say(line: &str) {
    output::say(&clean(line));
}

fn print(context: &Context, published: &Published<'_>) -> Result<(), Failure> {
    let text = match context.format {
        Format::Json => output::json(published)?,
        Format::Text => {
            let Published { record: build, already, repaired, pruned, .. } = published;
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
                + &pruned.as_ref().map(view::pruned).unwrap_or_default()
        }
    };
    Ok(output::result(&text)?)
}
