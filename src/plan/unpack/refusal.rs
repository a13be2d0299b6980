//! The reasons to refuse an archive, each with the entry that causes it.

use crate::kind::HasKind;

/// Why an archive is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("archive entry {entry:?} {problem}")]
pub struct Refusal {
    /// The entry's name, cut to 160 characters, with invalid UTF-8 replaced.
    pub(crate) entry: String,
    pub(crate) problem: Problem,
}

impl HasKind for Refusal {
    fn kind(&self) -> &'static str {
        "refusal"
    }
}

/// The problem of an entry, as the rest of a sentence that starts with its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("has an absolute name")]
    Absolute,
    #[error(
        "is a device, a pipe, or of an unknown kind (type flag {0:?}); only files, directories and links are allowed"
    )]
    BadKind(char),
    /// Contains the kind of the earlier entry with the same name.
    #[error("is repeated; the archive already contains it as a {0}")]
    Duplicate(&'static str),
    /// An empty name, or one without a file name.
    #[error("has an empty name")]
    EmptyName,
    /// The name contains `..`.
    #[error("has a name that leads out of the release")]
    Leaves,
    /// Contains the target.
    #[error("is a hard link to {0:?}, which is not an earlier regular file of the archive")]
    HardlinkTarget(String),
    /// Contains the target.
    #[error("is a symbolic link to {0:?}, which may lead out of the release")]
    SymlinkTarget(String),
    #[error("has a name or target that is too long (255 bytes for a component, 4096 for a path, 128 components)")]
    TooLong,
    /// The names and targets of links stay in memory until all files are written.
    #[error("exceeds the limit for links: names and targets of all links have more than 8 MiB")]
    TooManyLinks,
    /// Contains the limit of the build record, in bytes.
    #[error("exceeds the {0} bytes that the build record allows")]
    TooManyBytes(u64),
    /// Contains the limit of the build record.
    #[error("exceeds the {0} entries that the build record allows")]
    TooManyEntries(u64),
    /// Too many directories that only the names of other entries imply.
    #[error("exceeds the limit for directories without an entry")]
    TooManyImplied,
    /// Contains the part of the path that is not a directory.
    #[error("is below {0:?}, which is not a directory in the archive")]
    ThroughNonDirectory(String),
    #[error("has a name or target that is not UTF-8, or contains a control character")]
    Unprintable,
    /// Contains the kind of the entry, which must have no content.
    #[error("is a {0}, but has content")]
    UnexpectedContent(&'static str),
    #[error("must be a regular file, because Cutover writes REVISION")]
    Revision,
    #[error("is not a directory, but its name ends with a slash")]
    TrailingSlash,
}

impl HasKind for Problem {
    fn kind(&self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::BadKind(_) => "bad_kind",
            Self::Duplicate(_) => "duplicate",
            Self::EmptyName => "empty_name",
            Self::Leaves => "leaves",
            Self::HardlinkTarget(_) => "hardlink_target",
            Self::SymlinkTarget(_) => "symlink_target",
            Self::TooLong => "too_long",
            Self::TooManyLinks => "too_many_links",
            Self::TooManyBytes(_) => "too_many_bytes",
            Self::TooManyEntries(_) => "too_many_entries",
            Self::TooManyImplied => "too_many_implied",
            Self::ThroughNonDirectory(_) => "through_non_directory",
            Self::Unprintable => "unprintable",
            Self::UnexpectedContent(_) => "unexpected_content",
            Self::Revision => "revision",
            Self::TrailingSlash => "trailing_slash",
        }
    }
}
