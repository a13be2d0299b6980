//! Bells: when Consul's watch handler calls the agent, every watch of the unit reads its key again at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::consul::WatchWaker;

#[derive(Debug, Default)]
pub(crate) struct Bells {
    wakers: Mutex<Vec<WatchWaker>>,
    has_rung: AtomicBool,
}

impl Bells {
    /// Adds a watch to those that [`Bells::ring`] wakes.
    pub(crate) fn hang(&self, waker: WatchWaker) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    pub(crate) fn ring(&self) {
        self.has_rung.store(true, Ordering::Relaxed);
        for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waker.wake();
        }
    }

    /// Whether Consul's watch handler has called since the agent started. `cutover doctor` reports it.
    pub(crate) fn has_rung(&self) -> bool {
        self.has_rung.load(Ordering::Relaxed)
    }
}
