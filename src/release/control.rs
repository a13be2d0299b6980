//! The limits of an unpack, and a handle to observe and cancel it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::plan::unpack::{Limits, LinkPolicy};
use crate::protocol::ids::Sha256;

/// Progress and cancellation of a running unpack, to be shared with other threads.
#[derive(Debug, Default)]
pub struct Control {
    canceled: AtomicBool,
    pub(super) packed_bytes: AtomicU64,
    pub(super) unpacked_bytes: Arc<AtomicU64>,
}

impl Control {
    /// Counts the bytes of files that are written in `unpacked_bytes`.
    #[must_use]
    pub(crate) fn counting(unpacked_bytes: Arc<AtomicU64>) -> Self {
        Self { unpacked_bytes, ..Self::default() }
    }

    /// Stops the unpack at its next read of the source. The unpack then fails with
    /// [`UnpackError::Canceled`](super::UnpackError::Canceled). The caller must end a read that hangs.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub(crate) fn is_canceled(&self) -> bool {
        self.canceled.load(Ordering::Relaxed)
    }

    /// Bytes of the archive read so far.
    #[must_use]
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of files written so far.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes.load(Ordering::Relaxed)
    }
}

/// The expected archive.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Digest of the compressed archive, from the build record.
    pub sha256: &'a Sha256,
    /// Length of the compressed archive, from the build record.
    pub packed_bytes: u64,
    /// Limits for the unpacked content, from the build record.
    pub limits: Limits,
    /// The symbolic links that the group's settings allow.
    pub links: LinkPolicy,
}
