//! Attests a caller's write before it happens.
//!
//! An agent that writes for a caller attests the caller's identity in `attests/`
//! ([`Attestation`](crate::protocol::record::Attestation)). The attestation contains a digest of the exact value, and must
//! exist before the value. The command line has no attester.

use std::fmt;
use std::pin::Pin;

use super::code::Failure;
use crate::protocol::ids::{App, Unit};

/// The future of an attester. Boxed, because the attester is chosen at run time.
pub(crate) type Attesting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A write that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct PlannedWrite<'a> {
    /// The units that it concerns.
    pub scope: Scope<'a>,
    /// The key that is written.
    pub key: &'a str,
    /// The caller's id in the value. Empty: the write cannot be attested.
    pub id: &'a str,
    /// The value, exactly as it will be written.
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
    /// Attests a write that is about to happen. An error prevents the write.
    ///
    /// # Errors
    ///
    /// The write must not happen, for example because its id is already used for another value.
    fn before<'a>(&'a self, planned: PlannedWrite<'a>) -> Attesting<'a, Result<(), Failure>>;

    /// Withdraws the attestation: the write did not happen, and will not.
    fn not_written(&self) -> Attesting<'_, ()>;
}
