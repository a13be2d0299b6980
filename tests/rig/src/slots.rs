//! How much of a machine tests use at the same time.
//!
//! Most tests wait and need no core, so more of them run at once than there are cores. What a test starts takes slots of
//! its kind's pool, so that tests with deadlines do not starve each other.

use std::sync::{Condvar, Mutex, PoisonError};

/// Slots of one kind, shared by the tests of a process.
#[derive(Debug)]
pub struct Pool {
    slots: usize,
    taken: Mutex<usize>,
    freed: Condvar,
}

/// Slots that are taken until this is dropped.
#[derive(Debug)]
pub struct Slots {
    pool: &'static Pool,
    slots: usize,
}

impl Pool {
    /// A pool of so many slots.
    #[must_use]
    pub const fn new(slots: usize) -> Self {
        Self { slots, taken: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until `slots` are free, and takes them. More than the pool has are never free.
    pub fn take(&'static self, slots: usize) -> Slots {
        // A test that failed with the lock held has left the count as it was.
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken =
            self.freed.wait_while(taken, |taken| *taken + slots > self.slots).unwrap_or_else(PoisonError::into_inner);
        *taken += slots;
        Slots { pool: self, slots }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        *self.pool.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.slots;
        self.pool.freed.notify_all();
    }
}
