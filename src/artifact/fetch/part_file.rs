//! A partial archive on disk, which several parts are written to at the same time.
//!
//! The file tells what is there of each part ([`Parts`]). Before the first bytes that this agent writes, the record is there, and
//! the number of a part is written after its bytes: a program that is killed loses at most what it had not written. Nothing
//! is synced. If a crash of the machine leaves other bytes than the record says, the digest of the whole archive does not match,
//! and the archive is downloaded again.
//!
//! All methods except [`PartFile::ready`] and [`PartFile::next_missing`] block on the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::artifact::cache::{CacheError, Parts};
use crate::artifact::store::ByteRange;

/// A partial or complete archive. Two parts may be written at the same time.
#[derive(Debug)]
pub(super) struct PartFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    state: Mutex<State>,
    /// How many bytes from the beginning are there.
    ready: watch::Sender<u64>,
    /// Counts the bytes that are there.
    progress: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    parts: Parts,
    /// Whether the record on disk has everything but what is being written.
    is_recorded: bool,
}

impl PartFile {
    /// A complete archive.
    pub(super) fn whole(file: File, path: &Path, size_bytes: u64, progress: Arc<AtomicU64>) -> Self {
        Self::with(file, path, Parts::with_beginning(size_bytes, u32::MAX.into(), size_bytes), size_bytes, progress)
    }

    /// Continues a partial archive, which the caller has locked. One with bytes of something else is emptied.
    pub(super) fn open(
        file: File,
        path: &Path,
        size_bytes: u64,
        part_bytes: u64,
        progress: Arc<AtomicU64>,
    ) -> Result<Self, CacheError> {
        let read = Parts::read(&file, size_bytes, part_bytes).map_err(CacheError::new("read", path))?;
        let parts = if let Some(parts) = read {
            parts
        } else {
            file.set_len(0).map_err(CacheError::new("empty", path))?;
            Parts::with_beginning(size_bytes, part_bytes, 0)
        };
        Ok(Self::with(file, path, parts, size_bytes, progress))
    }

