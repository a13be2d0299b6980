//! The files of a tree: opened without following a link, and checked to be what they were when the tree was scanned.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::PackError;

/// Bytes of a file read at once: few enough calls, and small enough for a core's cache.
pub(super) const READ_BYTES: usize = 256 << 10;

/// Tells a file from a changed or replaced one. The time of the last change of its inode is left out: another job that links
/// the same file, as pnpm does, changes it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) bytes: u64,
    mtime_secs: i64,
    mtime_nanos: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            mtime_secs: metadata.mtime(),
            mtime_nanos: metadata.mtime_nsec(),
        }
    }
}

/// What was read of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) sha256: [u8; 32],
    pub(super) crc: u64,
}

/// The checksum that tells whether a file has the same bytes when it is read again. It costs little beside SHA-256,
/// and is made for changes by accident: whoever changes files on purpose can do so before the first reading.
pub(super) fn crc() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme)
}

/// What the caller of a long step sees of it, and how it ends it.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'a> {
    /// Counts the bytes read.
    pub read: &'a AtomicU64,
    /// Ends the step with [`PackError::Stopped`].
    pub stop: &'a CancellationToken,
}

/// Reads the file at `path`, which must be the one of `stamp` from its beginning to its end, in pieces.
///
/// # Errors
///
/// [`PackError::Changed`] if it is another file or changes meanwhile, [`PackError::Read`], [`PackError::Stopped`], and the
/// errors of `each`.
pub(super) fn read_exactly(
    path: &Path,
    stamp: Stamp,
    buffer: &mut [u8],
    watch: Watch<'_>,
    mut each: impl FnMut(&[u8]) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let read_failed = |source| PackError::Read { path: path.to_owned(), source };
    let changed = || PackError::Changed { path: path.to_owned() };
    // Without these flags a link would be followed that has replaced the file, and a pipe would be waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => return Err(changed()),
        opened => opened.map_err(read_failed)?,
    };
    let is_same = |file: &File| file.metadata().map(|found| Stamp::of(&found) == stamp);
    let mut left = stamp.bytes;
    loop {
        if watch.stop.is_cancelled() {
            return Err(PackError::Stopped);
        }
        // Asks for one byte more than there should be, because some filesystems state no sizes, or old ones.
        let room = usize::try_from(left).map_or(usize::MAX, |left| left.saturating_add(1)).min(buffer.len());
        let read = match file.read(buffer.get_mut(..room).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A pipe that has replaced the file cannot be read like one.
            Err(error) => return Err(if matches!(is_same(&file), Ok(false)) { changed() } else { read_failed(error) }),
            Ok(read) => read,
        };
        if read as u64 > left || (read == 0 && left > 0) {
            return Err(changed());
        }
        each(buffer.get(..read).unwrap_or_default())?;
        watch.read.fetch_add(read as u64, Ordering::Relaxed);
        left -= read as u64;
        if left == 0 && read < room {
            break;
        }
    }
    if is_same(&file).map_err(read_failed)? { Ok(()) } else { Err(changed()) }
}
