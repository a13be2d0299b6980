//! Makes trees durable: what is in them survives a loss of power.
//!
//! Mostly one `syncfs` does that for thousands of files. On some filesystems it does nothing where the files are kept: FUSE has a
//! request for it, which the kernel sends to virtiofs, and since Linux 6.18 to servers of block devices; SMB and 9p have none. There
//! the agent syncs each file and directory: one `fsync` for each, two where a release is placed after it was staged, and as many
//! round trips to the server. Walking needs one open file for each level of directories, and no memory for each file.
//!
//! What is not the agent's to sync is left out, as it stops no `syncfs` either: mounts, files that vanish meanwhile, and files of hooks
//! that it may not open. Files of the archive without permission for their owner are synced by their writer.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dev, Dir, FileType, FsWord, Mode, OFlags, fstat, fstatfs, fsync, openat, statat, syncfs};
use rustix::io::Errno;

use super::files;

/// `f_type` of filesystems whose `syncfs` does not reach the server: FUSE, 9p, and both of SMB. See statfs(2).
const WITHOUT_SYNCFS: [FsWord; 4] = [0x6573_5546, 0x0102_1997, 0xff53_4d42, 0xfe53_4d42];

/// To sync a file without waiting for a pipe's other end, or following a link.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Makes the tree at an open directory durable, and files or entries of directories beside it, on the same filesystem. Missing
/// ones of these are no error. The entry of the tree itself is the caller's.
pub(super) fn sync_tree(tree: &OwnedFd, beside: &[&Path]) -> io::Result<()> {
    if !WITHOUT_SYNCFS.contains(&fstatfs(tree)?.f_type) {
        // Everything else of the filesystem, too.
        return Ok(syncfs(tree)?);
    }
    let device = fstat(tree)?.st_dev;
    sync_each(files::open_dir_at(tree, c".")?, device)?;
    for path in beside {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => opened?.sync_all()?,
        }
    }
    Ok(())
}

/// Syncs each file below a directory of this device, and each directory after its entries. Links and devices have no content to
/// sync: they are entries.
fn sync_each(dir: OwnedFd, device: Dev) -> io::Result<()> {
    if fstat(&dir)?.st_dev != device {
        return Ok(());
    }
    let mut entries = Dir::new(dir)?;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let dir = entries.fd()?;
        let synced = match kind_of(dir, &entry)? {
            FileType::Directory => {
                files::open_dir_at(dir, name).map_err(io::Error::from).and_then(|inner| sync_each(inner, device))
            }
            FileType::RegularFile => sync_file(dir, name).map_err(io::Error::from),
            _ => Ok(()),
        };
        match synced {
            Err(error) if error.get_ref().is_none() && is_of_others(&error) => {
                let shown = name.to_string_lossy();
                tracing::info!(file = %shown, %error, "{shown} is not synced, because the agent cannot open it: {error}");
            }
            synced => synced.map_err(|error| named(name, &error))?,
        }
    }
    sync_opened(entries.fd()?).map_err(io::Error::from)
}

/// Whether an entry is gone, or belongs to somebody else.
fn is_of_others(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

fn kind_of(dir: BorrowedFd<'_>, entry: &rustix::fs::DirEntry) -> io::Result<FileType> {
    match entry.file_type() {
        FileType::Unknown => match statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode)),
            // Gone: there is nothing to sync.
            Err(Errno::NOENT) => Ok(FileType::Unknown),
            Err(error) => Err(error.into()),
        },
        known => Ok(known),
    }
}

fn sync_file(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<()> {
    // A file may be without read permission: any open file can be synced.
    let opened = match openat(dir, name, FILE | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => openat(dir, name, FILE | OFlags::WRONLY, Mode::empty())?,
        opened => opened?,
    };
    sync_opened(opened)
}

/// Some filesystems have no sync for directories, or for special files: fsync(2), EINVAL.
fn sync_opened(opened: impl AsFd) -> rustix::io::Result<()> {
    match fsync(opened) {
        Err(Errno::INVAL) => Ok(()),
        synced => synced,
    }
}

/// An error with the path of its file, from the tree on.
fn named(name: &std::ffi::CStr, error: &io::Error) -> io::Error {
    let name = name.to_string_lossy();
    let text = error.to_string();
    // Each level puts its name before.
    let joined = if error.get_ref().is_some() { format!("{name}/{text}") } else { format!("{name}: {text}") };
    io::Error::new(error.kind(), joined)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    #[test]
    fn links_and_pipes_are_no_obstacle_and_a_missing_file_beside_the_tree_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        fs::set_permissions(tree.join("a/b/file"), fs::Permissions::from_mode(0o200)).unwrap();
        symlink("/nowhere", tree.join("a/link")).unwrap();
        mkfifoat(CWD, tree.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let opened = files::open_dir(&tree).unwrap();
        sync_each(files::open_dir(&tree).unwrap(), fstat(&opened).unwrap().st_dev).unwrap();
        sync_tree(&opened, &[&dir.path().join("none"), dir.path()]).unwrap();
    }

    /// The agent is not root; the tests are.
    #[test]
    fn what_belongs_to_others_is_left_out_and_no_error() {
        let errors = [Errno::ACCESS, Errno::NOENT, Errno::IO].map(io::Error::from);
        assert_eq!(errors.each_ref().map(is_of_others), [true, true, false]);
        let dir = tempfile::tempdir().unwrap();
        let opened = files::open_dir(dir.path()).unwrap();
        assert_eq!(sync_file(opened.as_fd(), c"gone"), Err(Errno::NOENT));
        // Another device is not entered.
        let proc = files::open_dir(Path::new("/proc")).unwrap();
        sync_each(proc, fstat(&opened).unwrap().st_dev).unwrap();
    }

    #[test]
    fn an_error_names_the_file_from_the_tree_on() {
        let error = named(c"a", &named(c"b", &named(c"file", &Errno::ACCESS.into())));
        assert_eq!(error.to_string(), "a/b/file: Permission denied (os error 13)");
    }
}
