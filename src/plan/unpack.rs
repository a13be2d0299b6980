//! Decides for each entry of an archive what unpacking may do, before anything is written.
//!
//! The input is only headers: names, kinds, sizes, modes, link targets. The result is an [`Action`] for each entry, or a
//! [`Refusal`] of the whole archive with the entry's name. Allowed entries stay inside the release, even for hostile archives:
//!
//! - Names are relative, without `..`, UTF-8 without control characters. `.` and empty components are dropped, so
//!   GNU tar's `./` forms are fine.
//! - Nothing is written through a link: no entry is below an entry that is not a directory.
//! - A symbolic link's target is relative, has `..` only at its start, and at most as many as the link's depth. The directories
//!   above a link are real, so its target is inside the release. This holds for every link, and so also for chains of links.
//!   (`a/../b` is refused, because `a` may be a link.)
//! - A hard link's target is a regular file that came before it.
//! - Modes become 0755 or, for files that their owner may not execute, 0644. Set-id and sticky bits, owners, and
//!   write permission for others are dropped.
//! - Bytes and entries are limited by the build record. The archive's own root (`./`) is not counted;
//!   directories that only names imply have a limit of their own.
//! - A top-level `REVISION` must be a regular file, because Cutover replaces it.
//!
//! Names that differ only by case are different, as on the filesystems of servers. Paths are stored as 128 bits of their
//! SHA-256, so that the plan of an archive with 200,000 entries needs only a few MB.

mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

pub(crate) use self::refusal::Problem;
pub use self::refusal::Refusal;

/// The longest component of a path, in bytes: `NAME_MAX` of Linux.
pub(crate) const MAX_COMPONENT_BYTES: usize = 255;
/// The longest path or link target, in bytes: `PATH_MAX` of Linux.
pub(crate) const MAX_PATH_BYTES: usize = 4096;
/// The most components in a path. Nested `node_modules` reach about 40; a writer holds a descriptor for each.
pub(crate) const MAX_DEPTH: usize = 128;
/// The most bytes of names and targets of links, which are kept in memory until all files are written.
pub(crate) const MAX_LINK_BYTES: usize = 8 << 20;
/// The memory for a link besides its texts: two strings with the allocator's overhead.
const LINK_OVERHEAD_BYTES: usize = 96;
/// The most directories without an entry: twice the archive's entries, plus this number.
const IMPLIED_DIRECTORIES: u64 = 1000;

/// The limits for an archive's content, from the build record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Total bytes of all regular files.
    pub bytes: u64,
    /// Entries, directories and links included.
    pub entries: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// A regular file.
    File,
    /// Another name for an earlier regular file.
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
    /// Bytes of content that follow.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    /// The target of a link; ignored for others.
    pub(crate) target: &'a [u8],
}

/// What to do with an entry. Paths are normalised: relative, of plain components, joined by `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Create the directory with mode 0755; it may exist already.
    Directory { path: String },
    /// Create the regular file, which must not exist.
    File {
        path: String,
        /// 0644 or 0755.
        mode: u32,
    },
    /// After all files are written, link `path` to the earlier file at `target`.
    Hardlink {
        path: String,
        /// A clean path from the release's root.
        target: String,
    },
    /// The archive's root: nothing to do.
    Root,
    /// After all files are written, create the symbolic link with exactly this text.
    Symlink { path: String, target: String },
}

/// What the plan has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    /// Implied, or with an entry; another entry for it may follow in both cases.
    Directory,
    File,
    Symlink,
}

impl Planned {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
            Self::Symlink => "symbolic link",
        }
    }
}

/// The totals of a complete archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of all regular files.
    pub bytes: u64,
    /// Entries, without the archive's root.
    pub entries: u64,
}

/// The plan for one archive, entry by entry.
#[derive(Debug)]
pub(crate) struct UnpackPlan {
    limits: Limits,
    planned: BTreeMap<u128, Planned>,
    /// The directory that was checked last. Most entries have the same directory as the one before.
    checked_parent: String,
    totals: Totals,
    implied: u64,
    link_bytes: usize,
}

