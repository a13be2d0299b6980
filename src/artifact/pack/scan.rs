//! Reads a directory before it is packed: everything that can be refused is refused here, before a byte is uploaded.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::Digest;

use super::digests::{Digested, Queue, Wanted, digest_all};
use super::source::{Stamp, Sums, Watch};
use super::{Content, Entry, Mtimes, PackError, Packing, Tree};
use crate::artifact::digest::sha256_id;
use crate::artifact::ignore::{IGNORE_FILE, Ignore, LeftOut};
use crate::plan::unpack::{Header, Kind, Limits, Make, Totals, UnpackPlan};
use crate::protocol::ids::Sha256;

impl Tree {
    /// Reads a directory; blocking: names and kinds on this thread, the content of every file on all cores.
    ///
    /// # Errors
    ///
    /// [`PackError`]: something cannot be read, changed meanwhile, or would be refused by a node.
    pub fn scan(dir: &Path, packing: &Packing, watch: Watch<'_>) -> Result<Self, PackError> {
        let read = |path: &Path, source| PackError::Read { path: path.to_owned(), source };
        if !fs::metadata(dir).map_err(|e| read(dir, e))?.is_dir() {
            return Err(PackError::NotADirectory { path: dir.to_owned() });
        }
        let ignore = Ignore::read(dir, packing.git).map_err(|e| read(&dir.join(IGNORE_FILE), e))?;
        let walked = digest_all(dir, watch, |queue| walk(dir, packing, ignore, watch, queue))?;
        let Found { mut entries, totals, left_out } = walked.found;
        for Digested { index, sums: found } in walked.digests {
            if let Some(Entry { content: Content::File { sums, .. }, .. }) = entries.get_mut(index) {
                *sums = found;
            }
        }
        let digest = digest(&entries);
        Ok(Self { dir: dir.to_owned(), entries, totals, left_out, digest })
    }
}

/// What a walk through a directory finds.
struct Found {
    /// Without the digests of files.
    entries: Vec<Entry>,
    totals: Totals,
    left_out: LeftOut,
}

/// Walks through the directory, and sends each file as soon as it is found.
fn walk(
    dir: &Path,
    packing: &Packing,
    mut ignore: Ignore,
    watch: Watch<'_>,
    queue: &Queue<'_>,
) -> Result<Found, PackError> {
    let mut plan = UnpackPlan::new(Limits::NONE, packing.links);
    let mut entries = Vec::new();
    // A stack of the remaining paths under `dir`, instead of a recursion, because trees can be deep.
    let mut waiting = children_in_reverse(dir, Path::new(""))?;
    while let Some(inner) = waiting.pop() {
        if watch.stop.is_cancelled() {
            return Err(PackError::Stopped);
        }
        let path = dir.join(&inner);
        let metadata = fs::symlink_metadata(&path).map_err(|source| PackError::Read { path: path.clone(), source })?;
        if ignore.leaves_out(&inner, metadata.is_dir()) {
            continue;
        }
        if metadata.is_dir() {
            waiting.extend(children_in_reverse(dir, &inner)?);
        }
        let Some(entry) = entry(&path, inner, &metadata, packing.mtimes, &mut plan)? else { continue };
        if let Content::File { stamp, .. } = entry.content {
            queue.add(Wanted { index: entries.len(), inner: entry.inner.clone(), stamp })?;
        }
        entries.push(entry);
    }
    Ok(Found { entries, totals: plan.finish()?, left_out: ignore.into_left_out() })
}

/// The entry for the file, directory or link at `path`, as the plan of the nodes decides about it.
fn entry(
    path: &Path,
    inner: PathBuf,
    metadata: &Metadata,
    mtimes: Mtimes,
    plan: &mut UnpackPlan,
) -> Result<Option<Entry>, PackError> {
    let of = metadata.file_type();
    let (kind, content, size) = if of.is_dir() {
        (Kind::Directory, Content::Directory, 0)
    } else if of.is_symlink() {
        let target = fs::read_link(path).map_err(|source| PackError::Read { path: path.to_owned(), source })?;
        (Kind::Symlink, Content::Symlink(target.into_os_string().into_vec()), 0)
    } else if of.is_file() {
        let stamp = Stamp::of(metadata);
        (Kind::File, Content::File { stamp, sums: Sums::default() }, stamp.bytes)
    } else {
        return Err(PackError::Special { path: path.to_owned(), what: special(of) });
    };
    let target: &[u8] = if let Content::Symlink(target) = &content { target } else { b"" };
    let mode = metadata.permissions().mode();
    let Some(action) = plan.entry(&Header { path: inner.as_os_str().as_bytes(), kind, size, mode, target })? else {
        return Ok(None);
    };
    let mode = match action.make {
        Make::Directory { mode } | Make::File { mode } => mode,
        Make::Hardlink { .. } => 0o644,
        Make::Symlink { .. } => 0o777,
    };
    let mtime_secs = match mtimes {
        Mtimes::All(secs) => secs,
        Mtimes::Own => u64::try_from(metadata.mtime()).unwrap_or_default(),
    };
    Ok(Some(Entry { inner, mode, mtime_secs, content }))
}

/// The content of a directory, as paths under `dir`, in reverse order of names.
fn children_in_reverse(dir: &Path, inner: &Path) -> Result<Vec<PathBuf>, PackError> {
    let path = dir.join(inner);
    let read = |source| PackError::Read { path: path.clone(), source };
    let names: io::Result<Vec<_>> = fs::read_dir(&path).map_err(read)?.map(|e| e.map(|e| e.file_name())).collect();
    let mut names = names.map_err(read)?;
    // `OsString` compares by bytes on Unix.
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names.into_iter().map(|name| inner.join(name)).collect())
}

fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    }
}

/// The digest of a tree. Every field has a fixed length, or its length before it, so no two trees give the same input.
fn digest(entries: &[Entry]) -> Sha256 {
    let mut hasher = sha2::Sha256::new();
    let mut sized = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    for entry in entries {
        sized(entry.inner.as_os_str().as_bytes());
        sized(&entry.mode.to_be_bytes());
        sized(&entry.mtime_secs.to_be_bytes());
        match &entry.content {
            Content::Directory => sized(b"directory"),
            Content::File { stamp, sums } => {
                sized(b"file");
                sized(&stamp.bytes.to_be_bytes());
                sized(&sums.sha256);
            }
            Content::Symlink(target) => {
                sized(b"symlink");
                sized(target);
            }
        }
    }
    sha256_id(hasher)
}
