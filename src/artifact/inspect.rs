//! Reads a finished archive for `cutover publish --file`, to its last byte, so that damage is found before the upload and not
//! on every node.
//!
//! Bytes and entries are counted as the nodes count them. The names of entries are not checked; the nodes do that.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::Digest;
use tar::Archive;

use super::pack::sha256_id;
use crate::kind::HasKind;
use crate::protocol::ids::Sha256;
use crate::protocol::record::ArchiveFormat;

/// The first bytes of gzip: RFC 1952, 2.3.1.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// The first bytes of Zstandard: RFC 8878, 3.1.1.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Bytes read from the archive at once.
const READ_BYTES: usize = 256 << 10;

/// The content of an archive, for its build record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The compression, by the first bytes of the file.
    pub format: ArchiveFormat,
    /// Digest of the whole file.
    pub sha256: Sha256,
    /// Size of the file.
    pub packed_bytes: u64,
    /// As `Build::unpacked_bytes`.
    pub unpacked_bytes: u64,
    /// As `Build::entries`.
    pub entries: u64,
}

/// Why a file is not an acceptable archive.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file is truncated, a checksum is wrong, or the content is not a tar archive.
    #[error("{} is damaged, or not a tar archive", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// The decoder's error.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        source: io::Error,
    },
    /// Neither gzip nor Zstandard.
    #[error("{} is neither tar.gz nor tar.zst by its first bytes; pack it with `tar -czf` or `tar --zstd -cf`", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
}

impl HasKind for InspectError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "damaged",
            Self::Read { .. } => "read",
            Self::UnknownFormat { .. } => "unknown_format",
        }
    }
}

/// Reads the whole archive; blocking.
///
/// # Errors
///
/// [`InspectError`]: the file cannot be read, is of another format, or is damaged anywhere.
pub fn inspect(path: &Path) -> Result<Inspected, InspectError> {
    let read = |source| InspectError::Read { path: path.to_owned(), source };
    let damaged = |source| InspectError::Damaged { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let format = format_of(&mut file).map_err(read)?.ok_or(InspectError::UnknownFormat { path: path.to_owned() })?;
    let hashing = HashingReader { inner: file, hasher: sha2::Sha256::new(), bytes: 0 };
    let buffered = BufReader::with_capacity(READ_BYTES, hashing);
    let (counted, mut rest) = match format {
        ArchiveFormat::TarGz => {
            let mut gzip = MultiGzDecoder::new(buffered);
            let counted = count(&mut gzip).map_err(damaged)?;
            (counted, gzip.into_inner())
        }
        ArchiveFormat::TarZst => {
            let mut zstd = zstd::stream::read::Decoder::with_buffer(buffered).map_err(damaged)?;
            let counted = count(&mut zstd).map_err(damaged)?;
            (counted, zstd.finish())
        }
    };
    // `count` reads the decoder to its end, which should be the end of the file. Read the rest anyway, because the digest
    // must cover the whole file.
    io::copy(&mut rest, &mut io::sink()).map_err(read)?;
    let hashing = rest.into_inner();
    Ok(Inspected {
        format,
        sha256: sha256_id(hashing.hasher),
        packed_bytes: hashing.bytes,
        unpacked_bytes: counted.unpacked_bytes,
        entries: counted.entries,
    })
}

fn format_of(file: &mut File) -> io::Result<Option<ArchiveFormat>> {
    let mut first = Vec::new();
    Read::by_ref(file).take(4).read_to_end(&mut first)?;
    file.rewind()?;
    Ok(if first.starts_with(GZIP_MAGIC) {
        Some(ArchiveFormat::TarGz)
    } else if first.starts_with(ZSTD_MAGIC) {
        Some(ArchiveFormat::TarZst)
    } else {
        None
    })
}

#[derive(Default)]
struct Counted {
    unpacked_bytes: u64,
    entries: u64,
}

fn count(decoder: &mut impl Read) -> io::Result<Counted> {
    let mut archive = Archive::new(&mut *decoder);
    let mut counted = Counted::default();
    for entry in archive.entries()? {
        let entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            counted.unpacked_bytes = counted.unpacked_bytes.saturating_add(entry.size());
        }
        counted.entries += 1;
    }
    // After the tar archive come padding and the compressor's checksum, which reading verifies.
    io::copy(decoder, &mut io::sink())?;
    if counted.entries == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(counted)
}

struct HashingReader<R> {
    inner: R,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or(buffer));
        self.bytes += read as u64;
        Ok(read)
    }
}
