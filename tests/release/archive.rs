//! Builds archives, good and bad ones, block by block: a library would refuse to write most of them.

use std::io::Write;
use std::path::Path;

use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::protocol::ids::Sha256;
use cutover::protocol::record::Build;
use cutover::release::{Control, Expected, UnpackError, Unpacked, unpack};
use cutover_rig::build::sample;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::Digest;

pub(crate) const ROOM: Limits = Limits { bytes: 1 << 30, entries: 1000 };

/// A tar archive, not compressed.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// A block's fields, as text or bytes that go into it verbatim.
pub(crate) struct Block<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) flag: u8,
    pub(crate) size: u64,
    pub(crate) mode: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mtime: u64,
}

impl Default for Block<'_> {
    fn default() -> Self {
        Self { name: b"", flag: b'0', size: 0, mode: b"0000644", link: b"", mtime: 1_700_000_000 }
    }
}

impl Block<'_> {
    pub(crate) fn bytes(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, self.name);
        put(100, self.mode);
        put(108, b"0000000\x000000000\x00");
        put(124, format!("{:011o}", self.size).as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(156, &[self.flag]);
        put(157, self.link);
        put(257, b"ustar\x0000");
        seal(block)
    }
}

/// Sets a block's checksum.
pub(crate) fn seal(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn content(self, content: &[u8]) -> Self {
        let fill = content.len().next_multiple_of(512) - content.len();
        self.raw(content).raw(&vec![0; fill])
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.file_with_mode(name, content, b"0000644")
    }

    pub(crate) fn file_with_mode(self, name: &str, content: &[u8], mode: &[u8]) -> Self {
        let size = content.len() as u64;
        self.raw(&Block { name: name.as_bytes(), size, mode, ..Block::default() }.bytes()).content(content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(&Block { name: name.as_bytes(), flag: b'5', mode: b"0000755", ..Block::default() }.bytes())
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.special(name, b'2', target)
    }

    pub(crate) fn hard(self, name: &str, target: &str) -> Self {
        self.special(name, b'1', target)
    }

    pub(crate) fn special(self, name: &str, flag: u8, target: &str) -> Self {
        self.raw(&Block { name: name.as_bytes(), flag, link: target.as_bytes(), ..Block::default() }.bytes())
    }

    /// An extension header: a GNU long name or target, a pax header.
    pub(crate) fn extension(self, flag: u8, content: &[u8]) -> Self {
        let size = content.len() as u64;
        self.raw(&Block { name: b"././@LongLink", flag, size, ..Block::default() }.bytes()).content(content)
    }

    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        let content: String = records.iter().map(|(key, value)| pax_record(key, value)).collect();
        self.extension(b'x', content.as_bytes())
    }

    /// The two zero blocks.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub(crate) fn pax_record(key: &str, value: &str) -> String {
    let body = key.len() + value.len() + 3;
    let length = (1..10).map(|digits| body + digits).find(|length| length.to_string().len() + body == *length);
    format!("{} {key}={value}\n", length.unwrap())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    hex::encode(sha2::Sha256::digest(bytes)).parse().unwrap()
}

/// Unpacks an archive whose build record is right about digest and size.
pub(crate) fn unpack_as_recorded(packed: &[u8], dir: &Path, limits: Limits) -> Result<Unpacked, UnpackError> {
    let sha256 = sha256(packed);
    let expected = Expected { sha256: &sha256, packed_bytes: packed.len() as u64, limits, links: LinkPolicy::Inside };
    unpack(packed, dir, &expected, &Control::default())
}

/// A build record that is right about its archive.
pub(crate) fn build(artifact: &str, packed: &[u8], limits: Limits) -> Build {
    Build {
        artifact: artifact.parse().unwrap(),
        sha256: sha256(packed),
        packed_bytes: packed.len() as u64,
        unpacked_bytes: limits.bytes,
        entries: limits.entries,
        ..sample()
    }
}
