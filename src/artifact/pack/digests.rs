//! The digests of many files, on all cores, while the walk through the tree still finds more of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sha2::Digest;

use super::PackError;
use super::source::{READ_BYTES, Stamp, Sums, Watch, crc, read_exactly};
use crate::artifact::compress::threads;

/// A file whose digest is wanted.
pub(super) struct Wanted {
    /// Its place among the entries.
    pub(super) index: usize,
    /// Relative to the directory.
    pub(super) inner: PathBuf,
    pub(super) stamp: Stamp,
}

/// A digest, and whose it is.
pub(super) struct Digested {
    pub(super) index: usize,
    pub(super) sums: Sums,
}

/// What a walk found, and the digests of its files.
pub(super) struct Walked<T> {
    pub(super) found: T,
    pub(super) digests: Vec<Digested>,
}

/// Where a walk sends the files that it finds.
pub(super) struct Queue<'a> {
    /// Without a limit: it holds no more than the entries do, and where no other thread can be had, nobody empties it before
    /// the walk has ended.
    wanted: Sender<Wanted>,
    failed: &'a AtomicBool,
}

impl Queue<'_> {
    /// Adds a file.
    ///
    /// # Errors
    ///
    /// [`PackError::Stopped`] if a file failed, so that no more are needed.
    pub(super) fn add(&self, wanted: Wanted) -> Result<(), PackError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(PackError::Stopped);
        }
        // The receiver lives as long as the walk.
        let _received = self.wanted.send(wanted);
        Ok(())
    }
}

/// Runs `walk`, which sends files, and digests them meanwhile, on all cores in the end; blocking.
///
/// # Errors
///
/// Those of `walk`, and of [`read_exactly`] for one of the files that failed.
pub(super) fn digest_all<T>(
    dir: &Path,
    watch: Watch<'_>,
    walk: impl FnOnce(&Queue<'_>) -> Result<T, PackError>,
) -> Result<Walked<T>, PackError> {
    let (wanted, queue) = mpsc::channel();
    let (queue, failed) = (Mutex::new(queue), AtomicBool::new(false));
    let threads = threads();
    let work = || digest_some(dir, &queue, &failed, watch);
    thread::scope(|scope| {
        // A limit on threads only makes it slower.
        let others: Vec<_> =
            (1..threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let found = walk(&Queue { wanted, failed: &failed });
        if found.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        let own = work();
        let joined =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let digests: Result<Vec<Vec<Digested>>, PackError> = std::iter::once(own).chain(joined).collect();
        match (found, digests) {
            (Ok(found), Ok(digests)) => Ok(Walked { found, digests: digests.into_iter().flatten().collect() }),
            // The walk was stopped because a file failed.
            (Err(PackError::Stopped) | Ok(_), Err(error)) | (Err(error), _) => Err(error),
        }
    })
}

/// One thread's share: the next file that no thread has taken, until there will be none.
fn digest_some(
    dir: &Path,
    queue: &Mutex<Receiver<Wanted>>,
    failed: &AtomicBool,
    watch: Watch<'_>,
) -> Result<Vec<Digested>, PackError> {
    let (mut digests, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    while !failed.load(Ordering::Relaxed) {
        let Ok(Wanted { index, inner, stamp }) = queue.lock().unwrap_or_else(PoisonError::into_inner).recv() else {
            break;
        };
        match digest(&dir.join(inner), stamp, &mut buffer, watch) {
            Ok(sums) => digests.push(Digested { index, sums }),
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    }
    Ok(digests)
}

fn digest(path: &Path, stamp: Stamp, buffer: &mut [u8], watch: Watch<'_>) -> Result<Sums, PackError> {
    let (mut hasher, mut crc) = (sha2::Sha256::new(), crc());
    read_exactly(path, stamp, buffer, watch, |piece| {
        hasher.update(piece);
        crc.update(piece);
        Ok(())
    })?;
    Ok(Sums { sha256: hasher.finalize().into(), crc: crc.finalize() })
}