    fn with(file: File, path: &Path, parts: Parts, size_bytes: u64, progress: Arc<AtomicU64>) -> Self {
        progress.store(parts.present_bytes(), Ordering::Relaxed);
        let ready = watch::Sender::new(parts.beginning(0));
        // Written anew in any case: a file of only the beginning has no record yet.
        let state = Mutex::new(State { parts, is_recorded: false });
        Self { file, path: path.to_owned(), size_bytes, state, ready, progress }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn present_bytes(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// How many bytes from the beginning are there, as they become more.
    pub(super) fn ready(&self) -> watch::Receiver<u64> {
        self.ready.subscribe()
    }

    /// The first part from this one on that lacks something.
    pub(super) fn next_missing(&self, from_part: usize) -> Option<usize> {
        let state = self.state();
        (from_part..state.parts.count()).find(|part| state.parts.missing(*part).is_some())
    }

    /// What a part still lacks; none if nothing.
    pub(super) fn missing(&self, part: usize) -> Option<ByteRange> {
        self.state().parts.missing(part)
    }

    /// The version of the object that the parts are from. The first one that is given counts, and is compared with the others.
    pub(super) fn is_of(&self, version: Option<&str>) -> bool {
        let mut state = self.state();
        match (state.parts.version(), version) {
            (Some(known), Some(version)) => known == version,
            (None, Some(version)) => {
                state.parts.set_version(version);
                // Recorded before the next bytes.
                state.is_recorded = false;
                true
            }
            (_, None) => true,
        }
    }

    pub(super) fn version(&self) -> Option<String> {
        self.state().parts.version().map(str::to_owned)
    }

    /// Writes bytes of the archive, which continue a part or overlap with what is there. After an error the call may be repeated.
    pub(super) fn write(&self, mut offset: u64, mut bytes: &[u8]) -> Result<(), CacheError> {
        let part_bytes = self.state().parts.part_bytes();
        while !bytes.is_empty() {
            let (part, within) = (offset / part_bytes, offset % part_bytes);
            let length = usize::try_from(part_bytes - within).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(length);
            let part = usize::try_from(part).unwrap_or(usize::MAX);
            self.write_within(part, within, now).map_err(CacheError::new("write", &self.path))?;
            (offset, bytes) = (offset + length as u64, rest);
        }
        Ok(())
    }

    fn write_within(&self, part: usize, within: u64, bytes: &[u8]) -> io::Result<()> {
        let (start, present) = {
            let mut state = self.state();
            if !state.is_recorded {
                state.parts.record(&self.file)?;
                state.is_recorded = true;
            }
            (part as u64 * state.parts.part_bytes(), state.parts.present(part))
        };
        let Some(there) = present.checked_sub(within) else {
            return Err(io::Error::other("a part was continued after a gap"));
        };
        let new = bytes.get(usize::try_from(there).unwrap_or(usize::MAX)..).unwrap_or_default();
        if new.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(new, start + present)?;
        let mut state = self.state();
        // Another request may have brought the same bytes meanwhile.
        let more = state.parts.advance(part, present + new.len() as u64);
        self.progress.fetch_add(more, Ordering::Relaxed);
        self.ready.send_modify(|ready| *ready = state.parts.beginning(*ready));
        let recorded =
            if state.is_recorded { state.parts.record_part(&self.file, part) } else { state.parts.record(&self.file) };
        // After an error, a repeated call has nothing to write but the record.
        state.is_recorded = recorded.is_ok();
        recorded
    }

    /// Reads bytes that are there.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, CacheError> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(CacheError::new("read", &self.path))?;
        Ok(bytes)
    }

    /// Removes the record: the file is the archive then.
    pub(super) fn finish(&self) -> Result<(), CacheError> {
        self.file.set_len(self.size_bytes).map_err(CacheError::new("complete", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 25;

    fn open(path: &Path) -> PartFile {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        PartFile::open(file, path, SIZE, 10, Arc::default()).unwrap()
    }

    fn missing(file: &PartFile) -> Vec<(u64, u64)> {
        (0..3).filter_map(|part| file.missing(part)).map(|range| (range.from, range.end)).collect()
    }

    #[test]
    fn what_was_written_of_each_part_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.part");
        let file = open(&path);
        assert_eq!(missing(&file), [(0, 10), (10, 20), (20, 25)]);
        assert!(file.is_of(Some("\"1\"")));
        file.write(10, b"klmn").unwrap();
        file.write(20, b"uvwxy").unwrap();
        assert_eq!(*file.ready().borrow(), 0);
        drop(file);
        let file = open(&path);
        assert_eq!((missing(&file), file.present_bytes()), (vec![(0, 10), (14, 20)], 9));
        assert!(!file.is_of(Some("\"2\"")), "parts of another object would be mixed in");
        // Over the border of two parts, and over what is there.
        file.write(0, b"abcdefghijklmnopqr").unwrap();
        assert_eq!((*file.ready().borrow(), missing(&file)), (18, vec![(18, 20)]));
        file.write(18, b"st").unwrap();
        assert_eq!((*file.ready().borrow(), file.next_missing(0)), (SIZE, None));
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdefghijklmnopqrstuvwxy");
        assert_eq!(open(&path).next_missing(0), None, "killed before it got its name");
    }

    #[test]
    fn a_file_with_bytes_of_something_else_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.part");
        std::fs::write(&path, [7; 300]).unwrap();
        assert_eq!(missing(&open(&path)).len(), 3);
        assert_eq!(path.metadata().unwrap().len(), 0);
    }

    #[test]
    fn the_record_is_there_before_bytes_behind_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.part");
        std::fs::write(&path, b"abc").unwrap();
        let file = open(&path);
        assert!(file.write(11, b"l").is_err());
        // Killed after these bytes, before their number.
        file.file.write_all_at(b"k", 10).unwrap();
        assert_eq!(missing(&open(&path)), [(3, 10), (10, 20), (20, 25)], "a hole was taken for bytes of the archive");
    }

    #[test]
    fn a_part_is_not_continued_after_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(&dir.path().join("a.part"));
        assert!(file.write(11, b"lm").is_err());
        assert_eq!(file.present_bytes(), 0);
    }
}
