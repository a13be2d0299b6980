//! Downloads an archive from the store, and passes its bytes on while they arrive.
//!
//! ```text
//!  store ──(parts, several at once)──► Download ──► <archive>.tar.gz.part ──rename──► <archive>.tar.gz
//!                                                        │
//!                                                      Feed ──(in order)──► FetchReader: digest, decompress, write
//! ```
//!
//! So download, digest, decompression and writing overlap, within bounded memory: parts that arrive early wait on disk. Parts of
//! an earlier attempt are not downloaded again ([`part_file`]). A complete archive in the cache is read without the store.
//!
//! Each part is retried by itself ([`download`]). All downloads of an agent share one [`Bandwidth`].
//!
//! Only the size is checked against the build record here, not the content. The caller's duties:
//!
//! 1. Read [`FetchReader`] to its end on a thread that may block, and check the digest.
//! 2. Await [`FetchTask::finish`], which returns the reason if the reader fails.
//! 3. Call [`Fetcher::reject`] if the digest is wrong; else the next fetch reads the same bytes again.
//! 4. Ask the cache for a [`Room`] first, and keep it until the build is unpacked.
//! 5. Fetch once more after [`StoreError::Replaced`]: the partial archive is gone then.
//!
//! If the disk turns out to be full, or its reserve is touched, older archives are removed and the write is repeated. If none is
//! left, the download fails and its partial archive is removed, because it would keep the disk full.

mod bandwidth;
mod download;
mod part_file;
mod reader;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

pub use self::bandwidth::Bandwidth;
use self::download::{Download, Line};
use self::part_file::PartFile;
pub use self::reader::FetchReader;
use self::reader::{Feed, Piece};
use super::cache::{self, Cache, CacheError, Cached, NoRoom, Room, RoomError, Space};
use super::store::{Class, MOST_PARALLEL_PARTS, PARALLEL_PART_BYTES_PER_SEC, Store, StoreError};
use crate::kind::HasKind;
use crate::protocol::ids::App;
use crate::protocol::record::Build;

/// Size of the pieces for disk and reader: large enough that passing them on costs little compared with processing them.
const PIECE_BYTES: usize = 1 << 20;

/// A smaller part costs more for its request than it gains.
const LEAST_PART_BYTES: u64 = 1 << 20;

/// Pieces that may wait for the reader. Together with one for each of four parts, and one at each end, a fetch needs 8 MiB.
const PIECES_WAITING: usize = 2;

/// How often to try the lock of a partial archive that another fetch of this machine is writing.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The longest pause between two attempts of a part.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// How often a part is retried, and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// Attempts without a new byte after which the download fails. Each new byte of the part resets the count.
    pub tries: u32,
    /// The pause before the second attempt. It doubles up to 10 s, with jitter.
    pub backoff: Duration,
    /// The most bytes of a part.
    pub part_bytes: u64,
    /// The speed that the line must have shown for each part that is received at the same time, in bytes per second.
    pub part_bytes_per_sec: u64,
}

impl FetchSettings {
    /// The bytes of a part of an archive: so many that no line is idle while the last parts arrive.
    fn part_bytes_of(self, size_bytes: u64) -> u64 {
        let parts = size_bytes.div_ceil(self.part_bytes.max(1)).max(1).next_multiple_of(MOST_PARALLEL_PARTS);
        size_bytes.div_ceil(parts).clamp(LEAST_PART_BYTES.min(self.part_bytes), self.part_bytes)
    }
}

impl Default for FetchSettings {
    /// Eight attempts outlast the restart of a server behind a load balancer, and 20 s of `SlowDown`. Parts of 8 MiB: at 90 MB/s, what
    /// S3 sends over one connection, the wait for an answer (about 30 ms) is less than a third of the time, and a small archive is still
    /// split.
    fn default() -> Self {
        Self {
            tries: 8,
            backoff: Duration::from_millis(500),
            part_bytes: 8 << 20,
            part_bytes_per_sec: PARALLEL_PART_BYTES_PER_SEC,
        }
    }
}

