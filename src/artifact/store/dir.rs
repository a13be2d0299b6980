//! A directory as store: on this machine, or mounted on all machines.
//!
//! Objects are files of mode 0644 under the root, written atomically: temporary file, sync, rename, sync of the directory. The
//! root itself is never created, because a missing root is most likely a failed mount.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::task::spawn_blocking;

use super::dir_upload::{Copy, remove_dead_uploads};
use super::error::StoreError;
use super::spool::Spool;
use super::stat::Stat;
use super::upload::Upload;

/// Bytes read at once: large enough that switching to a blocking thread costs little.
const CHUNK_BYTES: usize = 1 << 20;

/// How often the progress of an upload is updated, for a progress bar.
const PROGRESS_TICK: Duration = Duration::from_millis(100);

/// A store in a directory.
#[derive(Clone, Debug)]
pub struct DirStore {
    root: PathBuf,
    stall: Duration,
}

impl DirStore {
    /// The store under `root`, which is not accessed yet. An operation that hangs fails after `stall`, but its thread stays
    /// until the kernel returns.
    #[must_use]
    pub(crate) fn new(root: &Path, stall: Duration) -> Self {
        Self { root: root.to_owned(), stall }
    }

    pub(super) fn place(&self, key: &str) -> String {
        self.root.join(key).display().to_string()
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) || key.contains('\0') {
            return Err(StoreError::InvalidKey { key: key.to_owned() });
        }
        Ok(self.root.join(key))
    }

    /// The error for a missing object, or a missing root.
    fn missing(&self, key: &str) -> StoreError {
        if self.root.is_dir() {
            StoreError::NotFound { place: self.place(key) }
        } else {
            StoreError::NoRoot { root: self.root.display().to_string() }
        }
    }

    pub(super) async fn stat(&self, key: &str) -> Result<Option<Stat>, StoreError> {
        let path = self.path(key)?;
        match within(self.stall, &path, tokio::fs::metadata(&path)).await? {
            Ok(found) => {
                let changed = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
                let version = format!("{} {changed:?}", found.ino());
                Ok(Some(Stat { bytes: found.len(), told: None, version }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => match self.missing(key) {
                StoreError::NotFound { .. } => Ok(None),
                other => Err(other),
            },
            Err(source) => Err(StoreError::Disk { action: "read the size of", path, source }),
        }
    }

    pub(super) async fn put(&self, key: &str, spool: &Spool, upload: &Upload) -> Result<(), StoreError> {
        let path = self.path(key)?;
        if !self.root.is_dir() {
            return Err(StoreError::NoRoot { root: self.root.display().to_string() });
        }
        let copied = Arc::new(AtomicU64::new(0));
        let copy = Copy {
            root: self.root.clone(),
            from: spool.clone(),
            to: path,
            copied: Arc::clone(&copied),
            stop: upload.stop.clone(),
        };
        let runtime = tokio::runtime::Handle::current();
        let mut copying = spawn_blocking(move || copy.run(&runtime));
        // The copying thread cannot borrow the caller's counter. It has its own, which is added to the caller's regularly.
        let mut tick = tokio::time::interval(PROGRESS_TICK);
        let mut shown = 0;
        loop {
            let done = tokio::select! {
                done = &mut copying => Some(done),
                _ = tick.tick() => None,
            };
            let now = copied.load(Ordering::Relaxed);
            upload.sent.fetch_add(now - shown, Ordering::Relaxed);
            shown = now;
            if let Some(done) = done {
                return done.unwrap_or_else(|e| {
                    Err(StoreError::Disk { action: "copy", path: spool.path().to_owned(), source: io::Error::other(e) })
                });
            }
        }
    }

    pub(super) async fn remove_dead_uploads(&self, app: &str) {
        let dir = self.root.join(app);
        let _unimportant = within(
            self.stall,
            &dir,
            spawn_blocking({
                let dir = dir.clone();
                move || remove_dead_uploads(&dir)
            }),
        )
        .await;
    }

    pub(super) async fn get(&self, key: &str, from_byte: u64) -> Result<DirBody, StoreError> {
        let path = self.path(key)?;
        let disk = |source| StoreError::Disk { action: "read", path: path.clone(), source };
        let mut file = match within(self.stall, &path, tokio::fs::File::open(&path)).await? {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.missing(key)),
            Err(e) => return Err(disk(e)),
        };
        let total_bytes = file.metadata().await.map_err(disk)?.len();
        tokio::io::AsyncSeekExt::seek(&mut file, io::SeekFrom::Start(from_byte)).await.map_err(disk)?;
        file.set_max_buf_size(CHUNK_BYTES);
        Ok(DirBody { file, path, total_bytes, left: total_bytes.saturating_sub(from_byte), stall: self.stall })
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match within(self.stall, &path, tokio::fs::remove_file(&path)).await? {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => match self.missing(key) {
                StoreError::NotFound { .. } => Ok(()),
                other => Err(other),
            },
            Err(source) => Err(StoreError::Disk { action: "remove", path, source }),
        }
    }
}

/// An object of a directory that is being read.
#[derive(Debug)]
pub struct DirBody {
    file: tokio::fs::File,
    path: PathBuf,
    total_bytes: u64,
    left: u64,
    stall: Duration,
}

impl DirBody {
    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let cut = |source| StoreError::Cut { place: self.path.display().to_string(), source };
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let wanted = self.left.min(CHUNK_BYTES as u64);
        let mut wanted = (&mut self.file).take(wanted);
        let read = within(self.stall, &self.path, wanted.read_buf(&mut chunk)).await?.map_err(|e| cut(e.into()))?;
        if read == 0 {
            return Err(cut("the file ended early".into()));
        }
        self.left -= read as u64;
        Ok(Some(chunk.freeze()))
    }
}

/// Runs `work`, and fails with [`StoreError::Stalled`] after `limit`: an operation on a broken mount can hang forever.
async fn within<T>(limit: Duration, path: &Path, work: impl Future<Output = T>) -> Result<T, StoreError> {
    let stalled = |_| StoreError::Stalled { place: path.display().to_string(), limit };
    tokio::time::timeout(limit, work).await.map_err(stalled)
}
