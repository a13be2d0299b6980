//! Decides whether a release on the disk is still as it was when the node promised to run it.
//!
//! A release is compared with the list of files that was made when its archive was unpacked. Much may differ for a good reason:
//! shared paths are linked, the prepare hook builds something, and the application writes into its own files while it runs. So a
//! difference alone says nothing. It counts only if it is *later* than the moment since which nobody has a reason to change
//! anything: the end of preparing, or the moment when the node left the release for another one.
//!
//! - The time of a file's last change (`ctime`) tells when: unlike the time of its content (`mtime`), no program can set it.
//! - A missing file has no time. Its directory has one (`mtime`), which changes with the names in it.
//! - Both times of a directory also change with other names in it. So what differed at that moment is noted, and expected from then
//!   on.
//! - Content that differs under an unchanged `mtime` counts at any time: no program wrote it, so the disk has.
//!
//! What is not in the list never counts: files of the prepare hook, and those that the application adds.

use serde::{Deserialize, Serialize};

use super::unpack::shown;

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Kinds, sizes and modes, and the SHA-256 of each file's content.
    Full,
    /// Kinds, sizes and modes.
    #[default]
    Quick,
}

impl Verify {
    /// For `skip_serializing_if`.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        *self == Self::Quick
    }
}

/// A time of the filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileTime {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Nothing is expected there any more.
    Absent,
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        bytes: u64,
        /// The `mtime` that it got.
        written: FileTime,
        /// None if the list was made without digests.
        sha256: Option<[u8; 32]>,
    },
    Symlink {
        target: Vec<u8>,
    },
}

/// What is on the disk at the path of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        bytes: u64,
        /// Its `mtime`.
        written: FileTime,
    },
    /// Nothing.
    Missing,
    Other,
    Symlink {
        target: Vec<u8>,
    },
}

/// Which differences are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Those that are later.
    After(FileTime),
    /// All.
    Ever,
    /// Those that are not later.
    UpTo(FileTime),
}

impl When {
    pub(crate) fn includes(self, changed: FileTime) -> bool {
        match self {
            Self::After(since) => changed > since,
            Self::Ever => true,
            Self::UpTo(since) => changed <= since,
        }
    }
}

impl Found {
    /// What is expected from now on, without a digest.
    pub(crate) fn expected(&self) -> Listed {
        match self {
            Self::Directory { mode } => Listed::Directory { mode: *mode },
            Self::File { mode, bytes, written } => {
                Listed::File { mode: *mode, bytes: *bytes, written: *written, sha256: None }
            }
            Self::Missing | Self::Other => Listed::Absent,
            Self::Symlink { target } => Listed::Symlink { target: target.clone() },
        }
    }
}

/// How an entry differs from the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The same size and mode, but other content.
    Content,
    /// Another kind of file, for example a link.
    Kind {
        was: &'static str,
    },
    Missing,
    Mode {
        was: u32,
        is: u32,
    },
    Size {
        was: u64,
        is: u64,
    },
    /// A symbolic link with another text.
    Target,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Content => f.write_str("has other content"),
            Self::Kind { was } => write!(f, "is no {was} any more"),
            Self::Missing => f.write_str("is missing"),
            Self::Mode { was, is } => write!(f, "has mode {is:04o} instead of {was:04o}"),
            Self::Size { was, is } => write!(f, "has {is} bytes instead of {was}"),
            Self::Target => f.write_str("leads elsewhere"),
        }
    }
}

/// How an entry differs, all but its content; none if it does not.
pub(crate) fn difference(listed: &Listed, found: &Found) -> Option<Difference> {
    let mode = |was: u32, is: u32| (was != is).then_some(Difference::Mode { was, is });
    match (listed, found) {
        (Listed::Absent, _) => None,
        (_, Found::Missing) => Some(Difference::Missing),
        (Listed::Directory { mode: was }, Found::Directory { mode: is }) => mode(*was, *is),
        (Listed::File { bytes: was, .. }, Found::File { bytes: is, .. }) if was != is => {
            Some(Difference::Size { was: *was, is: *is })
        }
        (Listed::File { mode: was, .. }, Found::File { mode: is, .. }) => mode(*was, *is),
        (Listed::Symlink { target: was }, Found::Symlink { target: is }) => (was != is).then_some(Difference::Target),
        (Listed::Directory { .. }, _) => Some(Difference::Kind { was: "directory" }),
        (Listed::File { .. }, _) => Some(Difference::Kind { was: "regular file" }),
        (Listed::Symlink { .. }, _) => Some(Difference::Kind { was: "symbolic link" }),
    }
}