/// Is told of each retry, by the kind of the error.
#[derive(Clone, Default)]
struct RetryObserver(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl RetryObserver {
    fn retried(&self, reason: &StoreError) {
        if let Self(Some(observer)) = self {
            observer(reason.kind());
        }
    }
}

impl fmt::Debug for RetryObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryObserver").finish_non_exhaustive()
    }
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The reader was dropped before its end.
    #[error("the download of {place} was abandoned by its reader")]
    Abandoned {
        /// The object.
        place: String,
    },
    /// The cache directory cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The archive does not fit on the disk any more.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The program is stopping.
    #[error("the download of {place} was stopped")]
    Stopped {
        /// The object.
        place: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object has another size than the published one.
    #[error(
        "{place} has {found_bytes} bytes, but its build record has {recorded_bytes}: the object was replaced or \
         truncated; publish the build again"
    )]
    WrongSize {
        /// The object, as [`StoreError`] names it.
        place: String,
        /// The size in the build record.
        recorded_bytes: u64,
        /// The size in the store.
        found_bytes: u64,
    },
}

impl FetchError {
    /// What a caller can do about the error.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Abandoned { .. } | Self::Stopped { .. } => Class::Transient,
            Self::Cache(_) | Self::NoRoom(_) => Class::Permanent,
            Self::Store(error) => error.class(),
            Self::WrongSize { .. } => Class::Verify,
        }
    }
}

impl HasKind for FetchError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Abandoned { .. } => "abandoned",
            Self::Cache(_) => "cache",
            Self::NoRoom(error) => error.kind(),
            Self::Stopped { .. } => "stopped",
            Self::Store(error) => error.kind(),
            Self::WrongSize { .. } => "wrong_size",
        }
    }
}

impl From<RoomError> for FetchError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Cache(error) => Self::Cache(error),
            RoomError::NoRoom(error) => Self::NoRoom(error),
        }
    }
}

/// The result of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The path of the complete archive in the cache.
    pub path: PathBuf,
    /// Bytes downloaded from the store.
    pub downloaded_bytes: u64,
    /// Bytes that were already in the cache.
    pub cached_bytes: u64,
}

/// Fetches archives from one store into one cache directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    store: Store,
    cache: Arc<Cache>,
    settings: FetchSettings,
    bandwidth: Option<Arc<Bandwidth>>,
    retries: RetryObserver,
}

impl Fetcher {
    /// A fetcher.
    #[must_use]
    pub fn new(store: Store, cache: Arc<Cache>, settings: FetchSettings) -> Self {
        Self { store, cache, settings, bandwidth: None, retries: RetryObserver::default() }
    }

    /// Shares a limit for the bandwidth with other fetchers.
    #[must_use]
    pub fn within(self, bandwidth: Option<Arc<Bandwidth>>) -> Self {
        Self { bandwidth, ..self }
    }

    /// Tells of each retry: the kind of its [`StoreError`].
    #[must_use]
    pub fn telling_retries(self, observer: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self { retries: RetryObserver(Some(Arc::new(observer))), ..self }
    }

    /// Starts to fetch an archive, for which `room` was made. [`Room::received`] counts the bytes that this node has.
    ///
    /// Dropping the task stops the download, and dropping the reader, too. Downloaded bytes are kept for the next attempt. Two
    /// fetches of the same archive wait for each other.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn start(&self, app: &App, build: &Build, room: &Room) -> (FetchReader, FetchTask) {
        let (pieces, received) = mpsc::channel(PIECES_WAITING);
        let key = self.store.key(app, build);
        let place = self.store.place(&key);
        let (fetcher, size_bytes, space) = (self.clone(), build.packed_bytes, room.space());
        let fetch = Fetch { fetcher, place: place.clone(), key, size_bytes, space };
        let handle = tokio::spawn(fetch.run(pieces));
        (FetchReader::new(received), FetchTask { handle, place })
    }

    /// Whether the cache has an archive of the recorded size; blocking. The digest is checked when the archive is read.
    #[must_use]
    pub(crate) fn has_whole(&self, app: &App, build: &Build) -> bool {
        let path = self.cache.whole_path(app, build);
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == build.packed_bytes)
    }

    /// Removes an archive whose digest was wrong; blocking.
    ///
    /// # Errors
    ///
    /// [`CacheError`] when it cannot be removed.
    pub fn reject(&self, app: &App, build: &Build) -> Result<(), CacheError> {
        let whole = self.cache.whole_path(app, build);
        cache::remove(&whole)?;
        cache::remove(&cache::part_path(&whole))
    }
}

/// The running download. Dropping it stops the download.
#[derive(Debug)]
pub struct FetchTask {
    handle: JoinHandle<Result<Fetched, FetchError>>,
    place: String,
}

