//! Unpacks an archive into a directory that exactly matches its build record, or creates no directory.
//!
//! ```text
//! caller's thread: source → count, digest → gzip | zstd → tar → plan → mkdir ─┬─ blocks ─► writer 1: create, write, mtime
//!                                                                              └─ blocks ─► writer 2 …
//! at the end, caller's thread: rest of the source, digest, links
//! ```
//!
//! The directory is new. It and all directories below it are opened without following links, files are created only where
//! nothing exists, and links are created after everything else is written. Memory is bounded: 1 MiB of content for a writer,
//! the decoder's window (8 MiB at most), and a few dozen bytes for each entry.
//!
//! Files keep their modification times. Directories get the time of the unpack, and mode 0755.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, Mode, fchmod, linkat, mkdirat, symlinkat};
use rustix::io::Errno;

use crate::plan::unpack::{Action, Header, Totals, UnpackPlan};

use super::archive::Archive;
use super::control::{Control, Expected};
use super::files;
use super::source::{Decoder, Source};
use super::unpack_error::UnpackError;
use super::writer::{Modes, NewFile, Stopped, Writers};

/// Writer threads for one unpack. A second one gains 5 to 12 % with many small files, but takes a core from the application
/// that the node serves.
pub(crate) const DEFAULT_WRITERS: usize = 1;

/// The result of an unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes and entries of the archive.
    pub totals: Totals,
}

/// A link of the archive. Links are created after all files, so that no file is written through one.
struct Link {
    path: String,
    target: String,
    kind: LinkKind,
}

enum LinkKind {
    Hard,
    Symbolic,
}

/// Unpacks `source` into `dir`, which must not exist yet, with `writers` additional threads.
///
/// Reads `source` to its end. The caller makes the result durable.
///
/// # Errors
///
/// [`UnpackError`]; `dir` then does not exist, unless it existed before.
pub fn unpack(
    source: impl Read,
    dir: &Path,
    expected: &Expected<'_>,
    writers: usize,
    control: &Control,
) -> Result<Unpacked, UnpackError> {
    let failed = |source| UnpackError::Directory { path: dir.display().to_string(), source };
    fs::DirBuilder::new().mode(0o755).create(dir).map_err(failed)?;
    let unpacked =
        Tree::open(dir).map_err(failed).and_then(|tree| unpack_into(source, tree, expected, writers, control));
    if unpacked.is_err()
        && let Err(error) = files::remove_tree(dir)
    {
        let path = dir.display();
        tracing::warn!(%path, %error, "cannot remove the unfinished unpack {path}: {error}");
    }
    unpacked
}

fn unpack_into(
    source: impl Read,
    mut tree: Tree,
    expected: &Expected<'_>,
    writers: usize,
    control: &Control,
) -> Result<Unpacked, UnpackError> {
    let source = Source::new(source, expected.packed_bytes, control);
    let mut archive = Archive::new(Decoder::new(source).map_err(UnpackError::Source)?);
    let mut plan = UnpackPlan::new(expected.limits);
    let failed = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let modes = tree.modes;
        let mut writers = Writers::start(scope, writers, modes, control, &failed).map_err(|_| UnpackError::Writer)?;
        let parsed = write_files(&mut archive, &mut plan, &mut tree, &mut writers);
        // A writer's error is the cause. The parser only reports that it was stopped.
        let finished = writers.finish();
        match parsed {
            Ok(links) => finished.map(|()| links),
            Err(UnpackError::Writer) => finished.and(Err(UnpackError::Writer)),
            Err(error) => Err(error),
        }
    });
    let links = archive.into_inner().into_source().verify(expected, written)?;
    for link in links {
        tree.link(&link).map_err(|source| UnpackError::Write { path: link.path, source })?;
    }
    Ok(Unpacked { totals: plan.totals() })
}

/// Reads the archive to its end, creates directories, and passes files to the writers. Returns the links.
fn write_files<R: Read>(
    archive: &mut Archive<R>,
    plan: &mut UnpackPlan,
    tree: &mut Tree,
    writers: &mut Writers<'_, '_>,
) -> Result<Vec<Link>, UnpackError> {
    let stopped = |Stopped| UnpackError::Writer;
    let mut links = Vec::new();
    while let Some(entry) = archive.next()? {
        let header =
            Header { path: &entry.path, kind: entry.kind, size: entry.size, mode: entry.mode, target: &entry.target };
        match plan.entry(&header)? {
            Action::Root => {}
            Action::Directory { path } => {
                tree.enter(&path).map_err(|source| UnpackError::Write { path, source })?;
            }
            Action::Symlink { path, target } => links.push(Link { path, target, kind: LinkKind::Symbolic }),
            Action::Hardlink { path, target } => links.push(Link { path, target, kind: LinkKind::Hard }),
            Action::File { path, mode } => {
                let dir = match tree.enter(split(&path).0) {
                    Ok(dir) => dir,
                    Err(source) => return Err(UnpackError::Write { path, source }),
                };
                writers.open(NewFile { dir, path, mode, mtime: entry.mtime }).map_err(stopped)?;
                let mut left = entry.size;
                while left > 0 {
                    let n = archive.read(writers.room().map_err(stopped)?)?;
                    writers.filled(n).map_err(stopped)?;
                    left = left.saturating_sub(n.try_into().unwrap_or(u64::MAX));
                }
                writers.close().map_err(stopped)?;
            }
        }
    }
    if plan.totals().entries == 0 {
        return Err(UnpackError::Archive("it is empty".to_owned()));
    }
    Ok(links)
}

/// A clean path's directory and last component.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The directories of the release. Those on the path to the last used one are kept open.
struct Tree {
    root: Arc<OwnedFd>,
    open: Vec<(String, Arc<OwnedFd>)>,
    modes: Modes,
}

impl Tree {
    fn open(dir: &Path) -> io::Result<Self> {
        let root = files::open_dir(dir)?;
        // The directory was just created with mode 0755. Missing bits were removed by umask or ACL.
        let kept = fs::symlink_metadata(dir)?.permissions().mode() & 0o777;
        let modes = if kept == 0o755 { Modes::AsCreated } else { Modes::Set };
        if modes == Modes::Set {
            fchmod(&root, Mode::from_raw_mode(0o755))?;
        }
        Ok(Self { root: Arc::new(root), open: Vec::new(), modes })
    }

    /// Opens a directory of the release, and creates the missing directories on its path.
    fn enter(&mut self, path: &str) -> io::Result<Arc<OwnedFd>> {
        let parts = || path.split('/').filter(|part| !part.is_empty());
        let shared = self.open.iter().zip(parts()).take_while(|((name, _), part)| name == part).count();
        self.open.truncate(shared);
        for part in parts().skip(shared) {
            let parent = self.open.last().map_or(&self.root, |(_, dir)| dir);
            let made = match mkdirat(parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let dir = files::open_dir_at(parent, part)?;
            if made && self.modes == Modes::Set {
                fchmod(&dir, Mode::from_raw_mode(0o755))?;
            }
            self.open.push((part.to_owned(), Arc::new(dir)));
        }
        Ok(Arc::clone(self.open.last().map_or(&self.root, |(_, dir)| dir)))
    }

    fn link(&mut self, link: &Link) -> io::Result<()> {
        let (parent, name) = split(&link.path);
        let dir = self.enter(parent)?;
        match link.kind {
            LinkKind::Symbolic => symlinkat(&*link.target, &dir, name)?,
            LinkKind::Hard => {
                let (target_parent, target_name) = split(&link.target);
                let target_dir = self.enter(target_parent)?;
                linkat(&target_dir, target_name, &dir, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}
