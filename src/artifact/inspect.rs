//! Reads a finished archive for `cutover publish --file`, to its last byte, so that what a node would refuse is found before the
//! upload.
//!
//! The archive passes through the reader and the plan of the nodes ([`crate::archive`]); nothing is written. Bytes and entries are
//! those that the nodes count.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::Digest;

use super::digest::sha256_id;
use super::manifest::{Builder, Manifest};
use crate::archive::{self, Archive, Decoder, Format, ReadError};
use crate::kind::HasKind;
use crate::plan::unpack::{Limits, LinkPolicy, Refusal, UnpackPlan};
use crate::protocol::ids::Sha256;
use crate::protocol::record::ArchiveFormat;

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
    /// Its files.
    pub(crate) manifest: Manifest,
}

/// Why a file is not an acceptable archive.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file is truncated, a checksum is wrong, or the content is not a tar archive.
    #[error("{} is damaged, or not a tar archive: {problem}", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        source: io::Error,
    },
    /// An entry that every node would refuse.
    #[error("{} cannot be unpacked on the nodes", path.display())]
    Refused {
        /// The archive.
        path: PathBuf,
        /// The entry, the reason, and what to do.
        source: Refusal,
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
            Self::Refused { .. } => "refused",
            Self::UnknownFormat { .. } => "unknown_format",
        }
    }
}

/// Reads the whole archive; blocking. `links` are the symbolic links that are accepted.
///
/// # Errors
///
/// [`InspectError`]: the file cannot be read, is of another format, is damaged anywhere, or a node would refuse it.
pub fn inspect(path: &Path, links: LinkPolicy) -> Result<Inspected, InspectError> {
    let unreadable = |source| InspectError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let hashing = HashingReader { inner: file, hasher: sha2::Sha256::new(), bytes: 0, failure: None };
    let decoder = Decoder::new(hashing).map_err(unreadable)?;
    let format = match decoder.format() {
        Format::Gzip => Some(ArchiveFormat::TarGz),
        Format::Unknown => None,
        Format::Zstd => Some(ArchiveFormat::TarZst),
    };
    let mut archive = Archive::new(decoder);
    let mut plan = UnpackPlan::new(Limits::NONE, links);
    let mut files = Builder::default();
    let totals = archive::read(&mut archive, &mut plan, |action, content| files.add(action, content));
    let hashing = archive.into_inner().into_source();
    let Some(mut hashing) = hashing else { return Err(unreadable(io::ErrorKind::UnexpectedEof.into())) };
    if let Some(source) = hashing.failure.take() {
        return Err(unreadable(source));
    }
    let Some(format) = format else { return Err(InspectError::UnknownFormat { path: path.to_owned() }) };
    let totals = totals.map_err(|error| match error {
        ReadError::Damaged(problem) => InspectError::Damaged { path: path.to_owned(), problem },
        ReadError::Refused(source) => InspectError::Refused { path: path.to_owned(), source },
    })?;
    Ok(Inspected {
        format,
        sha256: sha256_id(hashing.hasher),
        packed_bytes: hashing.bytes,
        unpacked_bytes: totals.bytes,
        entries: totals.entries,
        manifest: files.finish(),
    })
}

/// Digests what is read through it. A decoder reads to the end of the file, unless the archive is refused.
struct HashingReader<R> {
    inner: R,
    hasher: sha2::Sha256,
    bytes: u64,
    /// The file's own error, before a decoder wraps it.
    failure: Option<io::Error>,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the file cannot be read"));
                }
                Ok(read) => break read,
            }
        };
        self.hasher.update(buffer.get(..read).unwrap_or(buffer));
        self.bytes += read as u64;
        Ok(read)
    }
}
