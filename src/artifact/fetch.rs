//! Downloads an archive from the store, and passes its bytes on while they arrive.
//!
//! ```text
//!  store ──(range GET, with retries)──► task ──► <archive>.tar.gz.part ──rename──► <archive>.tar.gz
//!                                       │
//!                                       └─(4 × 1 MiB)─► FetchReader: digest, decompress, write
//! ```
//!
//! So download, digest, decompression and writing overlap, within bounded memory. Bytes of an earlier attempt are read from
//! the cache first, and the download continues after them. A complete archive in the cache is read without the store.
//!
//! Only the size is checked against the build record here, not the content. The caller's duties:
//!
//! 1. Read [`FetchReader`] to its end on a thread that may block, and check the digest.
//! 2. Await [`FetchTask::finish`], which returns the reason if the reader fails.
//! 3. Call [`Fetcher::reject`] if the digest is wrong; else the next fetch reads the same bytes again.
//! 4. Ask the cache for a [`Room`] first, and keep it until the build is unpacked.
//!
//! If the disk turns out to be full, or its reserve is touched, older archives are removed and the write is repeated. If none is
//! left, the download fails and its partial archive is removed, because it would keep the disk full.

use std::io::{self, Read, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::cache::{self, Cache, CacheError, Cached, NoRoom, Room, RoomError};
use super::store::{Class, Store, StoreError};
use crate::backoff::Backoff;
use crate::kind::HasKind;
use crate::protocol::ids::App;
use crate::protocol::record::Build;

/// Size of the pieces for the reader: large enough that passing them on costs little compared with processing them.
const PIECE_BYTES: usize = 1 << 20;

/// Pieces that may wait for the reader. Together with one piece at each end and the file's buffer, a fetch needs 7 MiB.
const PIECES_WAITING: usize = 4;

/// How often to try the lock of a partial archive that another fetch of this machine is writing.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The longest pause between two attempts of a download.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// How often a download is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// Attempts without a new byte after which the download fails. Each new byte resets the count.
    pub tries: u32,
    /// The pause before the second attempt. It doubles up to 10 s, with jitter.
    pub backoff: Duration,
}

impl Default for FetchSettings {
    /// Few attempts, because the store already retries each request ([`super::store::Limits`]).
    fn default() -> Self {
        Self { tries: 4, backoff: Duration::from_secs(1) }
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
}

impl Fetcher {
    /// A fetcher.
    #[must_use]
    pub fn new(store: Store, cache: Arc<Cache>, settings: FetchSettings) -> Self {
        Self { store, cache, settings }
    }

    /// Starts to fetch an archive, for which `room` was made. [`Room::received`] counts the bytes that this node has.
    ///
    /// Dropping the task stops the download; dropping the reader stops it at the next piece. Downloaded bytes are kept for the
    /// next attempt. Two fetches of the same archive wait for each other.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn start(&self, app: &App, build: &Build, room: &Arc<Room>) -> (FetchReader, FetchTask) {
        let (pieces, received) = mpsc::channel(PIECES_WAITING);
        let key = self.store.key(app, build);
        let place = self.store.place(&key);
        let download = Download {
            store: self.store.clone(),
            settings: self.settings,
            place: place.clone(),
            key,
            whole: room.whole().to_owned(),
            size_bytes: build.packed_bytes,
            pieces,
            progress: room.received(),
            room: Arc::clone(room),
            done_bytes: 0,
        };
        let handle = tokio::spawn(download.run());
        (FetchReader { received, piece: Bytes::new(), ended: false }, FetchTask { handle, place })
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

enum Piece {
    Bytes(Bytes),
    /// The archive is complete. Without this, the end of the channel is an error.
    End,
}

/// The archive's bytes as they arrive, for a thread that may block.
#[derive(Debug)]
pub struct FetchReader {
    received: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Read for FetchReader {
    /// Fails with [`io::ErrorKind::ConnectionAborted`] if the download fails; [`FetchTask::finish`] returns the reason.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.received.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download failed")),
            }
        }
        let read = self.piece.len().min(buffer.len());
        self.piece.split_to(read).copy_to_slice(buffer.get_mut(..read).unwrap_or_default());
        Ok(read)
    }
}

struct Download {
    store: Store,
    settings: FetchSettings,
    place: String,
    key: String,
    whole: PathBuf,
    size_bytes: u64,
    pieces: mpsc::Sender<Piece>,
    progress: Arc<AtomicU64>,
    room: Arc<Room>,
    /// Bytes that were sent to the reader and are in the cache.
    done_bytes: u64,
}

impl Download {
    async fn run(mut self) -> Result<Fetched, FetchError> {
        let cached_bytes = match self.open().await? {
            Cached::Part(file) => {
                let mut file = File::from_std(file);
                self.replay(&mut file).await?;
                let cached_bytes = self.done_bytes;
                if let Err(error) = self.download(&mut file).await {
                    return Err(self.give_up(error).await);
                }
                let whole = self.whole.clone();
                self.blocking(move || cache::complete(&whole)).await?;
                cached_bytes
            }
            Cached::Whole(file) => {
                self.replay(&mut File::from_std(file)).await?;
                self.done_bytes
            }
            Cached::Busy => return Err(self.stopped()), // Cannot happen: `open` waits for the other fetch.
        };
        self.send(Piece::End).await?;
        Ok(Fetched { downloaded_bytes: self.done_bytes - cached_bytes, path: self.whole, cached_bytes })
    }

