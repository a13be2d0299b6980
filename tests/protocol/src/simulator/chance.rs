//! Random numbers from a seed: the same seed gives the same run on every machine.

use std::time::Duration;

/// `SplitMix64`: small, fast, and good enough to choose faults with.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`. The remainder's bias is too small to matter here.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Both ends included.
    pub(crate) const fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub(crate) const fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// With a chance of `permille` in a thousand.
    pub(crate) const fn happens(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// From 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(1 << 20)).unwrap()) / f64::from(1 << 20)
    }

    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(u64::try_from(count).unwrap())).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// In steps of a microsecond.
    pub(crate) fn span(&mut self, from: Duration, to: Duration) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap();
        Duration::from_micros(self.between(micros(from), micros(to)))
    }

    /// Up to so many milliseconds, and at least one microsecond.
    pub(crate) fn within_ms(&mut self, most: u64) -> Duration {
        self.span(Duration::from_micros(1), Duration::from_millis(most))
    }

    pub(crate) fn secs(&mut self, from: u64, to: u64) -> Duration {
        self.span(Duration::from_secs(from), Duration::from_secs(to))
    }
}
