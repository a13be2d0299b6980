//! Compresses on all cores: cuts what is written into blocks of one size, each of which becomes a gzip member or a zstd frame.
//!
//! ```text
//!  writer ── full block ──► queue ──► workers, one encoder each ──┐
//!    ▲                                                            │
//!    └── writes the results to the inner writer, in order ◄───────┘
//! ```
//!
//! The bytes depend on the input alone, not on the number of threads or on how the input is cut into writes, because size of
//! blocks and level are constants, and a block is compressed without what came before it. Every tool that reads gzip or zstd
//! reads members and frames one after another.
//!
//! Sizes of blocks, measured on 63 MB of Rust sources (first figure) and 120 MB of machine code, each as a part of the input,
//! where one stream has 0.1682 and 0.4446 (gzip), and 0.1250 and 0.4199 (zstd):
//!
//! | block   | gzip            | zstd            |
//! |---------|-----------------|-----------------|
//! | 128 KiB | 0.1748   0.4516 | 0.1767   0.4544 |
//! | 1 MiB   | 0.1691   0.4455 | 0.1432   0.4267 |
//! | 2 MiB   | 0.1686   0.4450 | 0.1328   0.4229 |
//! | 4 MiB   | 0.1683   0.4448 | 0.1291   0.4206 |
//! | 8 MiB   | 0.1683   0.4447 | 0.1260   0.4197 |
//!
//! From 1 MiB on, the size makes no difference to the processor's time. Larger blocks need more memory, and leave cores idle when
//! a release has only a few of them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::zstd_safe::{CParameter, compress_bound};

use crate::protocol::record::ArchiveFormat;

/// gzip's own default: level 9 costs three times as much for 1 % less.
const GZIP_LEVEL: u32 = 6;
/// Zstandard's own default: smaller and several times faster than gzip's.
const ZSTD_LEVEL: i32 = 3;
/// A match is at most 32 KiB away, so small blocks lose little.
const GZIP_BLOCK: usize = 1 << 20;
/// Twice the window of the level.
const ZSTD_BLOCK: usize = 4 << 20;
/// The window of gzip, as a power of two: always 32 KiB.
const GZIP_WINDOW_LOG: u8 = 15;

/// More workers would wait for the one thread that reads the files. With them, the blocks need at most 256 MiB.
const MAX_THREADS: usize = 16;
/// Blocks in work for each thread: one that it compresses, and one that waits for it, or for the results before it.
const BLOCKS_PER_THREAD: usize = 2;

/// How many threads work on one archive.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS)
}

/// Compresses what is written to it.
///
/// Needs memory for [`BLOCKS_PER_THREAD`] blocks and their results per thread. After an error, everything else fails too.
/// Dropping it stops the workers, and waits until they have ended.
pub(super) struct Compressor<W> {
    inner: W,
    /// The last block. It is empty only if nothing was written yet.
    filling: Block,
    /// Used blocks, to fill again.
    spare: Vec<Block>,
    pool: Pool,
}

impl<W: Write> Compressor<W> {
    /// Compresses with as many threads as the machine, or the limit of the container, offers.
    pub(super) fn new(inner: W, format: ArchiveFormat) -> Self {
        Self::with_threads(inner, format, threads())
    }

    fn with_threads(inner: W, format: ArchiveFormat, threads: usize) -> Self {
        let pool = Pool::new(format, threads);
        Self { inner, filling: Block::of(format), spare: Vec::new(), pool }
    }

    /// Compresses the rest, and returns the inner writer, which is not flushed.
    ///
    /// # Errors
    ///
    /// Those of the inner writer, or there is no thread or memory for a compressor.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.submit()?;
        while self.write_oldest()? {}
        Ok(self.inner)
    }

    /// Hands the last block to the workers, and writes what they have finished: whoever reads the archive while it is written
    /// need not wait for its end.
    fn submit(&mut self) -> io::Result<()> {
        while self.pool.is_full() || self.pool.has_finished_oldest() {
            self.write_oldest()?;
        }
        let next = self.spare.pop().unwrap_or_else(|| Block::of(self.pool.format));
        self.pool.submit(std::mem::replace(&mut self.filling, next))
    }

    /// Waits for the oldest block in work, and writes it. Returns whether there was one.
    fn write_oldest(&mut self) -> io::Result<bool> {
        let Some(done) = self.pool.oldest() else { return Ok(false) };
        let written = done.and_then(|block| self.inner.write_all(&block.packed).map(|()| block));
        let mut block = written.inspect_err(|_| self.pool.stop())?;
        block.plain.clear();
        self.spare.push(block);
        Ok(true)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full block waits for the first byte of the next one, so that the archive never ends with an empty block.
        if self.filling.room() == 0 && !bytes.is_empty() {
            self.submit()?;
        }
        let taken = bytes.get(..self.filling.room()).unwrap_or(bytes);
        self.filling.plain.extend_from_slice(taken);
        Ok(taken.len())
    }

    /// Does not compress the last block, because the size of blocks would then depend on the caller.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A part of the input, and its compressed form.
struct Block {
    plain: Vec<u8>,
    size: usize,
    packed: Vec<u8>,
}

