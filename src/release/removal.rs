//! Removes trees. [`remove_tree`] is the only function that removes a release, a staged build, or any other directory.
//!
//! 1. What can be removed goes. A file that cannot be removed stays, with the directories on its path, and is named.
//! 2. Nothing behind a mount is touched. That includes bind mounts of the same filesystem, whose device ids are equal: the
//!    kernel is asked not to cross a mount (`RESOLVE_NO_XDEV`), and before Linux 5.6 mount ids are compared. If neither is
//!    possible, the directory stays.
//! 3. Nothing on another device is touched, such as a btrfs subvolume that somebody made inside a release.
//! 4. Links are removed, never followed. Every directory is opened relative to its open parent, so no other program can redirect
//!    the removal by moving directories meanwhile.
//! 5. Directories of the agent's own user without write permission are made writable.
//!
//! Each level of directories keeps one file open. A tree that is deeper than the limit of open files stays, and is named.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, chmod, fchmod, fstat, openat, openat2, unlinkat,
};
use rustix::io::Errno;

use crate::kind::HasKind;

/// Flags to open a directory of the tree.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Flags to change the mode of a directory that cannot be opened.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why a file or directory cannot be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// The filesystem returns an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another filesystem is mounted there, or another directory or file.
    #[error("it is a mount point, and Cutover removes nothing that is mounted")]
    MountPoint,
    /// It is on another device, and not a mount.
    #[error("it is on another device, for example a subvolume")]
    OtherDevice,
}

impl HasKind for Cause {
    fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::MountPoint => "mount_point",
            Self::OtherDevice => "other_device",
        }
    }
}

impl From<Errno> for Cause {
    fn from(error: Errno) -> Self {
        match error {
            // Only mount points are busy for unlink and rmdir: see unlink(2) and rmdir(2).
            Errno::BUSY | Errno::XDEV => Self::MountPoint,
            error => Self::Io(error.into()),
        }
    }
}

/// A tree that was not removed, or only in part.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be removed{}", path.display(), and_others(*others))]
pub(crate) struct NotRemoved {
    /// The first file or directory that stays for a reason of its own.
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) cause: Cause,
    /// How many more there are.
    pub(crate) others: u64,
}

impl HasKind for NotRemoved {
    fn kind(&self) -> &'static str {
        self.cause.kind()
    }
}

impl NotRemoved {
    pub(super) fn new(path: &Path, cause: impl Into<Cause>) -> Self {
        Self { path: path.to_owned(), cause: cause.into(), others: 0 }
    }

    /// The cause, and the number of other paths, in one line.
    pub(crate) fn reason(&self) -> String {
        format!("{}{}", self.cause, and_others(self.others))
    }
}

fn and_others(others: u64) -> String {
    match others {
        0 => String::new(),
        1 => " (and 1 other path of the same directory tree)".to_owned(),
        n => format!(" (and {n} other paths of the same directory tree)"),
    }
}

/// Removes a tree, a file or a link, if it exists.
///
/// # Errors
///
/// [`NotRemoved`]: something stays; everything else was removed.
pub(crate) fn remove_tree(path: &Path) -> Result<(), NotRemoved> {
    let failed = |cause: Cause| NotRemoved { path: path.to_owned(), cause, others: 0 };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(Errno::INVAL.into()));
    };
    let name = CString::new(name.as_bytes()).map_err(|_| failed(Errno::INVAL.into()))?;
    let base = match openat(CWD, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(base) => base,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error.into())),
    };
    let mut walk = Walk { base, parent: parent.to_owned(), open: Vec::new(), stays: None };
    walk.visit(&name, FileType::Unknown);
    while let Some(last) = walk.open.last_mut() {
        match last.entries.read() {
            Some(Ok(entry)) => {
                let name = entry.file_name();
                if name.to_bytes() != b"." && name.to_bytes() != b".." {
                    walk.visit(name, entry.file_type());
                }
            }
            Some(Err(error)) => {
                walk.keep(None, error.into());
                walk.leave();
            }
            None => walk.leave(),
        }
    }
    walk.stays.map_or(Ok(()), Err)
}

