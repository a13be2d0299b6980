//! The reasons to refuse an archive, each with the entry that causes it.

use crate::kind::HasKind;

/// Why an archive is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("archive entry {entry} {problem}")]
pub struct Refusal {
    /// The entry's name in quotes, cut to 160 characters, with control characters and bytes that are not UTF-8 escaped.
    pub(crate) entry: String,
    pub(crate) problem: Problem,
}

impl HasKind for Refusal {
    fn kind(&self) -> &'static str {
        "refusal"
    }
}

/// The problem of an entry, as the rest of a sentence that starts with its name. Names in it are in quotes already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("has an absolute name; pack it with a relative one, for example with `tar -C DIR .`")]
    Absolute,
    #[error(
        "is a device, a pipe, or of an unknown kind (type flag {0:?}); only files, directories and links are allowed, so leave it out"
    )]
    BadKind(char),
    /// An empty name, or one without a file name.
    #[error("has an empty name; leave it out")]
    EmptyName,
    #[error("is a symbolic link without a target; leave it out")]
    EmptyTarget,
    /// The name contains `..`.
    #[error("has `..` in its name; pack it with a name below the packed directory")]
    Leaves,
    /// Contains the target.
    #[error(
        "is a hard link to {0}, which is no earlier file of the archive; pack without hard links (`tar --hard-dereference`)"
    )]
    HardlinkTarget(String),
    #[error("contains a NUL in its name or target; rename it")]
    Nul,
    /// A file or link with the name of a directory that has content.
    #[error("has the name of a directory of the archive that is not empty; leave one of them out")]
    OverDirectory,
    /// Contains the target.
    #[error(
        "is a symbolic link to {0}, which leads out of the release; make it relative and keep it inside, or allow such links with `publish --links any` and with links = \"any\" in the settings of every group that deploys the build"
    )]
    SymlinkTarget(String),
    #[error(
        "has a name or target that is too long (at most 255 bytes for a component, 4095 for a path, 256 components); shorten it"
    )]
    TooLong,
    /// Targets of links stay in memory until all are known, and resolving them is bounded.
    #[error(
        "exceeds the limit for links (64 MiB for the targets of all links, and for those with `..` behind a name the time to resolve them); leave some out"
    )]
    TooManyLinks,
    /// Contains the limit of the build record, in bytes.
    #[error("exceeds the {0} bytes that the build record allows; publish the build again")]
    TooManyBytes(u64),
    /// Contains the limit of the build record.
    #[error("exceeds the {0} entries that the build record allows; publish the build again")]
    TooManyEntries(u64),
    /// Too many directories that only the names of other entries imply.
    #[error("exceeds the limit for directories without an entry; pack the directories, too")]
    TooManyImplied,
    /// Contains the part of the path that is not a directory.
    #[error("is below {0}, which is not a directory in the archive; leave one of them out")]
    ThroughNonDirectory(String),
    #[error("is in the place of REVISION, which Cutover writes as a regular file; rename it")]
    Revision,
    #[error("is not a directory, but its name ends with a slash; rename it")]
    TrailingSlash,
}

impl HasKind for Problem {
    fn kind(&self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::BadKind(_) => "bad_kind",
            Self::EmptyName => "empty_name",
            Self::EmptyTarget => "empty_target",
            Self::Leaves => "leaves",
            Self::HardlinkTarget(_) => "hardlink_target",
            Self::Nul => "nul",
            Self::OverDirectory => "over_directory",
            Self::SymlinkTarget(_) => "symlink_target",
            Self::TooLong => "too_long",
            Self::TooManyLinks => "too_many_links",
            Self::TooManyBytes(_) => "too_many_bytes",
            Self::TooManyEntries(_) => "too_many_entries",
            Self::TooManyImplied => "too_many_implied",
            Self::ThroughNonDirectory(_) => "through_non_directory",
            Self::Revision => "revision",
            Self::TrailingSlash => "trailing_slash",
        }
    }
}
