//! The record of the parts of a partial archive, which lies behind the archive's bytes in the same file.
//!
//! ```text
//!  0                              size of the archive
//!  ├── part ──┬── part ──┬── part ──┤ magic │ part size │ version │ present bytes of each part
//!     done       half       none
//! ```
//!
//! A part is written from its start on, so one number tells what is there.
//!
//! A file that is not longer than the archive has no record: its bytes are the beginning. So the record is cut off before a
//! complete file gets its name, and files of agents that wrote no record are continued.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::artifact::store::ByteRange;

/// The start of a record. Another number at its end means another format, which is not continued.
const MAGIC: [u8; 8] = *b"cutover1";

/// The longest version that is recorded. Entity tags have some dozen bytes.
const VERSION_BYTES: usize = 254;

/// The bytes of a record before its numbers: magic, part size, length of the version, version.
const HEADER_BYTES: usize = 8 + 8 + 2 + VERSION_BYTES;

/// The bytes of a number.
const NUMBER_BYTES: usize = 4;

/// What is there of each part of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::artifact) struct Parts {
    size_bytes: u64,
    part_bytes: u64,
    /// The version of the object that the parts are from, if the store tells.
    version: Option<String>,
    /// How many bytes from its start each part has.
    present: Vec<u32>,
}

impl Parts {
    /// Parts of an archive whose first bytes are there.
    pub(in crate::artifact) fn with_beginning(size_bytes: u64, part_bytes: u64, beginning_bytes: u64) -> Self {
        let part_bytes = part_bytes.clamp(1, u32::MAX.into());
        let starts = (0..size_bytes.div_ceil(part_bytes)).map(|part| part * part_bytes);
        let present = starts.map(|start| number(beginning_bytes.saturating_sub(start).min(part_bytes))).collect();
        Self { size_bytes, part_bytes, version: None, present }
    }