/// An open directory of the tree.
struct OpenDir {
    name: CString,
    entries: Dir,
    device: u64,
    /// Whether something in it stays.
    has_rest: bool,
    /// Whether its entries were read twice: some filesystems skip entries if others are removed meanwhile.
    is_reread: bool,
}

/// A removal under way.
struct Walk {
    /// The directory that contains the tree.
    base: OwnedFd,
    /// Its path.
    parent: PathBuf,
    /// The directories from the tree's root to the current one.
    open: Vec<OpenDir>,
    stays: Option<NotRemoved>,
}

impl Walk {
    /// The current directory.
    fn dir(&self) -> io::Result<BorrowedFd<'_>> {
        match self.open.last() {
            Some(open) => Ok(open.entries.fd()?),
            None => Ok(self.base.as_fd()),
        }
    }

    /// Removes an entry of the current directory, or enters it.
    fn visit(&mut self, name: &CStr, kind: FileType) {
        let is_directory = match kind {
            FileType::Directory | FileType::Unknown => self.enter(name),
            _ => Ok(Entered::NotADirectory),
        };
        let removed = match is_directory {
            Ok(Entered::Directory(open)) => {
                self.open.push(open);
                return;
            }
            Ok(Entered::NotADirectory) => self.unlink(name, AtFlags::empty()),
            Err(cause) => Err(cause),
        };
        if let Err(cause) = removed {
            self.keep(Some(name), cause);
        }
    }

    fn enter(&self, name: &CStr) -> Result<Entered, Cause> {
        let dir = self.dir()?;
        let opened = match open_fenced(dir, name, DIRECTORY) {
            // Only root can open a directory without read permission.
            Err(Cause::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                make_accessible(dir, name)?;
                open_fenced(dir, name, DIRECTORY)
            }
            opened => opened,
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(Cause::Io(error)) if is_no_directory(&error) => return Ok(Entered::NotADirectory),
            Err(cause) => return Err(cause),
        };
        let stat = fstat(&opened)?;
        let outer = match self.open.last() {
            Some(open) => open.device,
            None => fstat(&self.base)?.st_dev,
        };
        if stat.st_dev != outer {
            return Err(Cause::OtherDevice);
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.contains(Mode::RWXU) {
            // If that fails, removing the entries fails, and names the cause.
            let _refused = fchmod(&opened, mode | Mode::RWXU);
        }
        let entries = Dir::new(opened)?;
        let name = name.to_owned();
        Ok(Entered::Directory(OpenDir { name, entries, device: stat.st_dev, has_rest: false, is_reread: false }))
    }

    fn unlink(&self, name: &CStr, flags: AtFlags) -> Result<(), Cause> {
        match unlinkat(self.dir()?, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes the current directory, and removes it if it is empty.
    fn leave(&mut self) {
        let Some(mut left) = self.open.pop() else { return };
        if left.has_rest {
            self.mark_rest();
            return;
        }
        match self.unlink(&left.name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(Cause::Io(error)) if error.kind() == io::ErrorKind::DirectoryNotEmpty && !left.is_reread => {
                left.entries.rewind();
                left.is_reread = true;
                self.open.push(left);
            }
            Err(cause) => self.keep(Some(&left.name), cause),
        }
    }

    /// Notes that an entry of the current directory stays; none: the directory itself.
    fn keep(&mut self, name: Option<&CStr>, cause: Cause) {
        self.mark_rest();
        if let Some(stays) = &mut self.stays {
            stays.others = stays.others.saturating_add(1);
            return;
        }
        let inner = self.open.iter().map(|open| open.name.as_c_str()).chain(name);
        let path = inner.fold(self.parent.clone(), |path, name| path.join(OsStr::from_bytes(name.to_bytes())));
        self.stays = Some(NotRemoved { path, cause, others: 0 });
    }

    fn mark_rest(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.has_rest = true;
        }
    }
}

enum Entered {
    Directory(OpenDir),
    /// A file or a link.
    NotADirectory,
}

fn is_no_directory(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::LOOP | Errno::NOENT))
}

