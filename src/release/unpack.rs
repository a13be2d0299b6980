//! Unpacks an archive into a directory that exactly matches its build record, or creates no directory.
//!
//! ```text
//! a thread of its own:  source → count → gzip | zstd → tar → plan → mkdir, links ── blocks ─► writer: create, write, mtime
//!                                  └─ pieces ─► digest                             └─ creates files itself while the writer is behind
//! at the end, the same thread: rest of the source, digest
//! ```
//!
//! The directory is new. It and all directories below it are opened without following links, and files are created only where
//! nothing exists: what an earlier entry of the same name has made is removed first. Memory is bounded: 1 MiB of content for the
//! writer, and what [`crate::archive`] says: usually some MB, and 128 MiB more for the decoder of an archive that was made with
//! `zstd --long`.
//!
//! Files keep their permission bits and modification times, whatever the umask. Directories get the time of the unpack, and keep
//! their permission bits, with all rights for the owner. The release itself has mode 0755. Holes of sparse files stay holes.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::archive::{self, Archive, Content, Decoder};
use crate::plan::unpack::{Action, Make, Replaced, Totals, UnpackPlan, shown};
use crate::plan::verify::Listed;

use super::confine;
use super::control::{Control, Expected};
use super::list::ListWriter;
use super::removal;
use super::source::Source;
use super::tree::Tree;
use super::unpack_error::UnpackError;
use super::writer::{End, Files, NewFile, Stopped};

/// The result of an unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes and entries of the archive.
    pub totals: Totals,
}

/// Unpacks `source` into `dir`, which must not exist yet.
///
/// Reads `source` to its end. The caller makes the result durable.
///
/// # Errors
///
/// [`UnpackError`]; `dir` then does not exist, unless it existed before.
pub fn unpack(
    source: impl Read + Send,
    dir: &Path,
    expected: &Expected<'_>,
    control: &Control,
) -> Result<Unpacked, UnpackError> {
    unpack_and_list(source, dir, expected, control, None)
}

/// As [`unpack`], and adds everything to `list`.
pub(super) fn unpack_and_list(
    source: impl Read + Send,
    dir: &Path,
    expected: &Expected<'_>,
    control: &Control,
    list: Option<&ListWriter>,
) -> Result<Unpacked, UnpackError> {
    let failed = |source| UnpackError::Directory { path: dir.display().to_string(), source };
    fs::DirBuilder::new().mode(0o755).create(dir).map_err(failed)?;
    let unpacked = confine::beneath(dir, || {
        Tree::open(dir).map_err(failed).and_then(|tree| unpack_into(source, tree, expected, control, list))
    });
    if unpacked.is_err()
        && let Err(stays) = removal::remove_tree(dir)
    {
        let (path, reason) = (stays.path.display(), stays.reason());
        tracing::warn!(%path, %reason, "cannot remove {path} of an unfinished unpack: {reason}");
    }
    unpacked
}

fn unpack_into(
    source: impl Read,
    mut tree: Tree,
    expected: &Expected<'_>,
    control: &Control,
    list: Option<&ListWriter>,
) -> Result<Unpacked, UnpackError> {
    let source = Source::new(source, expected.packed_bytes, control).map_err(UnpackError::Thread)?;
    let mut archive = Archive::new(Decoder::new(source).map_err(UnpackError::Source)?);
    let mut plan = UnpackPlan::new(expected.limits, expected.links);
    let failed = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let modes = tree.modes();
        let mut files = Files::start(scope, modes, control, &failed, list).map_err(UnpackError::Thread)?;
        let parsed = archive::read(&mut archive, &mut plan, |action, content| {
            carry_out(action, content, &mut tree, &mut files, list)
        });
        // A writer's error is the cause. The parser only reports that it was stopped.
        let finished = files.finish();
        match parsed {
            Ok(totals) => finished.map(|()| totals),
            Err(UnpackError::Writer) => finished.and(Err(UnpackError::Writer)),
            Err(error) => Err(error),
        }
    });
    let written = written.and_then(|totals| match totals.entries {
        0 if expected.limits.entries > 0 => Err(UnpackError::Archive("it is empty".to_owned())),
        _ => Ok(Unpacked { totals }),
    });
    archive.into_inner().into_source().ok_or(UnpackError::Writer)?.verify(expected, written)
}

/// Carries out one action of the plan: directories and links at once, files by [`Files`].
fn carry_out<R: Read>(
    action: Action,
    content: Content<'_, R>,
    tree: &mut Tree,
    files: &mut Files<'_, '_>,
    list: Option<&ListWriter>,
) -> Result<(), UnpackError> {
    let Action { path, replaces, make } = action;
    let failed = |source| UnpackError::Write { path: shown(&path), source };
    let needs_earlier_files = replaces != Replaced::Nothing || matches!(make, Make::Hardlink { .. });
    if needs_earlier_files {
        files.drain().map_err(stopped)?;
    }
    match replaces {
        Replaced::Nothing => {}
        Replaced::File => tree.remove_file(&path).map_err(failed)?,
        Replaced::EmptyDirectory => tree.remove_dir(&path).map_err(failed)?,
    }
    match make {
        Make::Directory { mode } => {
            tree.directory(&path, mode).map_err(failed)?;
            if let Some(list) = list {
                list.add(&path, &Listed::Directory { mode });
            }
            Ok(())
        }
        Make::Symlink { target } => {
            tree.symlink(&path, &target).map_err(failed)?;
            if let Some(list) = list {
                list.add(&path, &Listed::Symlink { target });
            }
            Ok(())
        }
        Make::Hardlink { target } => {
            tree.hardlink(&path, &target).map_err(failed)?;
            list.map_or(Ok(()), |list| tree.list(&path, list)).map_err(failed)
        }
        Make::File { mode } => {
            let dir = tree.parent(&path).map_err(failed)?;
            let bytes = content.size;
            files.open(NewFile { dir, path, mode, mtime: content.mtime, bytes }).map_err(stopped)?;
            pass_on(content, files)
        }
    }
}

/// Passes the content of the current file on.
fn pass_on<R: Read>(mut content: Content<'_, R>, files: &mut Files<'_, '_>) -> Result<(), UnpackError> {
    let mut at = 0_u64;
    while let Some(part) = content.next_part() {
        if part.offset != at {
            files.seek(part.offset).map_err(stopped)?;
        }
        let mut left = part.len;
        while left > 0 {
            let room = files.room().map_err(stopped)?;
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            let n = content.read(room.get_mut(..most).unwrap_or_default())?;
            files.filled(n).map_err(stopped)?;
            left = left.saturating_sub(n.try_into().unwrap_or(u64::MAX));
        }
        at = part.offset.saturating_add(part.len);
    }
    let end = if at == content.size { End::Written } else { End::At(content.size) };
    files.close(end).map_err(stopped)
}

fn stopped(_: Stopped) -> UnpackError {
    UnpackError::Writer
}
