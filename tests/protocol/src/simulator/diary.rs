//! The trace of a run: always hashed, kept only on request.

use std::time::Duration;

/// FNV-1a, 64 bits: the offset basis and the prime.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[derive(Debug)]
pub(crate) struct Diary {
    hash: u64,
    text: Option<String>,
}

impl Diary {
    pub(crate) fn new(is_kept: bool) -> Self {
        Self { hash: BASIS, text: is_kept.then(String::new) }
    }

    pub(crate) fn note(&mut self, now: Duration, text: &str) {
        let micros = u64::try_from(now.as_micros()).unwrap();
        for byte in micros.to_le_bytes().iter().chain(text.as_bytes()) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
        if let Some(kept) = &mut self.text {
            use std::fmt::Write as _;
            writeln!(kept, "{:>11.6}  {text}", now.as_secs_f64()).unwrap();
        }
    }

    pub(crate) fn close(self) -> (u64, String) {
        (self.hash, self.text.unwrap_or_default())
    }
}
