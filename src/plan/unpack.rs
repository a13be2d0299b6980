//! Decides for each entry of an archive what unpacking may do, before anything is written.
//!
//! Nodes run this plan while they unpack, and `cutover publish` runs it over every archive and directory: what publish accepts,
//! no node refuses. The input is only headers: names, kinds, sizes, modes, link targets. The result is an [`Action`] for each
//! entry, or a [`Refusal`] of the whole archive with the entry's name. Accepted entries stay inside the release, even for
//! hostile archives:
//!
//! - Names are relative, without `..`. `.` and empty components are dropped, so GNU tar's `./` forms are fine. Otherwise names
//!   are kept byte by byte: they need not be UTF-8.
//! - Nothing is written through a link: no entry is below an entry that is not a directory.
//! - A symbolic link leads to a place in the release, also by way of other links, unless [`LinkPolicy::Any`] is set
//!   (see `links`).
//! - A hard link's target is a regular file or symbolic link that came before it.
//! - A name may be repeated as GNU tar accepts it: the later entry counts. Directories are merged, a file or link replaces a
//!   file, a link or an empty directory, a directory replaces a file or link. A directory with content is never replaced.
//! - Permission bits are kept; set-id and sticky bits and owners are dropped. Directories also give their owner all rights,
//!   because the agent creates entries in them, links shared paths, and removes the release. The archive's root (`./`) is not
//!   counted, and its mode is not used: the release's own is 0755.
//! - Bytes and entries are limited by the build record. Directories that only names imply have a limit of their own.
//! - A top-level `REVISION` must be a regular file, because Cutover replaces it.
//!
//! Names that differ only by case are different, as on the filesystems of servers. Paths are stored as 128 bits of their
//! SHA-256, so that the plan of an archive with 200,000 entries needs only a few MB. Besides, the targets of links stay in
//! memory, at most 64 MiB.

mod links;
mod path;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::links::LinkPolicy;
use self::links::Links;
use self::path::{clean, key, parent};
pub(crate) use self::path::{shown, split};
pub(crate) use self::refusal::Problem;
pub use self::refusal::Refusal;

/// The most directories without an entry: twice the entries so far, plus this number.
const IMPLIED_DIRECTORIES: u64 = 10_000;
/// The permission bits that are kept.
const PERMISSIONS: u32 = 0o777;
/// What every directory of a release gives its owner.
const OWNER_ALL: u32 = 0o700;

/// The limits for an archive's content, from the build record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Total bytes of all regular files.
    pub bytes: u64,
    /// Entries, directories and links included.
    pub entries: u64,
}

impl Limits {
    /// No limits: for an archive that has no build record yet.
    pub const NONE: Self = Self { bytes: u64::MAX, entries: u64::MAX };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// A regular file.
    File,
    /// Another name for an earlier file or link.
    Hardlink,
    /// A device, a pipe, or an unknown kind, with tar's type flag.
    Other(u8),
    Symlink,
}

/// An entry's header in the archive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind,
    /// Bytes of a file, holes included.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    /// The target of a link; ignored for others.
    pub(crate) target: &'a [u8],
}

/// What to do with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// Normalised: relative, of plain components, joined by `/`.
    pub(crate) path: Vec<u8>,
    pub(crate) replaces: Replaced,
    pub(crate) make: Make,
}

/// What an entry becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// A directory with this mode; it may exist already.
    Directory { mode: u32 },
    /// A regular file with this mode.
    File { mode: u32 },
    /// Another name for the earlier file or link at `target`, a clean path from the release's root.
    Hardlink { target: Vec<u8> },
    /// A symbolic link with exactly this text.
    Symlink { target: Vec<u8> },
}

/// What an earlier entry put at the path of an action, and is removed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    Nothing,
    /// A file or a link, which is removed and not written to or followed.
    File,
    EmptyDirectory,
}

/// What the plan has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    /// Implied, or with an entry.
    Directory {
        /// The number of names in it.
        children: u32,
    },
    File,
    Symlink,
}

/// The totals of a complete archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of all regular files.
    pub bytes: u64,
    /// Entries, without the archive's root.
    pub entries: u64,
}

/// The directory that was checked last, with its key. Most entries have the same directory as the one before.
#[derive(Debug)]
struct CheckedDir {
    path: Vec<u8>,
    key: u128,
}

impl CheckedDir {
    fn root() -> Self {
        Self { path: Vec::new(), key: key(b"") }
    }
}

/// The plan for one archive, entry by entry.
#[derive(Debug)]
pub(crate) struct UnpackPlan {
    limits: Limits,
    planned: BTreeMap<u128, Planned>,
    links: Links,
    checked_parent: CheckedDir,
    totals: Totals,
    implied: u64,
}

impl UnpackPlan {
    #[must_use]
    pub(crate) fn new(limits: Limits, links: LinkPolicy) -> Self {
        let root = CheckedDir::root();
        Self {
            limits,
            planned: BTreeMap::from([(root.key, Planned::Directory { children: 0 })]),
            links: Links::new(links),
            checked_parent: root,
            totals: Totals::default(),
            implied: 0,
        }
    }

    /// Decides about the next entry; `None` if there is nothing to do.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the archive must not be unpacked, and unpacked entries must be removed.
    pub(crate) fn entry(&mut self, header: &Header<'_>) -> Result<Option<Action>, Refusal> {
        self.decide(header).map_err(|problem| Refusal { entry: shown(header.path), problem })
    }

    /// The totals, after the last entry.
    ///
    /// # Errors
    ///
    /// [`Refusal`] of a link whose place is only known now; as for an entry.
    pub(crate) fn finish(&self) -> Result<Totals, Refusal> {
        self.links.finish()?;
        Ok(self.totals)
    }