impl FetchTask {
    /// Waits for the end of the download. The download only ends if the reader is read on, or dropped.
    ///
    /// # Errors
    ///
    /// [`FetchError`]; the reader fails then, too.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call stops the download, because it drops the task.
    pub async fn finish(mut self) -> Result<Fetched, FetchError> {
        match (&mut self.handle).await {
            Ok(done) => done,
            Err(_) => Err(FetchError::Stopped { place: self.place.clone() }),
        }
    }
}

impl Drop for FetchTask {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// A running fetch.
struct Fetch {
    fetcher: Fetcher,
    place: String,
    key: String,
    size_bytes: u64,
    space: Space,
}

impl Fetch {
    async fn run(self, pieces: mpsc::Sender<Piece>) -> Result<Fetched, FetchError> {
        let feed = |file: &Arc<PartFile>| Feed { file: Arc::clone(file), pieces, place: self.place.clone() };
        let (feed, cached_bytes, downloaded_bytes) = match self.open().await? {
            Cached::Part(file) => {
                let (part, size_bytes, progress) = (self.part(), self.size_bytes, self.space.received());
                let part_bytes = self.fetcher.settings.part_bytes_of(size_bytes);
                let opening = move || PartFile::open(file, &part, size_bytes, part_bytes, progress);
                let file = Arc::new(self.blocking(opening).await?);
                let feed = feed(&file);
                let cached_bytes = file.present_bytes();
                let download = self.download(&file);
                tokio::try_join!(feed.run(), self.to_its_end(&download))?;
                let whole = self.whole();
                self.blocking(move || file.finish().and_then(|()| cache::complete(&whole))).await?;
                (feed, cached_bytes, download.downloaded_bytes())
            }
            Cached::Whole(file) => {
                let file = PartFile::whole(file, &self.whole(), self.size_bytes, self.space.received());
                let feed = feed(&Arc::new(file));
                feed.run().await?;
                (feed, self.size_bytes, 0)
            }
            Cached::Busy => return Err(self.stopped()), // Cannot happen: `open` waits for the other fetch.
        };
        feed.send(Piece::End).await?;
        Ok(Fetched { downloaded_bytes, path: self.whole(), cached_bytes })
    }

    async fn open(&self) -> Result<Cached, FetchError> {
        loop {
            let (whole, size_bytes) = (self.whole(), self.size_bytes);
            match self.blocking(move || cache::open(&whole, size_bytes)).await? {
                // Waiting is bounded, because the other fetch has its own limits; it downloads the same archive.
                Cached::Busy => tokio::time::sleep(LOCK_POLL).await,
                cached => return Ok(cached),
            }
        }
    }

    fn download(&self, file: &Arc<PartFile>) -> Arc<Download> {
        let Fetcher { store, settings, bandwidth, retries, .. } = self.fetcher.clone();
        let (key, place, file, space) = (self.key.clone(), self.place.clone(), Arc::clone(file), self.space.clone());
        let (writing, line) = (Mutex::default(), Line::default());
        Arc::new(Download { store, key, place, settings, file, space, writing, bandwidth, retries, line })
    }

    /// Downloads what is missing. Nothing is kept of an object that was replaced meanwhile, or that fills the disk.
    async fn to_its_end(&self, download: &Arc<Download>) -> Result<(), FetchError> {
        let done = download.run().await;
        if let Err(FetchError::Store(StoreError::Replaced { .. }) | FetchError::NoRoom(_)) = &done {
            let part = self.part();
            self.blocking(move || cache::remove(&part)).await?;
        }
        done
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, FetchError> {
        spawn_blocking(work).await.map_err(|_| self.stopped())?.map_err(FetchError::from)
    }

    fn whole(&self) -> PathBuf {
        self.space.whole().to_owned()
    }

    fn part(&self) -> PathBuf {
        cache::part_path(self.space.whole())
    }

    fn stopped(&self) -> FetchError {
        FetchError::Stopped { place: self.place.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_all_lines_to_the_end() {
        const MIB: u64 = 1 << 20;
        let settings = FetchSettings::default();
        for (size_bytes, parts) in
            [(0, 0), (1, 1), (MIB, 1), (3 * MIB, 3), (20 * MIB, 4), (33 * MIB, 8), (512 * MIB, 64)]
        {
            let part_bytes = settings.part_bytes_of(size_bytes);
            assert!(part_bytes <= settings.part_bytes);
            assert_eq!(size_bytes.div_ceil(part_bytes), parts, "{size_bytes} in parts of {part_bytes}");
        }
        let small = FetchSettings { part_bytes: 1000, ..settings };
        assert_eq!(small.part_bytes_of(100_000), 1000);
    }
}