impl UnpackPlan {
    #[must_use]
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            planned: BTreeMap::new(),
            checked_parent: String::new(),
            totals: Totals::default(),
            implied: 0,
            link_bytes: 0,
        }
    }

    /// Decides about the next entry.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the archive must not be unpacked, and unpacked entries must be removed.
    pub(crate) fn entry(&mut self, header: &Header<'_>) -> Result<Action, Refusal> {
        self.decide(header).map_err(|problem| Refusal { entry: shown(header.path), problem })
    }

    /// The totals so far.
    #[must_use]
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    fn decide(&mut self, header: &Header<'_>) -> Result<Action, Problem> {
        let path = clean(header.path)?;
        if path.is_empty() {
            return root(header);
        }
        self.totals.entries += 1;
        if self.totals.entries > self.limits.entries {
            return Err(Problem::TooManyEntries(self.limits.entries));
        }
        if header.kind != Kind::Directory && header.path.ends_with(b"/") {
            return Err(Problem::TrailingSlash);
        }
        if path == "REVISION" && header.kind != Kind::File {
            return Err(Problem::Revision);
        }
        self.plan_parents(&path)?;
        match header.kind {
            Kind::Directory => {
                no_content(header, "directory")?;
                self.claim(&path, Planned::Directory)?;
                Ok(Action::Directory { path })
            }
            Kind::File => {
                self.claim(&path, Planned::File)?;
                self.totals.bytes = self.totals.bytes.saturating_add(header.size);
                if self.totals.bytes > self.limits.bytes {
                    return Err(Problem::TooManyBytes(self.limits.bytes));
                }
                let mode = if header.mode & 0o100 == 0 { 0o644 } else { 0o755 };
                Ok(Action::File { path, mode })
            }
            Kind::Symlink => {
                no_content(header, "symbolic link")?;
                let target = symlink_target(&path, header.target)?;
                self.claim(&path, Planned::Symlink)?;
                self.count_link(&path, &target)?;
                Ok(Action::Symlink { path, target })
            }
            Kind::Hardlink => {
                no_content(header, "hard link")?;
                let target = self.hardlink_target(header.target)?;
                self.claim(&path, Planned::File)?;
                self.count_link(&path, &target)?;
                Ok(Action::Hardlink { path, target })
            }
            Kind::Other(flag) => Err(Problem::BadKind(char::from(flag))),
        }
    }

    /// Registers the name of an entry. A directory may be repeated; any other name occurs once.
    fn claim(&mut self, path: &str, kind: Planned) -> Result<(), Problem> {
        match self.planned.insert(key(path), kind) {
            None => Ok(()),
            Some(Planned::Directory) if kind == Planned::Directory => Ok(()),
            Some(before) => Err(Problem::Duplicate(before.as_str())),
        }
    }

    /// Ensures that everything above `path` is a directory, or becomes one.
    fn plan_parents(&mut self, path: &str) -> Result<(), Problem> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if parent == self.checked_parent {
            return Ok(());
        }
        let ends = parent.match_indices('/').map(|(at, _)| at).chain((!parent.is_empty()).then_some(parent.len()));
        for end in ends {
            let (above, _) = parent.split_at(end);
            match self.planned.get(&key(above)) {
                Some(Planned::Directory) => {}
                Some(Planned::File | Planned::Symlink) => {
                    return Err(Problem::ThroughNonDirectory(shown(above.as_bytes())));
                }
                None => {
                    self.implied += 1;
                    if self.implied > self.limits.entries.saturating_mul(2).saturating_add(IMPLIED_DIRECTORIES) {
                        return Err(Problem::TooManyImplied);
                    }
                    self.planned.insert(key(above), Planned::Directory);
                }
            }
        }
        parent.clone_into(&mut self.checked_parent);
        Ok(())
    }

    fn hardlink_target(&self, target: &[u8]) -> Result<String, Problem> {
        let refused = || Problem::HardlinkTarget(shown(target));
        let clean = clean(target).map_err(|_| refused())?;
        match self.planned.get(&key(&clean)) {
            Some(Planned::File) if !target.ends_with(b"/") => Ok(clean),
            _ => Err(refused()),
        }
    }

    fn count_link(&mut self, path: &str, target: &str) -> Result<(), Problem> {
        self.link_bytes = self.link_bytes.saturating_add(path.len() + target.len() + LINK_OVERHEAD_BYTES);
        if self.link_bytes > MAX_LINK_BYTES { Err(Problem::TooManyLinks) } else { Ok(()) }
    }
}

/// The archive's own root, as GNU tar writes it: `./`, a directory.
fn root(header: &Header<'_>) -> Result<Action, Problem> {
    if header.path.is_empty() || header.kind != Kind::Directory {
        return Err(Problem::EmptyName);
    }
    no_content(header, "directory")?;
    Ok(Action::Root)
}

fn no_content(header: &Header<'_>, what: &'static str) -> Result<(), Problem> {
    if header.size == 0 { Ok(()) } else { Err(Problem::UnexpectedContent(what)) }
}

/// The stored form of a path. Two paths with the same 128 bits of SHA-256 cannot be constructed.
fn key(path: &str) -> u128 {
    let digest = Sha256::digest(path.as_bytes());
    digest.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

/// Text of at most `MAX_PATH_BYTES` without control characters.
fn printable(name: &[u8]) -> Result<&str, Problem> {
    if name.len() > MAX_PATH_BYTES {
        return Err(Problem::TooLong);
    }
    let text = std::str::from_utf8(name).map_err(|_| Problem::Unprintable)?;
    if text.chars().any(char::is_control) { Err(Problem::Unprintable) } else { Ok(text) }
}

/// A relative path of plain components, empty for the root itself.
fn clean(name: &[u8]) -> Result<String, Problem> {
    let text = printable(name)?;
    if text.starts_with('/') {
        return Err(Problem::Absolute);
    }
    let mut path = String::with_capacity(text.len());
    let mut depth = 0;
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        depth += 1;
        if part == ".." {
            return Err(Problem::Leaves);
        }
        if part.len() > MAX_COMPONENT_BYTES || depth > MAX_DEPTH {
            return Err(Problem::TooLong);
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
    }
    Ok(path)
}

/// Checks a symbolic link's text, and returns it unchanged.
fn symlink_target(path: &str, target: &[u8]) -> Result<String, Problem> {
    let text = printable(target)?;
    let refused = || Problem::SymlinkTarget(shown(target));
    if text.is_empty() || text.starts_with('/') {
        return Err(refused());
    }
    let room = path.matches('/').count();
    let mut parts = text.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
    let mut ups = 0;
    while parts.next_if_eq(&"..").is_some() {
        ups += 1;
    }
    if ups > room || parts.clone().any(|part| part == "..") {
        return Err(refused());
    }
    if parts.any(|part| part.len() > MAX_COMPONENT_BYTES) { Err(Problem::TooLong) } else { Ok(text.to_owned()) }
}

/// A name for messages: invalid UTF-8 replaced, and cut.
fn shown(name: &[u8]) -> String {
    let name = name.get(..MAX_PATH_BYTES).unwrap_or(name);
    String::from_utf8_lossy(name).chars().take(160).collect()
}
