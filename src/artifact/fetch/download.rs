//! Downloads the missing parts of an archive, several at once where the line is fast enough.
//!
//! The first part goes alone, and shows how fast the line is and whether the store serves parts at all. A store that sends the
//! whole object for a part (200 instead of 206) is read as one stream. A store that asks to slow down gets one request at a
//! time for the rest of the download.
//!
//! A part that breaks off is continued where it broke off, after a pause; the other parts go on. All parts are of one version
//! of the object: the requests and the answers are compared with the version of the first answer, also of an earlier attempt.
//!
//! Dropping the future stops everything. What arrived since the last piece was written is lost.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;

use super::part_file::PartFile;
use super::{Bandwidth, FetchError, FetchSettings, LONGEST_BACKOFF, PIECE_BYTES, RetryObserver};
use crate::artifact::cache::Space;
use crate::artifact::store::{ByteRange, Class, Store, StoreError, is_busy, parallel_parts};
use crate::backoff::Backoff;
use crate::telemetry::chain;

/// Size of the piece that shows how fast the line is: 40 ms at 50 Mbit/s.
const FIRST_PIECE_BYTES: usize = 256 << 10;

/// A download.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) store: Store,
    pub(super) key: String,
    pub(super) place: String,
    pub(super) settings: FetchSettings,
    pub(super) file: Arc<PartFile>,
    pub(super) space: Space,
    /// Held by the one that writes to disk, so that each finds the room that it needs.
    pub(super) writing: Mutex<()>,
    pub(super) bandwidth: Option<Arc<Bandwidth>>,
    pub(super) retries: RetryObserver,
    pub(super) line: Line,
}

/// What is known of the line and the store.
#[derive(Debug, Default)]
pub(super) struct Line {
    received_bytes: watch::Sender<u64>,
    /// When the first answer began.
    began: OnceLock<Instant>,
    /// The most parts that the line could carry so far.
    most_parts: AtomicUsize,
    /// Whether only one request at a time is useful.
    is_single: AtomicBool,
}

impl Line {
    fn begins(&self) {
        self.began.get_or_init(Instant::now);
    }

    fn received(&self, bytes: usize) {
        self.received_bytes.send_modify(|sum| *sum += bytes as u64);
    }

    /// The first piece is small, because the other parts wait for it.
    fn piece_bytes(&self) -> usize {
        if *self.received_bytes.borrow() == 0 { FIRST_PIECE_BYTES } else { PIECE_BYTES }
    }

    /// Not fewer than before: one connection that hangs makes the line no slower for the others.
    fn parallel_parts(&self, part_bytes_per_sec: u64) -> usize {
        match (self.began.get(), *self.received_bytes.borrow()) {
            (Some(began), bytes @ 1..) if !self.is_single.load(Ordering::Relaxed) => {
                let now = parallel_parts(bytes, began.elapsed(), part_bytes_per_sec);
                self.most_parts.fetch_max(now, Ordering::Relaxed).max(now)
            }
            _ => 1,
        }
    }
}

impl Download {
    pub(super) fn downloaded_bytes(&self) -> u64 {
        *self.line.received_bytes.borrow()
    }

