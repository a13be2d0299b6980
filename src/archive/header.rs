//! One block of a tar that describes an entry: v7, ustar, GNU, pax and star all share this layout.

use super::field::{Mtime, mtime, number, text_of};

/// The size of everything in a tar, in bytes.
pub(super) const BLOCK: usize = 512;

/// A block of a tar.
pub(super) type Block = [u8; BLOCK];

/// The magic of ustar and pax, which split long names into a prefix and a name. GNU tar uses another magic and does not.
const USTAR: &[u8] = b"ustar\0";

/// A header with a correct checksum.
#[derive(Clone, Debug)]
pub(super) struct RawHeader {
    block: Block,
}

impl RawHeader {
    /// `None` if the checksum is wrong.
    pub(super) fn new(block: &Block) -> Option<Self> {
        let header = Self { block: *block };
        let checksum = number(header.field(148, 8))?;
        let bytes = || {
            let own = 148..156; // The checksum is computed with blanks in its own field.
            header.block.iter().enumerate().map(move |(at, byte)| if own.contains(&at) { b' ' } else { *byte })
        };
        let unsigned: u64 = bytes().map(u64::from).sum();
        // Some old programs add signed bytes.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        (checksum == unsigned || i64::try_from(checksum) == Ok(signed)).then_some(header)
    }

    pub(super) fn field(&self, at: usize, len: usize) -> &[u8] {
        self.block.get(at..at + len).unwrap_or_default()
    }

    pub(super) fn flag(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or_default()
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text_of(self.field(0, 100));
        // star uses the end of the prefix for times, with a NUL before them.
        let prefix = if self.field(257, 6) == USTAR { text_of(self.field(345, 155)) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn target(&self) -> Vec<u8> {
        text_of(self.field(157, 100)).to_vec()
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(self.field(124, 12))
    }

    pub(super) fn mode(&self) -> Option<u32> {
        Some(u32::try_from(number(self.field(100, 8))? & 0o7777).unwrap_or_default())
    }

    pub(super) fn mtime(&self) -> Option<Mtime> {
        mtime(self.field(136, 12))
    }
}
