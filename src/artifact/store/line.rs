//! How many parts of an object share the line to the store.

use std::time::Duration;

use super::upload::SLOWEST_UPLOAD_BYTES_PER_SEC;

/// The most parts that are sent or received in parallel. Uploaded ones are read from disk meanwhile, and downloaded ones are
/// written to it, so this bounds connections, not memory.
pub(in crate::artifact) const MOST_PARALLEL_PARTS: u64 = 4;

/// The speed that a line must have per parallel part, in bytes per second: far above the slowest accepted.
pub(in crate::artifact) const PARALLEL_PART_BYTES_PER_SEC: u64 = 16 * SLOWEST_UPLOAD_BYTES_PER_SEC;

/// How many parts the line can carry at the same time, by what it carried so far, if each needs such a speed.
pub(in crate::artifact) fn parallel_parts(bytes: u64, took: Duration, part_bytes_per_sec: u64) -> usize {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let bytes_per_sec = bytes.saturating_mul(1000) / millis;
    usize::try_from((bytes_per_sec / part_bytes_per_sec.max(1)).clamp(1, MOST_PARALLEL_PARTS)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fast_line_carries_several_parts() {
        let after_a_second = |bytes| parallel_parts(bytes, Duration::from_secs(1), PARALLEL_PART_BYTES_PER_SEC);
        assert_eq!(after_a_second(150_000), 1, "1200 kbit/s");
        assert_eq!(after_a_second(3 << 20), 3);
        assert_eq!(after_a_second(1 << 30), 4);
        assert_eq!(parallel_parts(u64::MAX, Duration::ZERO, PARALLEL_PART_BYTES_PER_SEC), 4);
    }
}
