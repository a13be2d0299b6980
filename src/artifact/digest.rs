//! The digest of bytes as records have it.

use sha2::Digest;

use crate::protocol::ids::Sha256;

/// Converts a finished digest to the type of records.
pub(super) fn sha256_id(hasher: sha2::Sha256) -> Sha256 {
    #[expect(clippy::expect_used, reason = "32 bytes are 64 lower-case hex digits")]
    hex::encode(hasher.finalize()).parse().expect("a digest is a digest")
}
