//! A limit for the bandwidth of all downloads of an agent together.
//!
//! Bytes are paid for after they have arrived: who is ahead of the limit reads nothing for a while, and the sender is held up by
//! the full window of the connection.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much may arrive at once after a pause, as a time at the full bandwidth.
const BURST: Duration = Duration::from_millis(100);

/// The limit. All fetchers that have it share it.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_sec: u64,
    paid: Mutex<Option<Instant>>,
}

impl Bandwidth {
    /// A limit in bytes per second.
    #[must_use]
    pub const fn new(bytes_per_sec: u64) -> Self {
        Self { bytes_per_sec, paid: Mutex::new(None) }
    }

    /// Waits until these bytes are within the limit.
    pub(super) async fn pay(&self, bytes: usize) {
        let now = Instant::now();
        let free_at = self.book(now, bytes as u64);
        if free_at > now {
            tokio::time::sleep_until(free_at).await;
        }
    }

    /// Counts these bytes; returns when they are within the limit.
    fn book(&self, now: Instant, bytes: u64) -> Instant {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = paid.map_or(earliest, |paid| paid.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_sec.max(1));
        let until = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        *paid = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_downloads_together_stay_within_the_limit() {
        let (limit, start) = (Bandwidth::new(1000), Instant::now());
        let ms = |ms| Duration::from_millis(ms);
        assert!(limit.book(start, 100) <= start, "a short burst is free");
        assert_eq!(limit.book(start, 500), start + ms(500));
        assert_eq!(limit.book(start, 500), start + ms(1000), "another download waits for the first");
        assert_eq!(limit.book(start + ms(5000), 200), start + ms(5100), "a pause saves up a burst, and not more");
    }
}