    /// Downloads what is missing.
    pub(super) async fn run(self: &Arc<Self>) -> Result<(), FetchError> {
        let mut running = JoinSet::new();
        let mut received = self.line.received_bytes.subscribe();
        let mut next = 0;
        loop {
            while running.len() < self.line.parallel_parts(self.settings.part_bytes_per_sec)
                && let Some(part) = self.file.next_missing(next)
            {
                next = part + 1;
                let download = Arc::clone(self);
                running.spawn(async move { download.part(part).await });
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(ended) => ended.map_err(|_| self.stopped())??,
                    None => return Ok(()),
                },
                _ = received.changed() => {}
            }
        }
    }

    /// Downloads a part, with retries.
    async fn part(self: &Arc<Self>, part: usize) -> Result<(), FetchError> {
        let mut backoff = Backoff::new(self.settings.backoff, LONGEST_BACKOFF);
        while let Some(range) = self.file.missing(part) {
            let Err(error) = self.receive(range).await else { continue };
            let at = self.file.missing(part).map_or(range.end, |left| left.from);
            if at > range.from {
                backoff.succeeded();
            }
            let tries = backoff.failures() + 1;
            let FetchError::Store(reason) = &error else { return Err(error) };
            let is_final = reason.class() != Class::Transient || matches!(reason, StoreError::Replaced { .. });
            if is_final || tries >= self.settings.tries {
                return Err(error);
            }
            if is_busy(reason) {
                self.line.is_single.store(true, Ordering::Relaxed);
            }
            self.retry(reason, ByteRange { from: at, ..range }, tries, &mut backoff).await;
        }
        Ok(())
    }

    /// Tells of a failed attempt, and waits for the next one.
    async fn retry(&self, reason: &StoreError, range: ByteRange, tries: u32, backoff: &mut Backoff) {
        self.retries.retried(reason);
        let pause = backoff.pause(fastrand::f64());
        let (place, from, last) = (&self.place, range.from, range.end.saturating_sub(1));
        let (next, all, pause_ms, error) = (tries + 1, self.settings.tries, pause.as_millis(), with_cause(reason));
        tracing::info!(%place, from, last, next, pause_ms, error, "{place}: bytes {from} to {last} could not be downloaded, and attempt {next} of {all} follows in {pause_ms} ms: {error}");
        let error = chain(reason);
        tracing::debug!(%place, from, last, error, "{place}: the whole error of bytes {from} to {last}: {error}");
        tokio::time::sleep(pause).await;
    }

    /// Receives the answer to one request: a part from here to its end, or the whole object.
    async fn receive(self: &Arc<Self>, range: ByteRange) -> Result<(), FetchError> {
        let version = self.file.version();
        let mut body = match self.store.get_range(&self.key, range, version.as_deref()).await {
            Ok(body) => body,
            Err(error) => return Err(self.without_answer(error).await),
        };
        let size_bytes = self.file.size_bytes();
        if body.total_bytes() != size_bytes {
            return Err(self.wrong_size(body.total_bytes()));
        }
        if !self.file.is_of(body.version()) {
            return Err(StoreError::Replaced { place: self.place.clone() }.into());
        }
        if !body.is_range() {
            self.line.is_single.store(true, Ordering::Relaxed);
        }
        self.line.begins();
        let (mut offset, mut piece) = (range.from, BytesMut::with_capacity(PIECE_BYTES));
        loop {
            let next = body.next_chunk().await;
            if let Ok(Some(chunk)) = &next {
                if let Some(bandwidth) = &self.bandwidth {
                    bandwidth.pay(chunk.len()).await;
                }
                piece.extend_from_slice(chunk);
                if piece.len() < self.line.piece_bytes() {
                    continue;
                }
            }
            let length = piece.len();
            if offset + length as u64 > size_bytes {
                return Err(self.wrong_size(offset + length as u64));
            }
            // Also written before an error is returned, so that the next attempt continues after it.
            if length > 0 {
                self.write(offset, piece.split().freeze()).await?;
            }
            offset += length as u64;
            match next {
                Ok(Some(_)) => {}
                Ok(None) if offset >= range.end => return Ok(()),
                Ok(None) => {
                    let source = "the answer ended early".into();
                    return Err(StoreError::Cut { place: self.place.clone(), source }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn write(self: &Arc<Self>, offset: u64, piece: Bytes) -> Result<(), FetchError> {
        let (download, length) = (Arc::clone(self), piece.len());
        spawn_blocking(move || download.write_in_room(offset, &piece)).await.map_err(|_| self.stopped())??;
        self.line.received(length);
        Ok(())
    }

    /// Writes a piece; blocking. On a full disk, an old archive goes for each further attempt.
    fn write_in_room(&self, offset: u64, piece: &[u8]) -> Result<(), FetchError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.space.is_tight(piece.len() as u64) {
            self.space.widen()?;
        }
        loop {
            match self.file.write(offset, piece) {
                Err(error) if error.is_full() => self.space.sacrifice()?,
                written => return Ok(written?),
            }
        }
    }

    /// An object that ends before a part begins has the wrong size.
    async fn without_answer(&self, error: StoreError) -> FetchError {
        if matches!(&error, StoreError::Refused { code, .. } if code == "InvalidRange")
            && let Ok(Some(found_bytes)) = self.store.head(&self.key).await
            && found_bytes != self.file.size_bytes()
        {
            return self.wrong_size(found_bytes);
        }
        error.into()
    }

    fn wrong_size(&self, found_bytes: u64) -> FetchError {
        FetchError::WrongSize { place: self.place.clone(), recorded_bytes: self.file.size_bytes(), found_bytes }
    }

    fn stopped(&self) -> FetchError {
        FetchError::Stopped { place: self.place.clone() }
    }
}

/// An error in one line with its first cause, without what the libraries between say.
fn with_cause(error: &StoreError) -> String {
    let mut cause = error.source();
    while let Some(below) = cause.and_then(Error::source) {
        cause = Some(below);
    }
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}").split_whitespace().collect::<Vec<_>>().join(" ")
}
