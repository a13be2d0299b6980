//! Sparse files: files with holes, of which only the data between the holes is stored.
//!
//! Four forms exist: the type flag `S` with a map in the header and in blocks after it (GNU tar's own format), and three
//! versions of pax records: 0.0 and 0.1 with the map in the pax header, 1.0 with the map before the data.

use super::field::number;
use super::header::RawHeader;

/// The most parts of a sparse file. 16 bytes of memory for each.
pub(super) const MAX_EXTENTS: usize = 1 << 20;

/// A part of a file that is stored in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where it begins in the file.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// What pax records say about a sparse file.
#[derive(Clone, Debug, Default)]
pub(super) struct PaxMap {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    /// The file's name; the header has that of a directory for programs that do not know sparse files.
    pub(super) name: Option<Vec<u8>>,
    /// The file's length with its holes.
    pub(super) real_size: Option<u64>,
    pub(super) extents: Vec<Extent>,
    /// The offset of a part whose length follows.
    begun: Option<u64>,
}

impl PaxMap {
    pub(super) fn is_sparse(&self) -> bool {
        self.major.is_some() || self.real_size.is_some()
    }

    /// Whether the map is stored before the data.
    pub(super) fn is_version_1(&self) -> bool {
        self.major == Some(1) && self.minor.unwrap_or_default() == 0
    }

    pub(super) fn begin(&mut self, offset: u64) {
        self.begun = Some(offset);
    }

    pub(super) fn end(&mut self, len: u64) -> Result<(), &'static str> {
        let offset = self.begun.take().ok_or("the map of a sparse file has a length without an offset")?;
        self.extents.push(Extent { offset, len });
        Ok(())
    }
}

/// Adds the parts of `count` fields in a header or in a block after it, each an offset and a length of 12 bytes. An empty field
/// ends the list.
pub(super) fn add_fields(fields: &[u8], extents: &mut Vec<Extent>) -> Result<(), &'static str> {
    for field in fields.chunks_exact(24) {
        let (offset, len) = field.split_at(12);
        if len.first() == Some(&0) && offset.first() == Some(&0) {
            return Ok(());
        }
        let read = |text| number(text).ok_or("a number in the map of a sparse file is malformed");
        extents.push(Extent { offset: read(offset)?, len: read(len)? });
    }
    Ok(())
}

/// The parts in a GNU header, which may go on in blocks after it.
pub(super) fn header_fields(header: &RawHeader) -> &[u8] {
    header.field(386, 4 * 24)
}

/// Whether a block of fields follows a GNU header.
pub(super) fn goes_on(header: &RawHeader) -> bool {
    header.field(482, 1) != [0]
}

/// The length of the file in a GNU header, with its holes.
pub(super) fn real_size(header: &RawHeader) -> Option<u64> {
    number(header.field(483, 12))
}

/// Checks a map: in order, without overlaps, inside the file, and with exactly the stored bytes. Parts without data are dropped.
pub(super) fn checked(extents: Vec<Extent>, real_size: u64, stored: u64) -> Result<Vec<Extent>, &'static str> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for extent in &extents {
        if extent.offset < end {
            return Err("the map of a sparse file is not in order");
        }
        end = extent.offset.checked_add(extent.len).ok_or("the map of a sparse file has a number that is too large")?;
        sum = sum.saturating_add(extent.len);
    }
    if end > real_size {
        return Err("the map of a sparse file goes beyond its end");
    }
    if sum != stored {
        return Err("the map of a sparse file does not match the stored data");
    }
    Ok(extents.into_iter().filter(|extent| extent.len > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_matches_the_file_and_the_data() {
        let map = |extents: &[(u64, u64)]| extents.iter().map(|&(offset, len)| Extent { offset, len }).collect();
        assert_eq!(checked(map(&[(0, 2), (5, 3), (9, 0)]), 9, 5).unwrap(), map(&[(0, 2), (5, 3)]));
        assert_eq!(checked(map(&[]), 9, 0).unwrap(), []);
        for (extents, real_size, stored) in [
            (&[(5, 3), (0, 2)][..], 9, 5),
            (&[(0, 3), (2, 2)], 9, 5),
            (&[(0, 10)], 9, 10),
            (&[(0, 2)], 9, 3),
            (&[(u64::MAX, 2)], u64::MAX, 2),
        ] {
            assert!(checked(map(extents), real_size, stored).is_err(), "{extents:?}");
        }
    }
}