/// Opens the directory `name` in `parent`, unless it is a mount point.
fn open_fenced(parent: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Cause> {
    match openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6 there is no openat2, and some containers forbid it.
        Err(Errno::NOSYS | Errno::PERM) => {
            let opened = openat(parent, name, flags, Mode::empty())?;
            if mount_id(opened.as_fd())? == mount_id(parent)? { Ok(opened) } else { Err(Cause::MountPoint) }
        }
        opened => Ok(opened?),
    }
}

/// The id of the mount that an open file belongs to, as the kernel lists it since Linux 3.15.
fn mount_id(file: BorrowedFd<'_>) -> io::Result<String> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.map(|id| id.trim().to_owned()).ok_or_else(|| io::Error::other("the kernel does not tell where mounts are"))
}

/// Gives the owner all rights on a directory that cannot be opened.
fn make_accessible(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Cause> {
    let handle = open_fenced(parent, name, HANDLE)?;
    let mode = Mode::from_raw_mode(fstat(&handle)?.st_mode);
    // A handle has no other way to change its mode. By name, it could be another file by now.
    Ok(chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), mode | Mode::RWXU)?)
}

/// The first mount at or below `path`. Only a hint for better messages: without `/proc` there is none.
pub(super) fn mount_below(path: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    // The fifth field is the place of the mount. See proc_pid_mountinfo(5).
    let places = mounts.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    places.map(|place| PathBuf::from(OsStr::from_bytes(&unescape(place)))).find(|place| place.starts_with(&path))
}

/// Replaces `\040` by a blank, and so on.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten().and_then(|it| str::from_utf8(it).ok());
        if let Some(byte) = octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            plain.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn removing_a_tree_keeps_the_targets_of_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        symlink(&kept, dir.path().join("direct")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&dir.path().join("direct")).unwrap();
        remove_tree(&dir.path().join("nothing")).unwrap();
        remove_tree(&dir.path().join("nowhere/nothing")).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "x");
    }

    #[test]
    fn a_directory_that_cannot_be_opened_is_made_accessible() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a")).unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o000)).unwrap();
        let parent = openat(CWD, &tree, DIRECTORY, Mode::empty()).unwrap();
        make_accessible(parent.as_fd(), c"a").unwrap();
        assert_eq!(fs::metadata(tree.join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        // A link is not followed to the directory that it names.
        symlink(dir.path(), tree.join("link")).unwrap();
        make_accessible(parent.as_fd(), c"link").unwrap_err();
    }

    #[test]
    fn mounts_are_compared_by_their_ids() {
        let (root, proc) = (fs::File::open("/").unwrap(), fs::File::open("/proc").unwrap());
        assert_eq!(mount_id(root.as_fd()).unwrap(), mount_id(root.as_fd()).unwrap());
        assert_ne!(mount_id(root.as_fd()).unwrap(), mount_id(proc.as_fd()).unwrap());
        assert_eq!(mount_below(Path::new("/proc")), Some(PathBuf::from("/proc")));
        assert_eq!(unescape(br"/a\040b\134c\9"), br"/a b\c\9");
    }

    #[test]
    fn what_stays_is_counted() {
        let stays = |others| NotRemoved { path: PathBuf::from("/a"), cause: Errno::ACCESS.into(), others };
        assert_eq!(stays(0).reason(), "Permission denied (os error 13)");
        assert!(stays(2).reason().ends_with("(and 2 other paths of the same directory tree)"));
        assert_eq!(NotRemoved::new(Path::new("/a"), Errno::BUSY).kind(), "mount_point");
    }
}
