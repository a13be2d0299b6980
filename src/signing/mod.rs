//! Signatures of builds: minisign's format, over a text that is made from the build record.
//!
//! ```text
//! publish --sign ── signed_text(record) ── SecretKey::sign ──► record.signature
//! nodes, coordinator ── Rules::check(record) ── signed_text(record) ── PublicKey ──► the key's id, or why not
//! ```
//!
//! Whoever can write Consul or the store can change records and archives. A signature ties the digest of the archive, and
//! everything else that decides how it is deployed, to a key that neither has. Each node checks it by the keys of its own
//! settings, so that nothing in Consul decides whether, or by which keys, a build is checked.
//!
//! Non-goals: a signature does not say which build is the newest, and never expires. A build that was signed once may be
//! deployed again, until its key is removed from the settings.
//!
//! Ed25519 is `ring`'s, which TLS uses too; `BLAKE2b` and scrypt are what minisign's format needs besides.

mod error;
mod format;
mod key;
mod minisig;
mod rules;
mod secret;
mod text;

#[cfg(test)]
mod tests;

pub(crate) use error::SignatureError;
pub(crate) use key::PublicKey;
pub(crate) use minisig::named_key;
pub(crate) use rules::Rules;
pub(crate) use secret::{SecretKey, SecretKeyFile};
pub(crate) use text::{changed_fields, signed_text};
