//! The parts of minisign's format that keys and signatures share.

use blake2::{Blake2b512, Digest as _};

/// The algorithm in keys: Ed25519.
pub(super) const KEY_ALGORITHM: &[u8] = b"Ed";
/// The algorithm in signatures: Ed25519 of a `BLAKE2b-512`.
pub(super) const ALGORITHM: &[u8] = b"ED";
pub(super) const UNTRUSTED: &str = "untrusted comment:";
pub(super) const TRUSTED: &str = "trusted comment: ";

/// What is signed of a text.
pub(super) fn hash(text: &str) -> Vec<u8> {
    Blake2b512::digest(text.as_bytes()).to_vec()
}

/// The message of the second signature.
pub(super) fn with_comment(signature: &[u8], trusted_comment: &str) -> Vec<u8> {
    [signature, trusted_comment.as_bytes()].concat()
}

/// The bytes as an array, if there are as many.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
