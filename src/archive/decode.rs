//! Decompresses an archive: gzip with all its members, or Zstandard with all its frames.
//!
//! The format is detected from the first bytes, not from a name, so that a wrongly named archive still works.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::GzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

/// Compressed bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// The largest window of a zstd frame, as a power of two: 128 MiB, which the zstd tool decodes without an option too. A decoder
/// allocates what the frame's header says: 8 MiB or less for levels up to 19.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// The first bytes of gzip: RFC 1952, 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The first bytes of a zstd frame: RFC 8878, 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first bytes of a skippable zstd frame after its first one, which is 0x50 to 0x5f: RFC 8878, 3.1.2. pzstd begins with one.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// The compression of an archive, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Unknown,
    Zstd,
}

impl Format {
    fn of(magic: &[u8]) -> Self {
        let skippable = magic.split_first().is_some_and(|(first, rest)| first & 0xf0 == 0x50 && rest == ZSTD_SKIPPABLE);
        if magic.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if magic == ZSTD_MAGIC || skippable {
            Self::Zstd
        } else {
            Self::Unknown
        }
    }
}

/// The archive's bytes from the start, after the first ones were inspected.
type Whole<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// A decompressor, selected by the archive's magic bytes. It must end exactly at the end of the source.
pub(crate) enum Decoder<R: Read> {
    Gzip(Members<Whole<R>>),
    /// Every read fails.
    Unknown {
        whole: Whole<R>,
        magic: String,
    },
    Zstd(ZstdDecoder<'static, Whole<R>>),
}

impl<R: Read> Decoder<R> {
    /// Selects the decompressor by the first bytes. An error of the source is returned by a later read.
    ///
    /// # Errors
    ///
    /// There is no memory for a zstd decoder.
    pub(crate) fn new(mut source: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(ZSTD_MAGIC.len());
        // The source fails again when it is read on.
        drop(source.by_ref().take(4).read_to_end(&mut magic));
        let (format, shown) = (Format::of(&magic), hex::encode(&magic));
        let whole = BufReader::with_capacity(READ_BYTES, Cursor::new(magic).chain(source));
        Ok(match format {
            Format::Gzip => Self::Gzip(Members { state: Member::Open(Box::new(GzDecoder::new(whole))) }),
            Format::Unknown => Self::Unknown { whole, magic: shown },
            Format::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(whole)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Self::Zstd(decoder)
            }
        })
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Gzip(_) => Format::Gzip,
            Self::Unknown { .. } => Format::Unknown,
            Self::Zstd(_) => Format::Zstd,
        }
    }

    /// The source, to read what the decoder did not; `None` never happens between two reads.
    pub(crate) fn into_source(self) -> Option<R> {
        let whole = match self {
            Self::Gzip(members) => members.into_inner()?,
            Self::Unknown { whole, .. } => whole,
            Self::Zstd(decoder) => decoder.finish(),
        };
        Some(whole.into_inner().into_inner().1)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(members) => members.read(buf),
            Self::Unknown { magic, .. } => {
                Err(io::Error::other(format!("it is neither gzip nor zstd; it starts with {magic:?}")))
            }
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// gzip: all members, each with its checksum verified. After the last one only zeros may follow, as tapes and the gzip tool
/// allow.
pub(crate) struct Members<R> {
    state: Member<R>,
}

enum Member<R> {
    /// Nothing is known yet; kept only while the state changes.
    Between,
    /// Behind the last member.
    Ended(R),
    Open(Box<GzDecoder<R>>),
}

impl<R: BufRead> Members<R> {
    fn into_inner(self) -> Option<R> {
        match self.state {
            Member::Between => None,
            Member::Ended(inner) => Some(inner),
            Member::Open(decoder) => Some(decoder.into_inner()),
        }
    }

    /// Goes on behind a member.
    fn go_on(&mut self, mut inner: R) -> io::Result<()> {
        let next = inner.fill_buf().map(|buf| buf.first().copied());
        if matches!(next, Ok(Some(1..))) {
            self.state = Member::Open(Box::new(GzDecoder::new(inner)));
            return Ok(());
        }
        let ended = next.and_then(|_| skip_zeros(&mut inner));
        self.state = Member::Ended(inner);
        ended
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.state {
                Member::Between | Member::Ended(_) => return Ok(0),
                Member::Open(decoder) => match decoder.read(buf)? {
                    0 if !buf.is_empty() => {}
                    read => return Ok(read),
                },
            }
            if let Member::Open(decoder) = std::mem::replace(&mut self.state, Member::Between) {
                self.go_on(decoder.into_inner())?;
            }
        }
    }
}

/// Reads zeros to the end.
fn skip_zeros(inner: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buf = inner.fill_buf()?;
        if buf.iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("there is data after the last gzip member"));
        }
        match buf.len() {
            0 => return Ok(()),
            read => inner.consume(read),
        }
    }
}
