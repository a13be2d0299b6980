//! Packs a directory into an archive: the same tree gives the same bytes.
//!
//! All archives of a tree are identical, on every machine and at any time:
//!
//! - entries are sorted by the bytes of their names, each directory before its content; the packed directory itself has no entry;
//! - owner and group are 0 without names; the mode is 0755 for directories and executable files, and 0644 for other files,
//!   independent of the umask;
//! - all entries have the same modification time, which the caller sets. It should be the commit's time: web servers derive
//!   `ETag` and `Last-Modified` from time and size, so with one constant for all builds browsers could keep an old page of the
//!   same size, and with the time of packing two archives of one commit would differ;
//! - the compressor has a fixed level, one thread, and no time or name in its header. Another version of the
//!   compressor may still give other bytes.
//!
//! Symbolic links are kept; links that point outside the directory are refused, because every node would refuse them. Hard links
//! become separate files, empty directories are kept, names need not be UTF-8. `.git` is packed like any other directory.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Compression, GzBuilder};
use sha2::Digest;
use tar::{Builder, EntryType, Header};

use crate::kind::HasKind;
use crate::protocol::ids::Sha256;
use crate::protocol::record::ArchiveFormat;

/// 1980-01-01 in seconds since 1970: the default time of entries. GNU tar warns about 1970 ("implausibly old"), and zip does
/// not support times before 1980.
pub const DEFAULT_MTIME_SECS: u64 = 315_532_800;

/// gzip's own default: level 9 costs three times as much for 1 % less.
const GZIP_LEVEL: u32 = 6;

/// Zstandard's own default: smaller and several times faster than gzip's.
const ZSTD_LEVEL: i32 = 3;

/// The operating system in a gzip header: always "unknown" (RFC 1952, 2.3.1).
const GZIP_OS_UNKNOWN: u8 = 255;

/// The result of packing, for the build record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the archive's bytes.
    pub sha256: Sha256,
    /// Size of the archive.
    pub packed_bytes: u64,
    /// As `Build::unpacked_bytes`.
    pub unpacked_bytes: u64,
    /// As `Build::entries`.
    pub entries: u64,
}

/// Why a directory was not packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file changed during packing.
    #[error("{} changed while it was packed; publish after the build has finished", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A link that every node would refuse.
    #[error(
        "the link {} points to {}, outside the packed directory; make it relative, or remove it",
        path.display(),
        target.display()
    )]
    LinkOutside {
        /// The link.
        path: PathBuf,
        /// The target of the link.
        target: PathBuf,
    },
    /// The given path is not a directory.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The error of the filesystem.
        source: io::Error,
    },
    /// A file of a kind that a release cannot contain.
    #[error("{} is a {what}; only files, directories and links can be packed", path.display())]
    Special {
        /// The file.
        path: PathBuf,
        /// The kind of file, for example "socket".
        what: &'static str,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive at {}", path.display())]
    Write {
        /// The entry that was being written.
        path: PathBuf,
        /// The error of the output.
        source: io::Error,
    },
}

impl HasKind for PackError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::LinkOutside { .. } => "link_outside",
            Self::NotADirectory { .. } => "not_a_directory",
            Self::Read { .. } => "read",
            Self::Special { .. } => "special_file",
            Self::Write { .. } => "write",
        }
    }
}

/// Packs the content of `dir` into `out`; blocking. `progress` counts the bytes read.
///
/// `mtime_secs` is the modification time of every entry in seconds since 1970: the commit's time if known, else
/// [`DEFAULT_MTIME_SECS`].
///
/// # Errors
///
/// [`PackError`]; discard `out` then.
pub fn pack(
    dir: &Path,
    out: impl Write,
    format: ArchiveFormat,
    mtime_secs: u64,
    progress: &AtomicU64,
) -> Result<Packed, PackError> {
    let failed = |source| PackError::Write { path: dir.to_owned(), source };
    let out = HashingWriter { inner: out, hasher: sha2::Sha256::new(), bytes: 0 };
    let (counted, mut out) = match format {
        ArchiveFormat::TarGz => {
            let gzip = GzBuilder::new().mtime(0).operating_system(GZIP_OS_UNKNOWN);
            let (counted, gzip) = write_tar(dir, gzip.write(out, Compression::new(GZIP_LEVEL)), mtime_secs, progress)?;
            (counted, gzip.finish().map_err(failed)?)
        }
        ArchiveFormat::TarZst => {
            let mut zstd = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?;
            zstd.include_checksum(true).map_err(failed)?;
            let (counted, zstd) = write_tar(dir, zstd, mtime_secs, progress)?;
            (counted, zstd.finish().map_err(failed)?)
        }
    };
    out.flush().map_err(failed)?;
    Ok(Packed {
        sha256: sha256_id(out.hasher),
        packed_bytes: out.bytes,
        unpacked_bytes: counted.unpacked_bytes,
        entries: counted.entries,
    })
}

