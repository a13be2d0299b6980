//! What a build is made of: a directory, which is packed when its archive is needed, or a finished archive.

use std::cell::OnceCell;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tempfile::NamedTempFile;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::interrupt::interrupted;
use super::progress::{Progress, blocking, shown};
use super::say;
use crate::artifact::store::Spool;
use crate::artifact::{GitDir, PackError, Packed, Packing, Tree, Watch, inspect};
use crate::cli::args::{LinkChoice, PackFormat, Publish};
use crate::cli::packing;
use crate::cli::ships::Listing;
use crate::control::{self, Code, Failure};
use crate::plan::unpack::{LinkPolicy, Totals};
use crate::protocol::ids::Sha256;
use crate::protocol::record::ArchiveFormat;

const SPACE_HINT: &str = "the archive is packed into a temporary file; set TMPDIR to a directory with enough space";

/// Bytes written to the archive's file at once.
const WRITE_BYTES: usize = 256 << 10;

/// A directory or an archive that was read, and that the nodes accept.
pub(super) struct Source {
    pub(super) totals: Totals,
    /// The format of the archive that is published.
    pub(super) format: ArchiveFormat,
    pub(super) listing: Listing,
    content: Content,
}

enum Content {
    Archive(Archive),
    Dir(Dir),
}

/// A complete archive on this machine. One that this command packed is removed on drop.
pub(super) struct Archive {
    pub(super) path: PathBuf,
    pub(super) sha256: Sha256,
    pub(super) packed_bytes: u64,
    _packed: Option<NamedTempFile>,
}

impl Archive {
    pub(super) fn packed(&self) -> Packed {
        Packed { sha256: self.sha256.clone(), packed_bytes: self.packed_bytes }
    }
}

/// A directory, with its archive in each format that was needed so far.
pub(super) struct Dir {
    tree: Arc<Tree>,
    gz: OnceCell<Archive>,
    zst: OnceCell<Archive>,
}

/// How far the archive for a store is.
pub(super) enum Stage<'a> {
    Complete(&'a Archive),
    /// Only the directory is there.
    Unpacked(&'a Dir),
}

/// An archive that is being packed on a thread of its own.
pub(super) struct Running {
    /// The archive as it grows.
    pub(super) spool: Spool,
    /// Bytes of the directory that are packed.
    pub(super) read: Arc<AtomicU64>,
    file: NamedTempFile,
    ended: JoinHandle<Result<Packed, Failure>>,
}

impl Source {
    /// Reads the directory or the archive of the command line.
    ///
    /// # Errors
    ///
    /// Exit code 1 if it cannot be read, or a node would refuse it, or it is empty and may not be.
    pub(super) async fn read(
        args: &Publish,
        commit_secs: Option<u64>,
        stop: &CancellationToken,
    ) -> Result<Self, Failure> {
        let source = match &args.file {
            Some(path) => Self::read_archive(args, path).await?,
            None => Self::scan(args, commit_secs, stop).await?,
        };
        if !args.allow_empty {
            packing::check_not_empty(source.totals.entries, args.file.as_ref().unwrap_or(&args.dir))?;
        }
        Ok(source)
    }

    async fn read_archive(args: &Publish, path: &Path) -> Result<Self, Failure> {
        say(&format!("reading {}", path.display()));
        let (named, links) = (path.to_owned(), links(args));
        let work = move || inspect(&named, links).map_err(|error| nothing_published().caused_by(error));
        let facts = blocking("reading the archive", work).await?;
        let content = Content::Archive(Archive {
            path: path.to_owned(),
            sha256: facts.sha256,
            packed_bytes: facts.packed_bytes,
            _packed: None,
        });
        let totals = Totals { bytes: facts.unpacked_bytes, entries: facts.entries };
        Ok(Self { totals, format: facts.format, listing: Listing::new(facts.manifest), content })
    }

    async fn scan(args: &Publish, commit_secs: Option<u64>, stop: &CancellationToken) -> Result<Self, Failure> {
        let chosen = packing::mtimes(commit_secs, |name| std::env::var(name).ok())?;
        if let Some(note) = &chosen.note {
            say(note);
        }
        let git = if args.with_git { GitDir::Pack } else { GitDir::LeaveOut };
        let packing = Packing { mtimes: chosen.mtimes, links: links(args), git };
        let (read, label) = (Arc::new(AtomicU64::new(0)), format!("reading {}", args.dir.display()));
        let (dir, counter, stop) = (args.dir.clone(), Arc::clone(&read), stop.clone());
        let work = blocking("reading the directory", move || {
            Tree::scan(&dir, &packing, Watch { read: &counter, stop: &stop }).map_err(not_packed)
        });
        let progress = || Progress::new(&label, &read, None);
        let tree = shown(progress, work).await?;
        if let Some(line) = packing::left_out(tree.left_out()) {
            say(&line);
        }
        let format = match args.format {
            PackFormat::TarGz => ArchiveFormat::TarGz,
            PackFormat::TarZst => ArchiveFormat::TarZst,
        };
        let (totals, listing) = (tree.totals(), Listing::new(tree.manifest()));
        let content = Content::Dir(Dir { tree: Arc::new(tree), gz: OnceCell::new(), zst: OnceCell::new() });
        Ok(Self { totals, format, listing, content })
    }

    /// What is known of the content before a directory is packed.
    pub(super) fn content(&self) -> control::publish::Content {
        let sha256 = match &self.content {
            Content::Archive(archive) => Some(archive.sha256.clone()),
            Content::Dir(_) => None,
        };
        control::publish::Content { tree: self.tree().cloned(), sha256 }
    }

    /// The digest of the directory; none for an archive.
    pub(super) fn tree(&self) -> Option<&Sha256> {
        match &self.content {
            Content::Archive(_) => None,
            Content::Dir(dir) => Some(dir.tree.digest()),
        }
    }

    /// The digest in the name of the object: the archive's own, or the one that stands for an archive that is not packed yet.
    pub(super) fn name_digest(&self, format: ArchiveFormat) -> Sha256 {
        match &self.content {
            Content::Archive(archive) => archive.sha256.clone(),
            Content::Dir(dir) => dir.tree.archive_digest(format),
        }
    }

    /// The format of the archive that compares with one in `format`: a directory can be packed into each.
    pub(super) const fn format_like(&self, format: ArchiveFormat) -> ArchiveFormat {
        match &self.content {
            Content::Archive(_) => self.format,
            Content::Dir(_) => format,
        }
    }

    /// How far the archive in this format is. An archive that was not packed here has only its own format.
    pub(super) fn stage(&self, format: ArchiveFormat) -> Stage<'_> {
        match &self.content {
            Content::Archive(archive) => Stage::Complete(archive),
            Content::Dir(dir) => dir.archive(format).get().map_or(Stage::Unpacked(dir), Stage::Complete),
        }
    }

    /// The archive in this format, which is packed now if it was not before.
    ///
    /// # Errors
    ///
    /// Exit code 1.
    pub(super) async fn complete(&self, format: ArchiveFormat, stop: &CancellationToken) -> Result<&Archive, Failure> {
        let dir = match self.stage(format) {
            Stage::Complete(archive) => return Ok(archive),
            Stage::Unpacked(dir) => dir,
        };
        let running = dir.pack(format, stop)?;
        let (read, label) = (Arc::clone(&running.read), format!("packing {}", dir.place()));
        let progress = || Progress::new(&label, &read, Some(self.totals.bytes));
        let archive = shown(progress, running.end()).await?;
        Ok(dir.keep(format, archive))
    }
}

