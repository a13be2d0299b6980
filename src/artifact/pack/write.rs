//! Writes the archive of a scanned tree.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use sha2::Digest;
use tar::EntryType;

use super::source::{READ_BYTES, Watch, crc, read_exactly};
use super::{Content, Entry, PackError, Packed, Tree};
use crate::artifact::compress::Compressor;
use crate::artifact::digest::sha256_id;
use crate::artifact::tar_writer::{self, TarWriter};
use crate::protocol::ids::Sha256;
use crate::protocol::record::ArchiveFormat;

/// More than one entry needs beside its name and its content: three headers, their padding, and a long link.
const MOST_HEADER_BYTES: u64 = 8 << 10;

/// The number of this way to pack. It changes whenever the bytes of any archive do, so that two ways of packing one tree are
/// two objects: after a change of this module, of the levels, or of a compressor's version.
const PACKING: u32 = 1;

impl Tree {
    /// A digest that stands for the bytes of the archive before they exist: the tree's, with what decides how it is packed.
    #[must_use]
    pub(crate) fn archive_digest(&self, format: ArchiveFormat) -> Sha256 {
        let how = format!("{} {} {PACKING}", self.digest, format.extension());
        sha256_id(sha2::Sha256::new().chain_update(how))
    }

    /// The most bytes that the archive will have, in either format: those of the tar, and what a compressor adds to content
    /// that it cannot compress (less than 1 % in gzip, RFC 1951 3.2.4, and in Zstandard, RFC 8878 3.1.1.2).
    #[must_use]
    pub(crate) fn most_packed_bytes(&self) -> u64 {
        let names = |entry: &Entry| entry.inner.as_os_str().len() as u64 + 2 * MOST_HEADER_BYTES;
        let tar = self.totals.bytes + self.entries.iter().map(names).sum::<u64>();
        tar + tar / 64 + MOST_HEADER_BYTES
    }

    /// Packs the tree into `out`; blocking.
    ///
    /// # Errors
    ///
    /// [`PackError`]; discard `out` then.
    pub fn pack(&self, format: ArchiveFormat, out: impl Write, watch: Watch<'_>) -> Result<Packed, PackError> {
        let failed = |source| PackError::Write { path: self.dir.clone(), source };
        let out = HashingWriter { inner: out, hasher: sha2::Sha256::new(), bytes: 0 };
        let compressor = self.write_tar(Compressor::new(out, format), watch)?;
        let mut out = compressor.finish().map_err(failed)?;
        out.flush().map_err(failed)?;
        Ok(Packed { sha256: sha256_id(out.hasher), packed_bytes: out.bytes })
    }

    fn write_tar<W: Write>(&self, out: W, watch: Watch<'_>) -> Result<W, PackError> {
        let (mut tar, mut buffer) = (TarWriter::new(out), vec![0; READ_BYTES]);
        for entry in &self.entries {
            self.append(entry, &mut tar, &mut buffer, watch)?;
        }
        tar.finish().map_err(|source| PackError::Write { path: self.dir.clone(), source })
    }

    fn append<W: Write>(
        &self,
        entry: &Entry,
        tar: &mut TarWriter<W>,
        buffer: &mut [u8],
        watch: Watch<'_>,
    ) -> Result<(), PackError> {
        let Entry { inner, mode, mtime_secs, content } = entry;
        let path = self.dir.join(inner);
        let written = |source| PackError::Write { path: path.clone(), source };
        // Joining an empty name adds the trailing slash of directories in tar.
        let (kind, name, target, size): (_, _, &[u8], _) = match content {
            Content::Directory => (EntryType::Directory, inner.join(""), b"", 0),
            Content::File { stamp, .. } => (EntryType::Regular, inner.clone(), b"", stamp.bytes),
            Content::Symlink(target) => (EntryType::Symlink, inner.clone(), target, 0),
        };
        let name = name.as_os_str().as_bytes();
        let header = tar_writer::Entry { kind, path: name, target, mode: *mode, size, mtime_secs: *mtime_secs };
        tar.header(&header).map_err(written)?;
        if let Content::File { stamp, sums } = content {
            let (out, mut crc) = (tar.content(), crc());
            read_exactly(&path, *stamp, buffer, watch, |piece| {
                crc.update(piece);
                out.write_all(piece).map_err(written)
            })?;
            // Size and time can be the same though the bytes are not. The object has the name of those that were scanned.
            if crc.finalize() != sums.crc {
                return Err(PackError::Changed { path });
            }
        }
        tar.pad(size).map_err(written)
    }
}

/// Digests what is written through it.
struct HashingWriter<W> {
    inner: W,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(buffer.get(..written).unwrap_or(buffer));
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
