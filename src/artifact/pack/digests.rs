//! The digests of many files, on all cores.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use sha2::Digest;

use super::source::{Stamp, Watch, read_exactly};
use super::{Content, Entry, PackError};

/// Bytes read at once: few enough calls, and small enough for a core's cache.
const READ_BYTES: usize = 256 << 10;

/// A digest, and whose it is.
struct Digested {
    index: usize,
    sha256: [u8; 32],
}

/// Sets the digest of every file; blocking.
///
/// # Errors
///
/// As [`read_exactly`], for one of the files that failed.
pub(super) fn digest_all(dir: &Path, entries: &mut [Entry], watch: Watch<'_>) -> Result<(), PackError> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let shared: &[Entry] = entries;
    let work = || digest_some(dir, shared, &next, &failed, watch);
    let digests: Result<Vec<Vec<Digested>>, PackError> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(own).chain(joined).collect()
    });
    for Digested { index, sha256: found } in digests?.into_iter().flatten() {
        if let Some(Entry { content: Content::File { sha256, .. }, .. }) = entries.get_mut(index) {
            *sha256 = found;
        }
    }
    Ok(())
}

/// One thread's share: the next file that no thread has taken, until there is none.
fn digest_some(
    dir: &Path,
    entries: &[Entry],
    next: &AtomicUsize,
    failed: &AtomicBool,
    watch: Watch<'_>,
) -> Result<Vec<Digested>, PackError> {
    let (mut digests, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    while !failed.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(entry) = entries.get(index) else { break };
        let Content::File { stamp, .. } = entry.content else { continue };
        match digest(&dir.join(&entry.inner), stamp, &mut buffer, watch) {
            Ok(sha256) => digests.push(Digested { index, sha256 }),
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    }
    Ok(digests)
}

fn digest(path: &Path, stamp: Stamp, buffer: &mut [u8], watch: Watch<'_>) -> Result<[u8; 32], PackError> {
    let mut hasher = sha2::Sha256::new();
    read_exactly(path, stamp, buffer, watch, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hasher.finalize().into())
}