impl Block {
    fn of(format: ArchiveFormat) -> Self {
        let size = match format {
            ArchiveFormat::TarGz => GZIP_BLOCK,
            ArchiveFormat::TarZst => ZSTD_BLOCK,
        };
        Self { plain: Vec::with_capacity(size), size, packed: Vec::new() }
    }

    /// The bytes that are left until it is full.
    fn room(&self) -> usize {
        self.size - self.plain.len()
    }
}

/// A block for whichever worker is free, and where it sends the result.
struct Job {
    block: Block,
    done: SyncSender<io::Result<Block>>,
}

/// The workers, and the blocks in work in their order.
struct Pool {
    format: ArchiveFormat,
    threads: usize,
    /// `None` after the end.
    queue: Option<SyncSender<Job>>,
    jobs: Arc<Mutex<Receiver<Job>>>,
    stopped: Arc<AtomicBool>,
    pending: VecDeque<Receiver<io::Result<Block>>>,
    /// The result of the oldest block, if it was looked at before it was needed.
    oldest: Option<io::Result<Block>>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    fn new(format: ArchiveFormat, threads: usize) -> Self {
        let (queue, jobs) = mpsc::sync_channel(threads * BLOCKS_PER_THREAD);
        Self {
            format,
            threads,
            queue: Some(queue),
            jobs: Arc::new(Mutex::new(jobs)),
            stopped: Arc::default(),
            pending: VecDeque::new(),
            oldest: None,
            workers: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= self.threads * BLOCKS_PER_THREAD
    }

    /// Adds a block; waits only if the pool [is full](Pool::is_full).
    fn submit(&mut self, block: Block) -> io::Result<()> {
        self.add_worker()?;
        let (done, result) = mpsc::sync_channel(1);
        let Some(queue) = &self.queue else { return Err(ended()) };
        queue.send(Job { block, done }).map_err(|_| ended())?;
        self.pending.push_back(result);
        Ok(())
    }

    /// Starts another worker if the ones there are may all be busy: small archives need no more than one.
    fn add_worker(&mut self) -> io::Result<()> {
        if self.workers.len() >= self.threads || self.workers.len() > self.pending.len() {
            return Ok(());
        }
        let mut encoder = Encoder::new(self.format)?;
        let (jobs, stopped) = (Arc::clone(&self.jobs), Arc::clone(&self.stopped));
        let worker = thread::Builder::new().name("compress".to_owned()).spawn(move || {
            while let Some(job) = next(&jobs).filter(|_| !stopped.load(Ordering::Relaxed)) {
                // The receiver is gone if the compressor was dropped.
                drop(job.done.send(encoder.encode(job.block)));
            }
        });
        match worker {
            Ok(worker) => self.workers.push(worker),
            Err(error) if self.workers.is_empty() => return Err(error),
            // A limit on threads. Fewer give the same bytes.
            Err(_) => self.threads = self.workers.len(),
        }
        Ok(())
    }

    /// Whether the oldest block in work is finished.
    fn has_finished_oldest(&mut self) -> bool {
        if self.oldest.is_none()
            && let Some(Ok(done)) = self.pending.front().map(Receiver::try_recv)
        {
            self.oldest = Some(done);
        }
        self.oldest.is_some()
    }

    /// The result of the oldest block in work, once it is there.
    fn oldest(&mut self) -> Option<io::Result<Block>> {
        let result = self.pending.pop_front()?;
        Some(self.oldest.take().unwrap_or_else(|| result.recv().unwrap_or_else(|_| Err(ended()))))
    }

    /// Lets the workers end after the blocks that they compress now.
    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.queue = None;
        self.pending.clear();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
        for worker in self.workers.drain(..) {
            // Where a panic does not end the program, it has been reported, and the worker's block has failed.
            drop(worker.join());
        }
    }
}

/// The next job; none after the end.
fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn ended() -> io::Error {
    io::Error::other("the compressor has ended")
}

/// Compresses one block after another, with the same memory.
enum Encoder {
    Gzip(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    fn new(format: ArchiveFormat) -> io::Result<Self> {
        match format {
            ArchiveFormat::TarGz => Ok(Self::Gzip(Compress::new_gzip(Compression::new(GZIP_LEVEL), GZIP_WINDOW_LOG))),
            ArchiveFormat::TarZst => {
                let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                zstd.set_parameter(CParameter::ChecksumFlag(true))?;
                Ok(Self::Zstd(zstd))
            }
        }
    }

    fn encode(&mut self, mut block: Block) -> io::Result<Block> {
        let Block { plain, packed, .. } = &mut block;
        packed.clear();
        match self {
            Self::Gzip(gzip) => {
                // Header and checksum, and what deflate adds to incompressible bytes: 5 for every 16 KiB.
                packed.reserve(plain.len() + plain.len() / 1024 + 64);
                gzip.reset();
                match gzip.compress_vec(plain, packed, FlushCompress::Finish)? {
                    Status::StreamEnd => {}
                    Status::Ok | Status::BufError => return Err(io::Error::other("gzip has no room for its output")),
                }
            }
            Self::Zstd(zstd) => {
                packed.reserve(compress_bound(plain.len()));
                zstd.compress_to_buffer(plain, packed)?;
            }
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests;
