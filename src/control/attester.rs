//! Attests a caller's write, byte for byte, before it happens.
//!
//! An agent that writes for somebody vouches for who it was (`attests/`, [`crate::protocol::record::Attestation`]): it needs
//! the very bytes that will stand in the key, and it needs them first. The command line has no attester.

use std::fmt;
use std::pin::Pin;

use super::code::Failure;
use crate::protocol::ids::{App, Unit};

/// What an attester does. Boxed: which attester it is, is chosen at run time.
pub(crate) type Attesting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A write that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct PlannedWrite<'a> {
    /// The units that it concerns.
    pub scope: Scope<'a>,
    /// The key that is written.
    pub key: &'a str,
    /// The caller's mark in it; empty: none, and the write cannot be attested.
    pub id: &'a str,
    /// The value that will stand in the key.
    pub value: &'a str,
}

/// The units that a write concerns.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Every unit of an app.
    App(&'a App),
    /// One unit.
    Unit(&'a Unit),
}

/// Attests each write of one caller.
pub trait Attester: fmt::Debug + Send + Sync {
    /// The write is about to happen. An error keeps it from happening.
    ///
    /// # Errors
    ///
    /// Where the planned must not be done at all, as with a mark that stands for another.
    fn before<'a>(&'a self, planned: PlannedWrite<'a>) -> Attesting<'a, Result<(), Failure>>;

    /// The write did not happen, and will not.
    fn not_written(&self) -> Attesting<'_, ()>;
}
