//! Reads the archive's bytes: counts, digests and decompresses them.
//!
//! [`Source`] reads the compressed bytes, [`Decoder`] decompresses them. The digest is known only after the last byte, so the
//! unpacked tree must not be used before [`Source::verify`] has succeeded. The format is detected from the first bytes, not
//! from the file's name, so that a wrongly named archive still works.

use std::io::{self, BufReader, Chain, Cursor, Read};
use std::sync::atomic::Ordering;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::control::{Control, Expected};
use super::unpack_error::UnpackError;

/// Compressed bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// The largest window of a zstd frame, as a power of two: 8 MiB, as used by level 19 and recommended for decoders in
/// RFC 8878. `--ultra` and `--long` would need up to 2 GiB of memory on every node.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Counts and digests the bytes read through it, and fails above the expected size.
pub(super) struct Source<'a, R> {
    inner: R,
    control: &'a Control,
    digest: Sha256,
    read_bytes: u64,
    packed_bytes: u64,
    /// The reader's own error, before a decoder wraps it.
    failure: Option<io::Error>,
    too_long: bool,
}

impl<'a, R: Read> Source<'a, R> {
    pub(super) fn new(inner: R, packed_bytes: u64, control: &'a Control) -> Self {
        Self { inner, control, digest: Sha256::new(), read_bytes: 0, packed_bytes, failure: None, too_long: false }
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
        let found = hex::encode(self.digest.finalize());
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

/// The archive's bytes from the start, after the first ones were inspected.
type Whole<'a, R> = BufReader<Chain<Cursor<Vec<u8>>, Source<'a, R>>>;

/// A decompressor, selected by the archive's magic bytes. It must end exactly at the end of the source.
pub(super) enum Decoder<'a, R: Read> {
    /// gzip: all members, each with its checksum verified. Data after the last member is an error.
    Gzip(Box<MultiGzDecoder<Whole<'a, R>>>),
    /// An unknown format; every read fails.
    Unknown(Whole<'a, R>, String),
    /// All frames.
    Zstd(ZstdDecoder<'static, Whole<'a, R>>),
}

impl<'a, R: Read> Decoder<'a, R> {
    /// Selects the decompressor by the first bytes.
    ///
    /// # Errors
    ///
    /// There is no memory for a zstd decoder.
    pub(super) fn new(mut source: Source<'a, R>) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(ZSTD_MAGIC.len());
        // A failure is stored in the source, and reported by `verify`.
        drop(source.by_ref().take(4).read_to_end(&mut magic));
        let is = |bytes: &[u8]| magic.starts_with(bytes);
        let (gzip, zstd, shown) = (is(&GZIP_MAGIC), is(&ZSTD_MAGIC), hex::encode(&magic));
        let whole = BufReader::with_capacity(READ_BYTES, Cursor::new(magic).chain(source));
        if gzip {
            return Ok(Self::Gzip(Box::new(MultiGzDecoder::new(whole))));
        }
        if !zstd {
            return Ok(Self::Unknown(whole, format!("it is neither gzip nor zstd; it starts with {shown:?}")));
        }
        let mut decoder = ZstdDecoder::with_buffer(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Ok(Self::Zstd(decoder))
    }

    pub(super) fn into_source(self) -> Source<'a, R> {
        let whole = match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Unknown(whole, _) => whole,
            Self::Zstd(decoder) => decoder.finish(),
        };
        whole.into_inner().into_inner().1
    }
}

impl<R: Read> Read for Decoder<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Unknown(_, problem) => Err(io::Error::other(problem.clone())),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}