/// Converts a finished digest to the type of records.
pub(super) fn sha256_id(hasher: sha2::Sha256) -> Sha256 {
    #[expect(clippy::expect_used, reason = "32 bytes are 64 lower-case hex digits")]
    hex::encode(hasher.finalize()).parse().expect("a digest is a digest")
}

#[derive(Default)]
struct Counted {
    unpacked_bytes: u64,
    entries: u64,
}

fn write_tar<W: Write>(dir: &Path, out: W, mtime_secs: u64, progress: &AtomicU64) -> Result<(Counted, W), PackError> {
    let read = |path: &Path, source| PackError::Read { path: path.to_owned(), source };
    if !fs::metadata(dir).map_err(|e| read(dir, e))?.is_dir() {
        return Err(PackError::NotADirectory { path: dir.to_owned() });
    }
    let mut tar = Builder::new(out);
    let mut counted = Counted::default();
    // A stack of the remaining paths under `dir`, instead of a recursion, because trees can be deep.
    let mut waiting = children_in_reverse(dir, Path::new(""))?;
    while let Some(inner) = waiting.pop() {
        let path = dir.join(&inner);
        let metadata = fs::symlink_metadata(&path).map_err(|e| read(&path, e))?;
        let kind = metadata.file_type();
        let written = |source| PackError::Write { path: path.clone(), source };
        if kind.is_dir() {
            let mut header = header(EntryType::Directory, 0o755, 0, mtime_secs);
            // Joining an empty name adds the trailing slash of directories in tar.
            tar.append_data(&mut header, inner.join(""), io::empty()).map_err(written)?;
            waiting.extend(children_in_reverse(dir, &inner)?);
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(|e| read(&path, e))?;
            if !stays_inside(&inner, &target) {
                return Err(PackError::LinkOutside { path, target });
            }
            let mut header = header(EntryType::Symlink, 0o777, 0, mtime_secs);
            tar.append_link(&mut header, &inner, &target).map_err(written)?;
        } else if kind.is_file() {
            counted.unpacked_bytes += append_file(&mut tar, &path, &inner, mtime_secs, progress)?;
        } else {
            return Err(PackError::Special { path, what: special(kind) });
        }
        counted.entries += 1;
    }
    let out = tar.into_inner().map_err(|source| PackError::Write { path: dir.to_owned(), source })?;
    Ok((counted, out))
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

fn header(kind: EntryType, mode: u32, size_bytes: u64, mtime_secs: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime_secs);
    header.set_size(size_bytes);
    header
}

fn append_file<W: Write>(
    tar: &mut Builder<W>,
    path: &Path,
    inner: &Path,
    mtime_secs: u64,
    progress: &AtomicU64,
) -> Result<u64, PackError> {
    let read = |source| PackError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let before = file.metadata().map_err(read)?;
    if !before.is_file() {
        // The file was replaced between reading its metadata and opening it.
        return Err(PackError::Changed { path: path.to_owned() });
    }
    let mode = if before.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
    let mut header = header(EntryType::Regular, mode, before.len(), mtime_secs);
    let mut exact = ExactReader { file: &file, left: before.len(), fault: None, progress };
    let appended = tar.append_data(&mut header, inner, &mut exact);
    match exact.fault {
        Some(Fault::Changed) => return Err(PackError::Changed { path: path.to_owned() }),
        Some(Fault::Read(source)) => return Err(read(source)),
        None => appended.map_err(|source| PackError::Write { path: path.to_owned(), source })?,
    }
    if !same_content(&before, &file.metadata().map_err(read)?) {
        return Err(PackError::Changed { path: path.to_owned() });
    }
    Ok(before.len())
}

fn same_content(before: &Metadata, after: &Metadata) -> bool {
    before.len() == after.len() && before.modified().ok() == after.modified().ok()
}

/// Whether the text of a link at `inner` stays inside the directory. The target itself is not followed.
pub(super) fn stays_inside(inner: &Path, target: &Path) -> bool {
    let mut depth = inner.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::Prefix(_) | Component::RootDir => return false,
        }
    }
    true
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

enum Fault {
    Changed,
    Read(io::Error),
}

/// Reads exactly the size in the entry's header, and stores any deviation as a fault, because the archive's writer cannot
/// distinguish an error of the file from its own.
struct ExactReader<'a> {
    file: &'a File,
    left: u64,
    fault: Option<Fault>,
    progress: &'a AtomicU64,
}

impl Read for ExactReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.file.read(buffer) {
            Ok(read) => read as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                self.fault = Some(Fault::Read(e));
                return Err(io::Error::other("unreadable"));
            }
        };
        if read > self.left || (read == 0 && self.left > 0 && !buffer.is_empty()) {
            self.fault = Some(Fault::Changed);
            return Err(io::Error::other("changed"));
        }
        self.left -= read;
        self.progress.fetch_add(read, Ordering::Relaxed);
        usize::try_from(read).map_err(io::Error::other)
    }
}

struct HashingWriter<W> {
    inner: W,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(buffer.get(..written).unwrap_or(buffer));
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
