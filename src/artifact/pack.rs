//! Packs a directory into an archive: the same tree gives the same bytes.
//!
//! All archives of a tree are identical, on every machine and at any time:
//!
//! - entries are sorted by the bytes of their names, each directory before its content; the packed directory itself has no entry;
//! - owner and group are 0 without names; permission bits are kept, set-id and sticky bits dropped, and directories give their
//!   owner all rights;
//! - with [`Mtimes::All`], all entries have one modification time. It should be the commit's time: web servers derive `ETag` and
//!   `Last-Modified` from time and size, so with one constant for all builds browsers could keep an old page of the same size,
//!   and with the time of packing two archives of one commit would differ;
//! - the compressor has a fixed level, one thread, and no time or name in its header. Another version of the
//!   compressor may still give other bytes.
//!
//! Every entry passes through the [`UnpackPlan`] of the nodes before it is packed, so nothing is packed that a node would refuse.
//! Links are kept with their exact text, names byte by byte. Hard links become separate files, empty directories are kept.
//! `.git` and what `.cutoverignore` names are left out.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Compression, GzBuilder};
use sha2::Digest;
use tar::EntryType;

use crate::kind::HasKind;
use crate::plan::unpack::{Header, Kind, Limits, LinkPolicy, Make, Refusal, Totals, UnpackPlan};
use crate::protocol::ids::Sha256;
use crate::protocol::record::ArchiveFormat;

use super::digest::sha256_id;
use super::ignore::{GitDir, IGNORE_FILE, Ignore, LeftOut};
use super::manifest::{Builder, FileDigest, Manifest};
use super::tar_writer::{Entry, TarWriter};

/// How a directory is packed.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// The compression.
    pub format: ArchiveFormat,
    /// The modification times of the entries.
    pub mtimes: Mtimes,
    /// The symbolic links that are accepted.
    pub links: LinkPolicy,
    /// Whether `.git` is packed.
    pub git: GitDir,
}

/// The modification times of the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtimes {
    /// This one for all, in seconds since 1970.
    All(u64),
    /// Each file's own: another checkout of the same commit gives other bytes.
    Own,
}

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
    /// What was not packed.
    pub left_out: LeftOut,
    /// Its files.
    pub(crate) manifest: Manifest,
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
    /// An entry that every node would refuse.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file of a kind that a release cannot contain.
    #[error(
        "{} is a {what}; only files, directories and links can be packed, so remove it, or name it in {IGNORE_FILE}",
        path.display()
    )]
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
            Self::NotADirectory { .. } => "not_a_directory",
            Self::Read { .. } => "read",
            Self::Refused(_) => "refused",
            Self::Special { .. } => "special_file",
            Self::Write { .. } => "write",
        }
    }
}

/// Packs the content of `dir` into `out`; blocking. `progress` counts the bytes read.
///
/// # Errors
///
/// [`PackError`]; discard `out` then.
pub fn pack(dir: &Path, out: impl Write, packing: &Packing, progress: &AtomicU64) -> Result<Packed, PackError> {
    let failed = |source| PackError::Write { path: dir.to_owned(), source };
    let out = HashingWriter { inner: out, hasher: sha2::Sha256::new(), bytes: 0 };
    let (tree, mut out) = match packing.format {
        ArchiveFormat::TarGz => {
            let gzip = GzBuilder::new().mtime(0).operating_system(GZIP_OS_UNKNOWN);
            let (tree, gzip) = write_tar(dir, gzip.write(out, Compression::new(GZIP_LEVEL)), packing, progress)?;
            (tree, gzip.finish().map_err(failed)?)
        }
        ArchiveFormat::TarZst => {
            let mut zstd = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?;
            zstd.include_checksum(true).map_err(failed)?;
            let (tree, zstd) = write_tar(dir, zstd, packing, progress)?;
            (tree, zstd.finish().map_err(failed)?)
        }
    };
    out.flush().map_err(failed)?;
    Ok(Packed {
        sha256: sha256_id(out.hasher),
        packed_bytes: out.bytes,
        unpacked_bytes: tree.totals.bytes,
        entries: tree.totals.entries,
        left_out: tree.left_out,
        manifest: tree.manifest,
    })
}

/// What was packed.
struct PackedTree {
    totals: Totals,
    left_out: LeftOut,
    manifest: Manifest,
}