/// Whether other content of the same size counts. `changed` is the file's `ctime`.
pub(crate) fn content_counts(listed: FileTime, found: FileTime, changed: FileTime, when: When) -> bool {
    when.includes(changed) || !is_rewritten(listed, found)
}

/// Whether a program has written to a file since it was unpacked, by its `mtime`. Some filesystems keep whole seconds only.
pub(crate) fn is_rewritten(listed: FileTime, found: FileTime) -> bool {
    found.secs != listed.secs
}

/// The most differences that a message names.
const NAMED: usize = 2;

/// The differences that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    named: Vec<String>,
    count: u64,
    missing: u64,
}

impl Differences {
    pub(crate) fn add(&mut self, path: &[u8], difference: &Difference) {
        if self.named.len() < NAMED {
            self.named.push(format!("{} {difference}", shown(path)));
        }
        self.count = self.count.saturating_add(1);
        if *difference == Difference::Missing {
            self.missing = self.missing.saturating_add(1);
        }
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether something is missing.
    #[must_use]
    pub(crate) fn has_missing(&self) -> bool {
        self.missing > 0
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.named.join(", "))?;
        match self.count.saturating_sub(self.named.len().try_into().unwrap_or(u64::MAX)) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(secs: i64) -> FileTime {
        FileTime { secs, nanos: 5 }
    }

    fn file(mode: u32, bytes: u64) -> Listed {
        Listed::File { mode, bytes, written: time(1), sha256: None }
    }

    fn found(mode: u32, bytes: u64) -> Found {
        Found::File { mode, bytes, written: time(9) }
    }

    #[test]
    fn every_kind_of_difference_is_seen_and_the_time_of_the_content_is_none() {
        let link = |target: &[u8]| Listed::Symlink { target: target.to_owned() };
        let link_to = |target: &[u8]| Found::Symlink { target: target.to_owned() };
        for (listed, found, expected) in [
            (file(0o644, 7), found(0o644, 7), ""),
            (file(0o644, 7), found(0o644, 6), "has 6 bytes instead of 7"),
            (file(0o644, 7), found(0o600, 7), "has mode 0600 instead of 0644"),
            (file(0o644, 7), Found::Missing, "is missing"),
            (file(0o644, 7), link_to(b"x"), "is no regular file any more"),
            (Listed::Directory { mode: 0o755 }, Found::Directory { mode: 0o755 }, ""),
            (Listed::Directory { mode: 0o755 }, Found::Directory { mode: 0o700 }, "has mode 0700 instead of 0755"),
            (Listed::Directory { mode: 0o755 }, Found::Other, "is no directory any more"),
            (link(b"a"), link_to(b"a"), ""),
            (link(b"a"), link_to(b"b"), "leads elsewhere"),
            (link(b"a"), found(0o644, 1), "is no symbolic link any more"),
            (Listed::Absent, found(0o644, 1), ""),
            (Listed::Absent, Found::Missing, ""),
        ] {
            let said = difference(&listed, &found).map(|it| it.to_string()).unwrap_or_default();
            assert_eq!(said, expected, "{listed:?} {found:?}");
        }
    }

    #[test]
    fn other_content_counts_if_it_is_late_or_if_no_program_wrote_it() {
        let (listed, since) = (time(1), When::After(time(5)));
        for (found, changed, counts) in
            [(time(4), time(4), false), (time(4), time(6), true), (time(6), time(6), true), (time(1), time(2), true)]
        {
            assert_eq!(content_counts(listed, found, changed, since), counts, "{found:?} {changed:?}");
        }
    }

    #[test]
    fn a_message_names_the_first_differences_and_counts_the_rest() {
        let mut differences = Differences::default();
        assert!(differences.is_empty());
        for (path, difference) in [("a", Difference::Content), ("b", Difference::Target), ("c", Difference::Missing)] {
            assert!(!differences.has_missing());
            differences.add(path.as_bytes(), &difference);
        }
        assert!(differences.has_missing());
        assert_eq!(differences.to_string(), "\"a\" has other content, \"b\" leads elsewhere and 1 more");
    }
}