    fn decide(&mut self, header: &Header<'_>) -> Result<Option<Action>, Problem> {
        let path = clean(header.path)?;
        let kind = kind_of(header)?;
        if path.is_empty() {
            let is_root = kind == Kind::Directory && !header.path.is_empty();
            return if is_root { Ok(None) } else { Err(Problem::EmptyName) };
        }
        self.totals.entries += 1;
        if self.totals.entries > self.limits.entries {
            return Err(Problem::TooManyEntries(self.limits.entries));
        }
        if path == b"REVISION" && !matches!(kind, Kind::File | Kind::Hardlink) {
            return Err(Problem::Revision);
        }
        self.plan_parents(&path)?;
        let (replaces, make) = match kind {
            Kind::Directory => {
                let mode = header.mode & PERMISSIONS | OWNER_ALL;
                (self.claim(&path, Planned::Directory { children: 0 })?, Make::Directory { mode })
            }
            Kind::File => {
                self.totals.bytes = self.totals.bytes.saturating_add(header.size);
                if self.totals.bytes > self.limits.bytes {
                    return Err(Problem::TooManyBytes(self.limits.bytes));
                }
                (self.claim(&path, Planned::File)?, Make::File { mode: header.mode & PERMISSIONS })
            }
            Kind::Symlink => {
                let replaces = self.claim(&path, Planned::Symlink)?;
                self.links.add(&path, header.target)?;
                (replaces, Make::Symlink { target: header.target.to_vec() })
            }
            Kind::Hardlink => match self.hardlink(&path, header.target)? {
                Some(hardlink) => hardlink,
                None => return Ok(None),
            },
            Kind::Other(flag) => return Err(Problem::BadKind(char::from(flag))),
        };
        Ok(Some(Action { path, replaces, make }))
    }

    /// `None` for a link to itself, which is there already.
    fn hardlink(&mut self, path: &[u8], text: &[u8]) -> Result<Option<(Replaced, Make)>, Problem> {
        let refused = || Problem::HardlinkTarget(shown(text));
        let target = clean(text).map_err(|_| refused())?;
        let of = key(&target);
        let planned = match self.planned.get(&of) {
            Some(planned @ (Planned::File | Planned::Symlink)) if !text.ends_with(b"/") => *planned,
            _ => return Err(refused()),
        };
        if target == path {
            return Ok(None);
        }
        if path == b"REVISION" && planned != Planned::File {
            return Err(Problem::Revision);
        }
        let replaces = self.claim(path, planned)?;
        if planned == Planned::Symlink {
            self.links.add_again(path, of)?;
        }
        Ok(Some((replaces, Make::Hardlink { target })))
    }

    /// Registers an entry at its path, and decides what happens to an earlier one. Its parents are planned.
    fn claim(&mut self, path: &[u8], kind: Planned) -> Result<Replaced, Problem> {
        let at = key(path);
        match (self.planned.get(&at), kind) {
            (None, _) => {
                self.planned.insert(at, kind);
                self.count_child(self.checked_parent.key);
                Ok(Replaced::Nothing)
            }
            (Some(Planned::Directory { .. }), Planned::Directory { .. }) => Ok(Replaced::Nothing),
            (Some(Planned::Directory { children: 0 }), Planned::File | Planned::Symlink) => {
                if self.checked_parent.path == path {
                    self.checked_parent = CheckedDir::root();
                }
                self.planned.insert(at, kind);
                Ok(Replaced::EmptyDirectory)
            }
            (Some(Planned::Directory { .. }), Planned::File | Planned::Symlink) => Err(Problem::OverDirectory),
            (Some(Planned::File | Planned::Symlink), _) => {
                self.links.remove(at);
                self.planned.insert(at, kind);
                Ok(Replaced::File)
            }
        }
    }

    fn count_child(&mut self, dir: u128) {
        if let Some(Planned::Directory { children }) = self.planned.get_mut(&dir) {
            *children = children.saturating_add(1);
        }
    }

    /// Ensures that everything above `path` is a directory, or becomes one.
    fn plan_parents(&mut self, path: &[u8]) -> Result<(), Problem> {
        let dir = parent(path);
        if dir == self.checked_parent.path {
            return Ok(());
        }
        let ends = dir.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut above_key = key(b"");
        for end in ends.chain((!dir.is_empty()).then_some(dir.len())) {
            let above = dir.get(..end).unwrap_or_default();
            let at = key(above);
            match self.planned.get(&at) {
                Some(Planned::Directory { .. }) => {}
                Some(Planned::File | Planned::Symlink) => return Err(Problem::ThroughNonDirectory(shown(above))),
                None if above == b"REVISION" => return Err(Problem::Revision),
                None => {
                    self.implied += 1;
                    if self.implied > self.totals.entries.saturating_mul(2).saturating_add(IMPLIED_DIRECTORIES) {
                        return Err(Problem::TooManyImplied);
                    }
                    self.planned.insert(at, Planned::Directory { children: 0 });
                    self.count_child(above_key);
                }
            }
            above_key = at;
        }
        self.checked_parent = CheckedDir { path: dir.to_vec(), key: above_key };
        Ok(())
    }
}

/// The kind of an entry. Before there was a flag for directories (v7), a slash at the end of the name marked them.
fn kind_of(header: &Header<'_>) -> Result<Kind, Problem> {
    match header.kind {
        Kind::Directory => Ok(Kind::Directory),
        kind if !header.path.ends_with(b"/") => Ok(kind),
        Kind::File if header.size == 0 => Ok(Kind::Directory),
        Kind::File | Kind::Hardlink | Kind::Other(_) | Kind::Symlink => Err(Problem::TrailingSlash),
    }
}