impl Dir {
    pub(super) fn place(&self) -> String {
        self.tree.dir().display().to_string()
    }

    pub(super) fn digest(&self) -> &Sha256 {
        self.tree.digest()
    }

    const fn archive(&self, format: ArchiveFormat) -> &OnceCell<Archive> {
        match format {
            ArchiveFormat::TarGz => &self.gz,
            ArchiveFormat::TarZst => &self.zst,
        }
    }

    /// Begins to pack the directory into a temporary file. If `stop` is cancelled, the result is an error.
    ///
    /// # Errors
    ///
    /// Exit code 1 if there can be no temporary file.
    pub(super) fn pack(&self, format: ArchiveFormat, stop: &CancellationToken) -> Result<Running, Failure> {
        let file = tempfile::Builder::new().prefix("cutover-").tempfile().map_err(no_file)?;
        let written = file.reopen().map_err(no_file)?;
        let (spool, mut writer) = Spool::growing(file.path(), written, self.tree.most_packed_bytes());
        let (tree, read, stop) = (Arc::clone(&self.tree), Arc::new(AtomicU64::new(0)), stop.clone());
        let counter = Arc::clone(&read);
        let ended = tokio::task::spawn_blocking(move || {
            let watch = Watch { read: &counter, stop: &stop };
            let packed = tree.pack(format, BufWriter::with_capacity(WRITE_BYTES, &mut writer), watch);
            let packed = packed.map_err(not_packed)?;
            writer.finish();
            Ok(packed)
        });
        Ok(Running { spool, read, file, ended })
    }

    /// Keeps an archive for the next use.
    pub(super) fn keep(&self, format: ArchiveFormat, archive: Archive) -> &Archive {
        self.archive(format).get_or_init(|| archive)
    }
}

impl Running {
    /// Waits for the end of packing.
    pub(super) async fn end(self) -> Result<Archive, Failure> {
        let Self { file, ended, .. } = self;
        let ended = ended.await.map_err(|error| Failure::new(Code::Failed, "packing failed").caused_by(error))?;
        let Packed { sha256, packed_bytes } = ended?;
        Ok(Archive { path: file.path().to_owned(), sha256, packed_bytes, _packed: Some(file) })
    }
}

fn links(args: &Publish) -> LinkPolicy {
    match args.links {
        LinkChoice::Inside => LinkPolicy::Inside,
        LinkChoice::Any => LinkPolicy::Any,
    }
}

fn nothing_published() -> Failure {
    Failure::new(Code::Failed, "nothing was published")
}

fn not_packed(error: PackError) -> Failure {
    match error {
        PackError::Stopped => interrupted("nothing was published"),
        PackError::Write { .. } => nothing_published().caused_by(error).hint(SPACE_HINT),
        error => nothing_published().caused_by(error),
    }
}

fn no_file(error: io::Error) -> Failure {
    nothing_published().caused_by(error).hint(SPACE_HINT)
}
