//! What the caller of an unpack sets: its limits, and a handle to watch and cancel it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::plan::unpack::Limits;
use crate::protocol::ids::Sha256;

/// A running unpack, as others see it: share it, look at it, cancel it.
#[derive(Debug, Default)]
pub struct Control {
    canceled: AtomicBool,
    pub(super) packed_bytes: AtomicU64,
    pub(super) unpacked_bytes: AtomicU64,
}

impl Control {
    /// Stops the unpack soon; it fails with [`UnpackError::Canceled`](super::UnpackError::Canceled). A read of the source that hangs is the
    /// caller's to end.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }

    /// Whether it is to stop.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
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

/// What the archive must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Digest of its bytes.
    pub sha256: &'a Sha256,
    /// Its length.
    pub packed_bytes: u64,
    /// What is in it, at most.
    pub limits: Limits,
}
