//! Reads the archive's compressed bytes: counts them, and has a thread of its own digest them, because the reading thread
//! decompresses them.
//!
//! The digest is known only after the last byte, so the unpacked tree must not be used before [`Source::verify`] has succeeded.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use super::control::{Control, Expected};
use super::unpack_error::UnpackError;

/// Compressed bytes read at once, behind the archive's end.
const READ_BYTES: usize = 64 << 10;
/// Pieces that may wait for the digest. One is as long as a read of the decoder: 64 KiB.
const PIECES: usize = 4;

/// Counts and digests the bytes read through it, and fails above the expected size.
pub(super) struct Source<'a, R> {
    inner: R,
    control: &'a Control,
    digest: Digesting,
    read_bytes: u64,
    packed_bytes: u64,
    /// The reader's own error, before a decoder wraps it.
    failure: Option<io::Error>,
    too_long: bool,
}

impl<'a, R: Read> Source<'a, R> {
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(super) fn new(inner: R, packed_bytes: u64, control: &'a Control) -> io::Result<Self> {
        let digest = Digesting::start()?;
        Ok(Self { inner, control, digest, read_bytes: 0, packed_bytes, failure: None, too_long: false })
    }

    /// Reads the rest, and checks the archive against the build record. A mismatch takes precedence over errors inside the
    /// archive, because it explains them; an error of this node's disk is returned as it is.
    pub(super) fn verify<T>(
        mut self,
        expected: &Expected<'_>,
        outcome: Result<T, UnpackError>,
    ) -> Result<T, UnpackError> {
        let about_the_disk =
            matches!(outcome, Err(UnpackError::Write { .. } | UnpackError::Directory { .. } | UnpackError::Writer));
        if about_the_disk && !self.control.is_canceled() {
            return outcome;
        }
        let mut rest = vec![0; READ_BYTES];
        while self.failure.is_none() && !self.too_long {
            // Reads on although the unpack has failed: only the digest shows whether the archive or its transfer is at fault.
            // A failure of this read is in `self.failure`, and is checked below.
            if let Ok(0) = self.read(&mut rest) {
                break;
            }
        }
        if self.control.is_canceled() {
            return Err(UnpackError::Canceled);
        }
        if let Some(error) = self.failure {
            return Err(UnpackError::Source(error));
        }
        if self.too_long {
            return Err(UnpackError::TooLong { expected: self.packed_bytes });
        }
        if self.read_bytes < self.packed_bytes {
            return Err(UnpackError::TooShort { expected: self.packed_bytes, found: self.read_bytes });
        }
        let found = hex::encode(self.digest.finish().ok_or(UnpackError::Writer)?);
        if found != expected.sha256.as_str() {
            return Err(UnpackError::Digest { expected: expected.sha256.to_string(), found });
        }
        outcome
    }
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let stop = |why: &str| Err(io::Error::other(why.to_owned()));
        if self.failure.is_some() || self.too_long {
            return stop("the archive's source has failed");
        }
        let n = loop {
            if self.control.is_canceled() {
                self.failure = Some(io::Error::other("canceled"));
                return stop("canceled");
            }
            match self.inner.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failure = Some(error);
                    return stop("the archive's source has failed");
                }
                Ok(n) => break n,
            }
        };
        let Some(read) = buf.get(..n) else { return stop("the archive's source returned a wrong length") };
        self.digest.update(read);
        self.read_bytes = self.read_bytes.saturating_add(n.try_into().unwrap_or(u64::MAX));
        self.control.packed_bytes.store(self.read_bytes, Ordering::Relaxed);
        if self.read_bytes > self.packed_bytes {
            self.too_long = true;
            return stop("the archive is too long");
        }
        Ok(n)
    }
}

/// A digest that a thread of its own computes. The thread ends when this is dropped.
struct Digesting {
    thread: JoinHandle<[u8; 32]>,
    /// To the thread.
    pieces: SyncSender<Vec<u8>>,
    /// Back from it.
    free: Receiver<Vec<u8>>,
}

impl Digesting {
    fn start() -> io::Result<Self> {
        let (pieces, work) = sync_channel::<Vec<u8>>(PIECES);
        // Room for every piece: the thread never waits to return one.
        let (done, free) = sync_channel(2 * PIECES);
        let run = move || {
            let mut digest = Sha256::new();
            for piece in work {
                digest.update(&piece);
                drop(done.try_send(piece));
            }
            digest.finalize().into()
        };
        let thread = std::thread::Builder::new().name("unpack-digest".to_owned()).spawn(run)?;
        Ok(Self { thread, pieces, free })
    }

    fn update(&self, bytes: &[u8]) {
        let mut piece = self.free.try_recv().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(bytes);
        // Fails only if the thread has panicked, and then `finish` returns no digest.
        drop(self.pieces.send(piece));
    }

    /// The digest; none if the thread has panicked.
    fn finish(self) -> Option<[u8; 32]> {
        drop(self.pieces);
        self.thread.join().ok()
    }
}