fn write_tar<W: Write>(
    dir: &Path,
    out: W,
    packing: &Packing,
    progress: &AtomicU64,
) -> Result<(PackedTree, W), PackError> {
    let read = |path: &Path, source| PackError::Read { path: path.to_owned(), source };
    if !fs::metadata(dir).map_err(|e| read(dir, e))?.is_dir() {
        return Err(PackError::NotADirectory { path: dir.to_owned() });
    }
    let mut ignore = Ignore::read(dir, packing.git).map_err(|e| read(&dir.join(IGNORE_FILE), e))?;
    let mut packer = Packer {
        tar: TarWriter::new(out),
        plan: UnpackPlan::new(Limits::NONE, packing.links),
        mtimes: packing.mtimes,
        files: Builder::default(),
        progress,
    };
    // A stack of the remaining paths under `dir`, instead of a recursion, because trees can be deep.
    let mut waiting = children_in_reverse(dir, Path::new(""))?;
    while let Some(inner) = waiting.pop() {
        let path = dir.join(&inner);
        let metadata = fs::symlink_metadata(&path).map_err(|e| read(&path, e))?;
        if ignore.leaves_out(&inner, metadata.is_dir()) {
            continue;
        }
        packer.append(&path, &inner, &metadata)?;
        if metadata.is_dir() {
            waiting.extend(children_in_reverse(dir, &inner)?);
        }
    }
    let totals = packer.plan.finish()?;
    let out = packer.tar.finish().map_err(|source| PackError::Write { path: dir.to_owned(), source })?;
    let (left_out, manifest) = (ignore.into_left_out(), packer.files.finish());
    Ok((PackedTree { totals, left_out, manifest }, out))
}

struct Packer<'a, W> {
    tar: TarWriter<W>,
    plan: UnpackPlan,
    mtimes: Mtimes,
    files: Builder,
    progress: &'a AtomicU64,
}

impl<W: Write> Packer<'_, W> {
    /// Packs the file, directory or link at `path`, which is `inner` in the archive.
    fn append(&mut self, path: &Path, inner: &Path, metadata: &Metadata) -> Result<(), PackError> {
        let kind = metadata.file_type();
        if kind.is_dir() {
            // Joining an empty name adds the trailing slash of directories in tar.
            self.header(path, &inner.join(""), Kind::Directory, b"", metadata)?;
            Ok(())
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|source| PackError::Read { path: path.to_owned(), source })?;
            let target = target.as_os_str().as_bytes();
            self.header(path, inner, Kind::Symlink, target, metadata)?;
            self.files.link(inner.as_os_str().as_bytes(), target);
            Ok(())
        } else if kind.is_file() {
            self.append_file(path, inner)
        } else {
            Err(PackError::Special { path: path.to_owned(), what: special(kind) })
        }
    }

    fn append_file(&mut self, path: &Path, inner: &Path) -> Result<(), PackError> {
        let read = |source| PackError::Read { path: path.to_owned(), source };
        let written = |source| PackError::Write { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let before = file.metadata().map_err(read)?;
        if !before.is_file() {
            // The file was replaced between reading its metadata and opening it.
            return Err(PackError::Changed { path: path.to_owned() });
        }
        let mode = self.header(path, inner, Kind::File, b"", &before)?;
        let mut exact = ExactReader { file: &file, left: before.len(), fault: None, progress: self.progress };
        let mut out = DigestingWriter { inner: self.tar.content(), digest: FileDigest::default() };
        let copied = io::copy(&mut exact, &mut out);
        let digest = out.digest;
        match exact.fault {
            Some(Fault::Changed) => return Err(PackError::Changed { path: path.to_owned() }),
            Some(Fault::Read(source)) => return Err(read(source)),
            None => copied.map_err(written)?,
        };
        self.tar.pad(before.len()).map_err(written)?;
        if !same_content(&before, &file.metadata().map_err(read)?) {
            return Err(PackError::Changed { path: path.to_owned() });
        }
        self.files.file(inner.as_os_str().as_bytes(), mode, digest);
        Ok(())
    }

    /// Writes the header of an entry, as the plan of the nodes decides about it. Returns the entry's mode.
    fn header(
        &mut self,
        path: &Path,
        inner: &Path,
        kind: Kind,
        target: &[u8],
        metadata: &Metadata,
    ) -> Result<u32, PackError> {
        let name = inner.as_os_str().as_bytes();
        let size = if kind == Kind::File { metadata.len() } else { 0 };
        let header = Header { path: name, kind, size, mode: metadata.permissions().mode(), target };
        let Some(action) = self.plan.entry(&header)? else { return Ok(0) };
        let (kind, mode) = match action.make {
            Make::Directory { mode } => (EntryType::Directory, mode),
            Make::File { mode } => (EntryType::Regular, mode),
            Make::Hardlink { .. } => (EntryType::Link, 0o644),
            Make::Symlink { .. } => (EntryType::Symlink, 0o777),
        };
        let mtime_secs = match self.mtimes {
            Mtimes::All(secs) => secs,
            Mtimes::Own => u64::try_from(metadata.mtime()).unwrap_or_default(),
        };
        let entry = Entry { kind, path: name, target, mode, size, mtime_secs };
        self.tar.header(&entry).map_err(|source| PackError::Write { path: path.to_owned(), source })?;
        Ok(mode)
    }
}

/// Passes the content of one file on, and digests it for the manifest.
struct DigestingWriter<W> {
    inner: W,
    digest: FileDigest,
}

impl<W: Write> Write for DigestingWriter<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(piece)?;
        self.digest.add(piece.get(..written).unwrap_or(piece));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
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

fn same_content(before: &Metadata, after: &Metadata) -> bool {
    before.len() == after.len() && before.modified().ok() == after.modified().ok()
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
