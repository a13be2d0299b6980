//! Pauses between tries that go on to fail: each is twice as long as the one before it, up to a limit.
//!
//! Pure: whoever waits draws the chance, so that a machine that pauses repeats itself when it is tested.

use std::time::Duration;

/// The pauses of one thing that is tried again.
///
/// Each is between half of its full length and all of it, by chance: what failed together is not tried again together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// The first pause is at most `shortest`, and none is longer than `longest`.
    pub(crate) const fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, failures: 0 }
    }

    /// The pause after one more failure; `chance` is a number from 0 to 1.
    pub(crate) fn pause(&mut self, chance: f64) -> Duration {
        let full = self.shortest.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// How often it has failed since it last succeeded.
    pub(crate) const fn failures(&self) -> u32 {
        self.failures
    }

    /// It succeeded: the next failure is the first.
    pub(crate) const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(5))
    }

    #[test]
    fn pauses_double_up_to_the_longest_until_something_succeeds() {
        let mut backoff = backoff();
        let pauses: Vec<u64> = (0..5).map(|_| backoff.pause(1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        assert_eq!(backoff.failures(), 5);
        backoff.succeeded();
        assert_eq!(backoff.pause(1.0), Duration::from_secs(1));
    }

    #[test]
    fn a_pause_is_at_least_half_of_its_length_and_has_an_end_however_often_it_fails() {
        assert_eq!(backoff().pause(0.0), Duration::from_millis(500));
        let mut backoff = Backoff { failures: u32::MAX, ..backoff() };
        assert_eq!(backoff.pause(1.0), Duration::from_secs(5));
        assert_eq!(backoff.failures(), u32::MAX);
    }
}
