//! Packs a directory into an archive: the same tree gives the same bytes.
//!
//! Two steps. [`Tree::scan`] reads everything once: what belongs into the archive, whether the nodes accept it, and the digest of
//! each file. Then the build has a name for its object, and a build that is published already needs no archive. [`Tree::pack`]
//! writes the archive, which can be uploaded while it is written. A file that changes between the two is an error.
//!
//! ```text
//! DIR ── scan ──► Tree (entries, digests, totals) ── pack ──► bytes of the archive ──► file ──► upload
//! ```
//!
//! All archives of a tree are identical, on every machine and at any time:
//!
//! - entries are sorted by the bytes of their names, each directory before its content; the packed directory itself has no entry;
//! - owner and group are 0 without names; permission bits are kept, set-id and sticky bits dropped, and directories give their
//!   owner all rights;
//! - with [`Mtimes::All`], all entries have one modification time. It should be the commit's time: web servers derive `ETag` and
//!   `Last-Modified` from time and size, so with one constant for all builds browsers could keep an old page of the same size,
//!   and with the time of packing two archives of one commit would differ;
//! - the compressor has a fixed level and fixed blocks (`compress`), and no time or name in its headers. Another version of the
//!   compressor may still give other bytes.
//!
//! Every entry passes through the [`UnpackPlan`](crate::plan::unpack::UnpackPlan) of the nodes before it is packed, so nothing is
//! packed that a node would refuse. Links are kept with their exact text, names byte by byte. Hard links become separate files,
//! empty directories are kept. `.git` and what `.cutoverignore` names are left out.

mod digests;
mod scan;
mod source;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ignore::{GitDir, IGNORE_FILE, LeftOut};
use super::manifest::{Builder, Manifest};
use crate::kind::HasKind;
use crate::plan::unpack::{LinkPolicy, Refusal, Totals};
use crate::protocol::ids::Sha256;

pub use self::source::Watch;

use self::source::{Stamp, Sums};

/// What of a directory is packed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
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

/// A directory that was read, and can be packed.
#[derive(Debug)]
pub struct Tree {
    dir: PathBuf,
    entries: Vec<Entry>,
    totals: Totals,
    left_out: LeftOut,
    digest: Sha256,
}

/// An entry of the archive.
#[derive(Debug)]
struct Entry {
    /// Relative to the directory.
    inner: PathBuf,
    mode: u32,
    mtime_secs: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Directory,
    File {
        stamp: Stamp,
        sums: Sums,
    },
    /// A symbolic link with this text.
    Symlink(Vec<u8>),
}

/// The written archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Digest of its bytes.
    pub sha256: Sha256,
    /// Its size.
    pub packed_bytes: u64,
}

impl Tree {
    /// The directory.
    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes and entries of the archive, as the build record counts them.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// What is not packed.
    #[must_use]
    pub const fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Its files and links.
    #[must_use]
    pub(crate) fn manifest(&self) -> Manifest {
        let mut manifest = Builder::default();
        for Entry { inner, mode, content, .. } in &self.entries {
            let path = inner.as_os_str().as_bytes();
            match content {
                Content::Directory => manifest.directory(path),
                Content::File { stamp, sums } => manifest.file(path, *mode, stamp.bytes, sums.sha256),
                Content::Symlink(target) => manifest.link(path, target),
            }
        }
        manifest.finish()
    }

    /// A digest of all entries: names, kinds, modes, times, and content. It depends on nothing else, above all not on the
    /// compression.
    #[must_use]
    pub const fn digest(&self) -> &Sha256 {
        &self.digest
    }
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
    /// The caller stopped it.
    #[error("packing was stopped")]
    Stopped,
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
            Self::Stopped => "stopped",
            Self::Write { .. } => "write",
        }
    }
}
