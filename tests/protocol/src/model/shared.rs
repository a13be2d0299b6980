//! Parts of a state that many states share.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// The same seeds in every run, so the same states have the same hash.
const HASHER: ahash::RandomState = ahash::RandomState::with_seeds(1, 2, 3, 4);

/// A value that is copied only when it changes, and hashed only once: most steps change one part of a fleet.
///
/// Its hash stands for the value in the hash of the state: 64 bits, as many as the checker keeps of a whole state.
#[derive(Debug, Default)]
pub(super) struct Shared<T>(Arc<Hashed<T>>);

#[derive(Debug, Default)]
struct Hashed<T> {
    value: T,
    hash: OnceLock<u64>,
}

/// For [`Arc::make_mut`]: a copy is about to change, so it begins without a hash.
impl<T: Clone> Clone for Hashed<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), hash: OnceLock::new() }
    }
}

impl<T> Shared<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new(Hashed { value, hash: OnceLock::new() }))
    }

    pub(super) fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: Clone> Shared<T> {
    /// The value, to change it. It is copied first where another state shares it.
    pub(super) fn make_mut(&mut self) -> &mut T {
        let hashed = Arc::make_mut(&mut self.0);
        hashed.hash = OnceLock::new();
        &mut hashed.value
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        if self.ptr_eq(other) {
            return true;
        }
        let hashes = self.0.hash.get().zip(other.0.hash.get());
        hashes.is_none_or(|(one, other)| one == other) && self.0.value == other.0.value
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(*self.0.hash.get_or_init(|| HASHER.hash_one(&self.0.value)));
    }
}
