//! Small disk operations that are durable when they return, or never follow a link.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat, renameat_with};
use rustix::io::Errno;
use rustix::path::Arg;

/// Flags to open a directory. A symbolic link is refused.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The unit of `st_blocks`, see stat(3type).
const BLOCK_BYTES: u64 = 512;

/// Opens a directory. Refuses a link in the last component; links before it are followed.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, DIRECTORY, Mode::empty())?)
}

/// Opens the directory `name` in `parent`; a link is refused.
pub(crate) fn open_dir_at(parent: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, DIRECTORY, Mode::empty())
}

/// Creates a directory with its parents, if it does not exist, durably: each readable for all users, such as the web server's,
/// whatever the umask.
pub(crate) fn make_dirs(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
            sync_entries(path)?;
            match path.parent() {
                Some(parent) if parent != Path::new("") => sync_entries(parent),
                _ => Ok(()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent != Path::new("") => {
                make_dirs(parent)?;
                make_dirs(path)
            }
            _ => Err(error),
        },
        // Read, and not taken for no directory where it cannot be: the reason is the disk's.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.is_dir() {
                Ok(())
            } else {
                Err(error)
            }
        }
        Err(error) => Err(error),
    }
}

/// Makes new entries of a directory durable, as far as it can be synced. Above the deploy directory, the agent may have to write to one
/// that it may not read; and some filesystems cannot sync directories (fsync(2), EINVAL).
pub(crate) fn sync_entries(dir: &Path) -> io::Result<()> {
    match sync_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {
            let shown = dir.display();
            tracing::debug!(path = %shown, %error, "{shown} cannot be synced, so what was made there may not survive a loss of power: {error}");
            Ok(())
        }
        synced => synced,
    }
}

/// Makes the entries of a directory durable: renames, new names, removals.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Renames a file or directory, and replaces an existing target.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat(CWD, from, CWD, to)?)
}

/// Renames a directory to a name that must not be in use. Never replaces anything.
///
/// Some filesystems cannot do that in one step: NFS, 9p, Gluster, older ZFS, some FUSE. There, an empty directory takes the
/// name first, which fails if anything has it. Then a plain rename replaces that directory: rename(2) replaces a directory only
/// if it is empty, so a file that another program has put there meanwhile is an error and is kept. After a kill in between, an
/// empty directory has the name.
pub(crate) fn rename_dir_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::create_dir(to)?;
            let renamed = rename(from, to);
            if renamed.is_err() {
                // Return the error of the rename. A directory that is no longer empty stays.
                drop(fs::remove_dir(to));
            }
            renamed
        }
        renamed => Ok(renamed?),
    }
}

/// Whether `path` is a directory without entries, and not a link to one.
pub(crate) fn is_empty_dir(path: &Path) -> bool {
    is_real_dir(path).unwrap_or(false) && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Replaces `dir/name` by `bytes`, durably and atomically: after a crash it has either the old or the new bytes.
///
/// `scratch` is a directory for temporary files on the same filesystem.
pub(crate) fn write_durably(scratch: &Path, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = scratch.join(random_name("write"));
    let written = write_new(&temporary, bytes).and_then(|()| rename(&temporary, &dir.join(name)));
    if written.is_err() {
        // Return the error of the write. The next start removes what stays in the scratch directory.
        drop(fs::remove_file(&temporary));
    }
    written.and_then(|()| sync_dir(dir))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a whole file; `None` if it does not exist.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file, if it exists.
pub(crate) fn remove_file_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An unused name for a temporary file.
pub(crate) fn random_name(kind: &str) -> String {
    format!("{kind}-{:016x}", fastrand::u64(..))
}

/// Whether `path` is a directory, and not a link to one.
///
/// # Errors
///
/// The disk cannot tell. What cannot be read is not absent: to take it for that could remove what belongs to it.
pub(crate) fn is_real_dir(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_dir()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The disk space of a tree. Links are not followed, other filesystems do not count, and a file with several names counts once.
pub(crate) fn disk_bytes(root: &Path) -> io::Result<u64> {
    let top = fs::symlink_metadata(root)?;
    let mut total = 0_u64;
    let mut linked = BTreeSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.dev() != top.dev() || (!meta.is_dir() && meta.nlink() > 1 && !linked.insert(meta.ino())) {
                continue;
            }
            total = total.saturating_add(meta.blocks().saturating_mul(BLOCK_BYTES));
            if meta.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_disk_space_of_a_tree_counts_each_file_once_and_no_target_of_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(dir.path().join("elsewhere"), vec![1; 1 << 20]).unwrap();
        symlink(dir.path().join("elsewhere"), tree.join("link")).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 100 << 10]).unwrap();
        fs::hard_link(tree.join("a/b/file"), tree.join("other name")).unwrap();
        File::create(tree.join("sparse")).unwrap().set_len(1 << 20).unwrap();
        let bytes = disk_bytes(&tree).unwrap();
        assert!((100 << 10..200 << 10).contains(&bytes), "{bytes}");
        disk_bytes(&dir.path().join("nothing")).unwrap_err();
    }

    #[test]
    fn what_cannot_be_read_is_not_absent_and_the_reason_is_the_disks() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_real_dir(dir.path()).unwrap());
        assert!(!is_real_dir(&dir.path().join("nothing")).unwrap());
        is_real_dir(&dir.path().join("n".repeat(300))).unwrap_err();
        let circle = dir.path().join("circle");
        symlink(&circle, &circle).unwrap();
        let error = make_dirs(&circle).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()), "{error}");
    }

    #[test]
    fn a_durable_write_replaces_the_file_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        write_durably(&scratch, dir.path(), "file", b"one").unwrap();
        write_durably(&scratch, dir.path(), "file", b"two").unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"two");
        write_durably(&scratch, &dir.path().join("nowhere"), "file", b"x").unwrap_err();
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    }
}
