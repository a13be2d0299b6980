//! Looks at a file without following it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::plan::verify::{FileTime, Found};

/// The bits of a mode that a release keeps.
const PERMISSIONS: u32 = 0o777;
/// Bytes read at once for a digest.
const READ_BYTES: usize = 64 << 10;

/// What is on the disk.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) found: Found,
    /// When it last changed. For what is missing, when its directory did.
    pub(super) changed: FileTime,
}

/// The entry `name` of a directory.
pub(super) fn look(dir: impl AsFd, name: &[u8]) -> io::Result<Seen> {
    let stat = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Seen { found: Found::Missing, changed: names_changed(&dir)? }),
        Err(error) => return Err(error.into()),
    };
    let mode = stat.st_mode & PERMISSIONS;
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Directory { mode },
        FileType::RegularFile => {
            Found::File { mode, bytes: stat.st_size.try_into().unwrap_or(0), written: written(&stat) }
        }
        FileType::Symlink => Found::Symlink { target: readlinkat(&dir, name, Vec::new())?.into_bytes() },
        _ => Found::Other,
    };
    Ok(Seen { found, changed: changed(&stat) })
}

/// When names were last added to or removed from a directory.
pub(super) fn names_changed(dir: impl AsFd) -> io::Result<FileTime> {
    Ok(written(&fstat(dir)?))
}

fn written(stat: &Stat) -> FileTime {
    FileTime { secs: stat.st_mtime, nanos: stat.st_mtime_nsec.try_into().unwrap_or(0) }
}

fn changed(stat: &Stat) -> FileTime {
    FileTime { secs: stat.st_ctime, nanos: stat.st_ctime_nsec.try_into().unwrap_or(0) }
}

/// The digest of a regular file. Stops with an error if `go_on` returns one.
pub(super) fn digest(dir: impl AsFd, name: &[u8], mut go_on: impl FnMut() -> io::Result<()>) -> io::Result<[u8; 32]> {
    // Not blocking, because the file may be replaced by a pipe meanwhile.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = File::from(openat(dir, name, flags, Mode::empty())?);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        go_on()?;
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            n => digest.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}
