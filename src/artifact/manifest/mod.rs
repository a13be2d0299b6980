//! The manifest of a build: every file and link of its archive, with size, mode and digest.
//!
//! It follows from the content of the archive alone, so the same archive has the same manifest, whoever publishes it and
//! whenever. It is stored beside the archive, compressed with Zstandard. The build record holds the digest and the size of
//! its text, which are checked before anything of it is used. docs/manifest.md describes the text.
//!
//! ```text
//! publish: entries of the archive ── Builder ──► Manifest ── encode ──► text ── pack ──► store
//! read:    store ── unpack (digest, size) ──► text ── decode ──► Manifest ── diff ──► files added, removed, changed
//! ```
//!
//! Non-goals: directories, times and owners are left out, because no release keeps them or they say nothing of its content.

mod builder;
mod diff;
mod escape;
mod text;

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::Digest;

pub(super) use builder::Builder;
pub(crate) use diff::diff;
use text::{decode, encode};

use crate::kind::HasKind;
use crate::protocol::ids::Sha256;
use crate::protocol::record::ManifestDigest;

/// The longest text of a manifest, in bytes: some 250,000 files with paths of 50 bytes. Whoever compares two builds holds
/// both texts in memory. A build with a longer one has no manifest.
pub(crate) const MAX_BYTES: u64 = 32 << 20;

/// Zstandard's own default.
const ZSTD_LEVEL: i32 = 3;

/// How much larger than its text a compressed manifest may be, beside an eighth of it: the frame's header and checksum.
const PACKED_EXTRA_BYTES: u64 = 1024;

/// A file or link of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A regular file; a hard link is one too.
    File { bytes: u64, mode: u32, sha256: [u8; 32] },
    /// A symbolic link.
    Link { target: Vec<u8> },
}

/// The files and links of a build, by path. Paths are bytes, relative, and joined by `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) entries: BTreeMap<Vec<u8>, Entry>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// The bytes in the store are not those that the build record names.
    #[error("its digest differs from the one in the build record: the object was changed, or cut")]
    Digest,
    /// A line is not one of this format.
    #[error("line {line} cannot be read: {problem}")]
    Line { line: usize, problem: String },
    /// The text is longer than any that is read.
    #[error("it has {bytes} bytes, and at most {MAX_BYTES} are read")]
    TooLarge { bytes: u64 },
    /// A newer program wrote it.
    #[error("it has another format than this program reads; upgrade this program")]
    Version,
    /// Zstandard failed.
    #[error("it cannot be compressed or decompressed")]
    Zstd(#[source] io::Error),
}

impl HasKind for ManifestError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Line { .. } => "line",
            Self::TooLarge { .. } => "too_large",
            Self::Version => "version",
            Self::Zstd(_) => "zstd",
        }
    }
}

/// A manifest as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackedManifest {
    /// For the build record.
    pub(crate) digest: ManifestDigest,
    /// The object.
    pub(crate) bytes: Vec<u8>,
}

/// The manifest as it is stored.
///
/// # Errors
///
/// [`ManifestError::TooLarge`] if the text is longer than [`MAX_BYTES`].
pub(crate) fn pack(manifest: &Manifest) -> Result<PackedManifest, ManifestError> {
    let text = encode(manifest);
    let bytes = text.len() as u64;
    if bytes > MAX_BYTES {
        return Err(ManifestError::TooLarge { bytes });
    }
    let digest = ManifestDigest { sha256: digest(&text), bytes };
    let bytes = zstd::stream::encode_all(text.as_slice(), ZSTD_LEVEL).map_err(ManifestError::Zstd)?;
    Ok(PackedManifest { digest, bytes })
}

/// The most bytes that the object of a manifest can have.
///
/// # Errors
///
/// [`ManifestError::TooLarge`] if the build record names a longer text than is read.
pub(crate) fn packed_limit(digest: &ManifestDigest) -> Result<u64, ManifestError> {
    if digest.bytes > MAX_BYTES {
        return Err(ManifestError::TooLarge { bytes: digest.bytes });
    }
    Ok(digest.bytes + digest.bytes / 8 + PACKED_EXTRA_BYTES)
}

/// Reads a stored manifest, whose text must be exactly the one that `digest` names. No more of it is decompressed.
///
/// # Errors
///
/// [`ManifestError`]; nothing of the manifest may be used then.
pub(crate) fn unpack(packed: &[u8], digest: &ManifestDigest) -> Result<Manifest, ManifestError> {
    packed_limit(digest)?;
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(ManifestError::Zstd)?;
    let mut text = Vec::new();
    decoder.take(digest.bytes + 1).read_to_end(&mut text).map_err(ManifestError::Zstd)?;
    if text.len() as u64 != digest.bytes || self::digest(&text) != digest.sha256 {
        return Err(ManifestError::Digest);
    }
    decode(&text)
}

fn digest(text: &[u8]) -> Sha256 {
    super::digest::sha256_id(sha2::Sha256::new().chain_update(text))
}

#[cfg(test)]
mod tests;
