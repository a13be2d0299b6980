//! Writes a tar in GNU's form: names and targets byte by byte, without owners.

use std::io::{self, Write};

use tar::{EntryType, Header};

/// What every entry is padded to, in bytes.
const BLOCK: usize = 512;
/// The length of the fields for names and targets in a header, in bytes.
const FIELD: usize = 100;

/// One entry's header.
pub(super) struct Entry<'a> {
    pub(super) kind: EntryType,
    pub(super) path: &'a [u8],
    /// The text of a link; empty for others.
    pub(super) target: &'a [u8],
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) mtime_secs: u64,
}

pub(super) struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(super) const fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes a header. The caller then writes exactly `size` bytes to [`TarWriter::content`], and calls [`TarWriter::pad`].
    pub(super) fn header(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.long(EntryType::GNULongName, entry.path)?;
        self.long(EntryType::GNULongLink, entry.target)?;
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(entry.mtime_secs);
        header.set_size(entry.size);
        let old = header.as_old_mut();
        put(&mut old.name, entry.path);
        put(&mut old.linkname, entry.target);
        self.write_header(&mut header)
    }

    pub(super) const fn content(&mut self) -> &mut W {
        &mut self.out
    }

    /// Fills the last block of `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> io::Result<()> {
        let fill = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.out.write_all([0; BLOCK].get(..fill).unwrap_or_default())
    }

    /// Writes the archive's end.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    /// Writes a name that does not fit into its field as an entry before.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        if name.len() <= FIELD {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // The name and the NUL that ends it.
        let size = name.len() as u64 + 1;
        header.set_size(size);
        put(&mut header.as_old_mut().name, b"././@LongLink");
        self.write_header(&mut header)?;
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.pad(size)
    }

    fn write_header(&mut self, header: &mut Header) -> io::Result<()> {
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }
}

/// Copies as much of a name as fits.
fn put(field: &mut [u8; FIELD], name: &[u8]) {
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
}