    async fn open(&self) -> Result<Cached, FetchError> {
        loop {
            let (whole, size_bytes) = (self.whole.clone(), self.size_bytes);
            match self.blocking(move || cache::open(&whole, size_bytes)).await? {
                // Waiting is bounded, because the other fetch has its own limits; it downloads the same archive.
                Cached::Busy => tokio::time::sleep(LOCK_POLL).await,
                cached => return Ok(cached),
            }
        }
    }

    async fn blocking<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, FetchError>
    where
        FetchError: From<E>,
    {
        spawn_blocking(work).await.map_err(|_| self.stopped())?.map_err(FetchError::from)
    }

    /// Removes the partial archive if it fills the disk, and returns the error.
    async fn give_up(&self, error: FetchError) -> FetchError {
        if matches!(error, FetchError::NoRoom(_)) {
            let part = cache::part_path(&self.whole);
            if let Err(FetchError::Cache(left)) = self.blocking(move || cache::remove(&part)).await {
                return left.into();
            }
        }
        error
    }

    fn stopped(&self) -> FetchError {
        FetchError::Stopped { place: self.place.clone() }
    }

    async fn send(&self, piece: Piece) -> Result<(), FetchError> {
        let abandoned = |_| FetchError::Abandoned { place: self.place.clone() };
        self.pieces.send(piece).await.map_err(abandoned)
    }

    fn advance(&mut self, bytes: usize) {
        self.done_bytes += bytes as u64;
        self.progress.store(self.done_bytes, Ordering::Relaxed);
    }

    /// Sends the reader the cached bytes, and leaves the file position at the end.
    async fn replay(&mut self, file: &mut File) -> Result<(), FetchError> {
        file.set_max_buf_size(PIECE_BYTES);
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            let read = file.read_buf(&mut piece).await.map_err(CacheError::new("read", &self.whole))?;
            if read == 0 {
                return Ok(());
            }
            self.send(Piece::Bytes(piece.freeze())).await?;
            self.advance(read);
        }
    }

    async fn download(&mut self, file: &mut File) -> Result<(), FetchError> {
        let mut backoff = Backoff::new(self.settings.backoff, LONGEST_BACKOFF);
        while self.done_bytes < self.size_bytes {
            let before = self.done_bytes;
            let error = match self.receive(file).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            if self.done_bytes > before {
                backoff.succeeded();
            }
            let tries = backoff.failures() + 1;
            let is_transient = matches!(&error, FetchError::Store(e) if e.class() == Class::Transient);
            if !is_transient || tries >= self.settings.tries {
                return Err(error);
            }
            let (place, at) = (&self.place, self.done_bytes);
            tracing::debug!(%place, at, tries, %error, "{place}: resuming the download at byte {at}: {error}");
            tokio::time::sleep(backoff.pause(fastrand::f64())).await;
        }
        Ok(())
    }

    /// Receives the answer to one request, from the current position to the end of the object or the first error.
    async fn receive(&mut self, file: &mut File) -> Result<(), FetchError> {
        let mut body = self.store.get(&self.key, self.done_bytes).await?;
        if body.total_bytes() != self.size_bytes {
            return Err(self.wrong_size(body.total_bytes()));
        }
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        loop {
            let next = body.next_chunk().await;
            if let Ok(Some(chunk)) = &next {
                piece.extend_from_slice(chunk);
                if piece.len() < PIECE_BYTES {
                    continue;
                }
            }
            if self.done_bytes + piece.len() as u64 > self.size_bytes {
                return Err(self.wrong_size(self.done_bytes + piece.len() as u64));
            }
            // Also stored before an error is returned, so that the next attempt continues after it.
            self.store_piece(file, piece.split().freeze()).await?;
            match next {
                Ok(Some(_)) => {}
                Ok(None) if self.done_bytes == self.size_bytes => return Ok(()),
                Ok(None) => {
                    let source = "the answer ended early".into();
                    return Err(StoreError::Cut { place: self.place.clone(), source }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn store_piece(&mut self, file: &mut File, piece: Bytes) -> Result<(), FetchError> {
        if piece.is_empty() {
            return Ok(());
        }
        let length = piece.len();
        if self.room.is_tight(length as u64) {
            let room = Arc::clone(&self.room);
            self.blocking(move || room.widen()).await?;
        }
        let (written, sent) = tokio::join!(self.write(file, &piece), self.send(Piece::Bytes(piece.clone())));
        written?;
        sent?;
        self.advance(length);
        Ok(())
    }

    /// Writes a piece at the end of the partial archive. On a full disk, an old archive goes for each further attempt.
    async fn write(&self, file: &mut File, piece: &[u8]) -> Result<(), FetchError> {
        let failed = |e| CacheError::new("write", &cache::part_path(&self.whole))(e);
        loop {
            // Flushed at once, so that the file has `done_bytes` bytes, and a full disk is reported here.
            let write = async {
                file.write_all(piece).await?;
                file.flush().await
            };
            match write.await {
                Ok(()) => return Ok(()),
                Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {}
                Err(e) => return Err(failed(e).into()),
            }
            // A part of the piece may have been written.
            file.set_len(self.done_bytes).await.map_err(failed)?;
            file.seek(SeekFrom::Start(self.done_bytes)).await.map_err(failed)?;
            let room = Arc::clone(&self.room);
            self.blocking(move || room.sacrifice()).await?;
        }
    }

    fn wrong_size(&self, found_bytes: u64) -> FetchError {
        FetchError::WrongSize { place: self.place.clone(), recorded_bytes: self.size_bytes, found_bytes }
    }
}
