//! Makes trees durable: what is in them survives a loss of power.
//!
//! Mostly one `syncfs` does that for thousands of files. On some filesystems it does nothing where the files are kept: FUSE has a
//! request for it, which the kernel sends to virtiofs, and since Linux 6.18 to servers of block devices; SMB and 9p have none. There
//! the agent syncs each file and directory: one `fsync` for each, two where a release is placed after it was staged, and as many
//! round trips to the server. Walking needs one open file for each level of directories, and no memory for each file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, FsWord, Mode, OFlags, fstatfs, fsync, openat, statat, syncfs};
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
    sync_each(tree)?;
    for path in beside {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => opened?.sync_all()?,
        }
    }
    Ok(())
}

/// Syncs each file below a directory, and each directory after its entries. Links and devices have no content to sync: they are
/// entries.
fn sync_each(dir: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let synced = match kind_of(dir, &entry)? {
            FileType::Directory => {
                files::open_dir_at(dir, name).map_err(io::Error::from).and_then(|dir| sync_each(&dir))
            }
            FileType::RegularFile => sync_file(dir, name),
            _ => Ok(()),
        };
        synced.map_err(|error| named(name, &error))?;
    }
    Ok(fsync(dir)?)
}

fn kind_of(dir: &OwnedFd, entry: &rustix::fs::DirEntry) -> io::Result<FileType> {
    match entry.file_type() {
        FileType::Unknown => {
            let stat = statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode))
        }
        known => Ok(known),
    }
}

fn sync_file(dir: impl AsFd, name: &std::ffi::CStr) -> io::Result<()> {
    // A file may be without read permission: any open file can be synced.
    let opened = match openat(&dir, name, FILE | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => openat(&dir, name, FILE | OFlags::WRONLY, Mode::empty())?,
        opened => opened?,
    };
    Ok(fsync(opened)?)
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
        sync_each(&opened).unwrap();
        sync_tree(&opened, &[&dir.path().join("none"), dir.path()]).unwrap();
    }

    #[test]
    fn an_error_names_the_file_from_the_tree_on() {
        let error = named(c"a", &named(c"b", &named(c"file", &Errno::ACCESS.into())));
        assert_eq!(error.to_string(), "a/b/file: Permission denied (os error 13)");
    }
}