    /// Reads what is there of an archive; blocking. None if the file has bytes of something else.
    pub(in crate::artifact) fn read(file: &File, size_bytes: u64, part_bytes: u64) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        if length <= size_bytes {
            return Ok(Some(Self::with_beginning(size_bytes, part_bytes, length)));
        }
        // A record has 4 bytes for each part, of which there are fewer than bytes.
        let record_bytes = (length - size_bytes).min(HEADER_BYTES as u64 + NUMBER_BYTES as u64 * size_bytes);
        let mut record = vec![0; usize::try_from(record_bytes).unwrap_or_default()];
        file.read_exact_at(&mut record, size_bytes)?;
        Ok(Self::parse(&record, size_bytes))
    }

    /// Reads a record; none if it is not one for an archive of this size.
    fn parse(record: &[u8], size_bytes: u64) -> Option<Self> {
        let (header, numbers) = record.split_at_checked(HEADER_BYTES)?;
        let (magic, header) = header.split_first_chunk::<8>()?;
        let (part_bytes, header) = header.split_first_chunk::<8>()?;
        let (version_bytes, version) = header.split_first_chunk::<2>()?;
        let part_bytes = u64::from_le_bytes(*part_bytes);
        let version = version.get(..u16::from_le_bytes(*version_bytes).into())?;
        if *magic != MAGIC || part_bytes == 0 || part_bytes > u32::MAX.into() {
            return None;
        }
        let version = (!version.is_empty()).then(|| std::str::from_utf8(version).ok().map(str::to_owned)).flatten();
        let numbers = numbers.chunks(NUMBER_BYTES).map(|bytes| bytes.try_into().ok().map(u32::from_le_bytes));
        let parts = Self { size_bytes, part_bytes, version, present: numbers.collect::<Option<_>>()? };
        let is_right = parts.present.len() as u64 == size_bytes.div_ceil(part_bytes)
            && (0..).zip(&parts.present).all(|(part, present)| u64::from(*present) <= parts.length(part));
        is_right.then_some(parts)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let version = self.version.as_ref().filter(|it| it.len() <= VERSION_BYTES).map_or(&[][..], |it| it.as_bytes());
        let mut record = Vec::with_capacity(HEADER_BYTES + NUMBER_BYTES * self.present.len());
        record.extend_from_slice(&MAGIC);
        record.extend_from_slice(&self.part_bytes.to_le_bytes());
        record.extend_from_slice(&u16::try_from(version.len()).unwrap_or_default().to_le_bytes());
        record.extend_from_slice(version);
        record.resize(HEADER_BYTES, 0);
        self.present.iter().for_each(|present| record.extend_from_slice(&present.to_le_bytes()));
        record
    }

    /// Writes the record; blocking.
    pub(in crate::artifact) fn record(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.to_bytes(), self.size_bytes)
    }

    /// Writes what is there of one part into the record, which is there already; blocking.
    pub(in crate::artifact) fn record_part(&self, file: &File, part: usize) -> io::Result<()> {
        let at = self.size_bytes + (HEADER_BYTES + NUMBER_BYTES * part) as u64;
        file.write_all_at(&number(self.present(part)).to_le_bytes(), at)
    }

    pub(in crate::artifact) const fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    pub(in crate::artifact) const fn count(&self) -> usize {
        self.present.len()
    }

    pub(in crate::artifact) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    pub(in crate::artifact) fn set_version(&mut self, version: &str) {
        self.version = Some(version.to_owned());
    }

    /// The length of a part: the last one may be shorter.
    fn length(&self, part: usize) -> u64 {
        self.size_bytes.saturating_sub(part as u64 * self.part_bytes).min(self.part_bytes)
    }

    /// How many bytes from its start a part has.
    pub(in crate::artifact) fn present(&self, part: usize) -> u64 {
        self.present.get(part).copied().unwrap_or_default().into()
    }

    /// How many bytes all parts have.
    pub(in crate::artifact) fn present_bytes(&self) -> u64 {
        self.present.iter().copied().map(u64::from).sum()
    }

    /// Counts bytes of a part: it has so many now, or more. Returns how many are new.
    pub(in crate::artifact) fn advance(&mut self, part: usize, bytes: u64) -> u64 {
        let before = self.present(part);
        if let Some(present) = self.present.get_mut(part) {
            *present = number(bytes).max(*present);
        }
        self.present(part) - before
    }

    /// What a part still lacks; none if nothing.
    pub(in crate::artifact) fn missing(&self, part: usize) -> Option<ByteRange> {
        let (start, present) = (part as u64 * self.part_bytes, self.present(part));
        let end = start + self.length(part);
        (start + present < end).then_some(ByteRange { from: start + present, end })
    }

    /// How many bytes from the beginning are there, which were at least this many before.
    pub(in crate::artifact) fn beginning(&self, before: u64) -> u64 {
        let from_part = usize::try_from(before / self.part_bytes).unwrap_or(usize::MAX);
        let missing = (from_part..self.present.len()).find_map(|part| self.missing(part));
        missing.map_or(self.size_bytes, |range| range.from)
    }
}

fn number(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SIZE: u64 = 25;
    const WHOLE: [u8; 25] = [7; 25];

    fn read(path: &Path, content: &[u8]) -> Option<Parts> {
        std::fs::write(path, content).unwrap();
        Parts::read(&File::open(path).unwrap(), SIZE, 10).unwrap()
    }

    #[test]
    fn a_file_without_a_record_is_a_beginning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let parts = read(file.path(), b"abcdefghijklm").unwrap();
        assert_eq!((parts.present_bytes(), parts.beginning(0)), (13, 13));
        assert_eq!((0..3).map(|part| parts.present(part)).collect::<Vec<_>>(), [10, 3, 0]);
        assert_eq!(read(file.path(), &WHOLE).unwrap().missing(2), None);
    }

    #[test]
    fn only_a_record_of_an_archive_of_this_size_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let right = Parts { version: Some("\"1\"".to_owned()), ..Parts::with_beginning(SIZE, 10, 12) };
        let wrong = [
            vec![0; 300],
            right.to_bytes().into_iter().chain([0]).collect(),
            [b"cutover2", &right.to_bytes()[8..]].concat(),
            Parts { part_bytes: 9, ..right.clone() }.to_bytes(),
            Parts { part_bytes: 0, ..right.clone() }.to_bytes(),
            Parts { present: vec![10, 11, 0], ..right.clone() }.to_bytes(),
            Parts { present: vec![10, 2, 6], ..right.clone() }.to_bytes(),
        ];
        for record in wrong {
            assert_eq!(read(file.path(), &[&WHOLE[..], &record].concat()), None, "{record:?}");
        }
        assert_eq!(read(file.path(), &[&WHOLE[..], &right.to_bytes()].concat()), Some(right));
    }
}
