//! Copies what a build has at the path of a linked directory into `shared/`, once: when that directory is missing there.
//!
//! Without the copy, files such as `public/uploads/default.png` would be hidden behind the link. Later builds change nothing in
//! `shared/`, whose content is the application's. `shared/` may be another filesystem than the releases, and that of several nodes.
//! The copy is made under a temporary name of this machine, and renamed when it is complete and durable: no killed agent leaves
//! a part of it that counts as the application's own.
//!
//! Modes and times of files are kept, links keep their text, and the owner is the agent's user. The directory itself has mode 0755,
//! like every shared directory that the agent creates.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, mkdirat, openat, readlinkat, statat, symlinkat};
use rustix::io::Errno;

use super::durable;
use super::files;
use super::removal;

/// The beginning of the name of an unfinished copy, beside its final name; the machine's name follows. Only one copy of a site is
/// made at a time.
const UNFINISHED: &str = ".cutover-copy";

/// The directory at `path` in `tree`, if it has entries. No link is followed.
pub(super) fn content(tree: &Path, path: &str) -> io::Result<Option<OwnedFd>> {
    let mut dir = match files::open_dir(tree) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        dir => dir?,
    };
    for part in path.split('/') {
        dir = match files::open_dir_at(&dir, part) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    }
    let is_empty = names(&dir)?.is_empty();
    Ok((!is_empty).then_some(dir))
}

/// The names in a directory.
pub(super) fn names(dir: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() != b"." && name.to_bytes() != b".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Copies the entries of a directory to the new directory `to`, durably, and returns how many there are; none if another node has
/// made `to` meanwhile, which stays as it is. Creates the directories on its path.
pub(super) fn copy(from: &OwnedFd, to: &Path) -> io::Result<Option<u64>> {
    let parent = to.parent().ok_or(Errno::INVAL)?;
    files::make_dirs(parent)?;
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let unfinished = parent.join(format!("{UNFINISHED}-{machine}"));
    removal::remove_tree(&unfinished)?;
    let copied = copy_durably(from, &unfinished).and_then(|count| {
        match files::rename_dir_to_new(&unfinished, to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            renamed => renamed?,
        }
        files::sync_dir(parent)?;
        Ok(Some(count))
    });
    if !matches!(copied, Ok(Some(_))) {
        // Return the error of the copy. What stays is removed by the next one.
        drop(removal::remove_tree(&unfinished));
    }
    copied
}

fn copy_durably(from: &OwnedFd, to: &Path) -> io::Result<u64> {
    fs::create_dir(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o755))?;
    let to = files::open_dir(to)?;
    let count = copy_entries(from, &to)?;
    durable::sync_tree(&to, &[])?;
    Ok(count)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd) -> io::Result<u64> {
    let mut count: u64 = 0;
    for name in names(from)? {
        let stat = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, &name, Mode::RWXU)?;
                let (inner, copy) = (files::open_dir_at(from, &name)?, files::open_dir_at(to, &name)?);
                count = count.saturating_add(copy_entries(&inner, &copy)?);
                fchmod(&copy, mode)?;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = File::from(openat(from, &name, read, Mode::empty())?);
                let mut copy = File::from(openat(to, &name, write, Mode::RUSR | Mode::WUSR)?);
                io::copy(&mut source, &mut copy)?;
                fchmod(&copy, mode)?;
                copy.set_modified(source.metadata()?.modified()?)?;
            }
            FileType::Symlink => symlinkat(&*readlinkat(from, &name, Vec::new())?, to, &name)?,
            // A build has no other kinds of files.
            _ => continue,
        }
        count = count.saturating_add(1);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_made_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("shared/uploads"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("own"), "x").unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(to.join("other"), "x").unwrap();
        let from = files::open_dir(&from).unwrap();
        assert_eq!(copy(&from, &to).unwrap(), None);
        let names = |dir: &Path| names(&files::open_dir(dir).unwrap()).unwrap();
        assert_eq!(names(&to), [c"other".to_owned()]);
        assert_eq!(names(&dir.path().join("shared")), [c"uploads".to_owned()], "the copy goes");
    }
}
