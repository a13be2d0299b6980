//! Public keys, as minisign writes them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Serialize, Serializer};

use super::format::{KEY_ALGORITHM, array};
use crate::kind::HasKind;
use crate::protocol::ids::KeyId;

/// The decoded length: algorithm, key id, key.
const PUBLIC_BYTES: usize = 42;
/// The decoded length of a secret key, which is refused by name: it must never be in a node's settings.
const SECRET_BYTES: usize = 158;

/// A public key that signatures are checked by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PublicKey {
    id: KeyId,
    /// Algorithm, key id, key.
    bytes: [u8; PUBLIC_BYTES],
}

/// Why a text is not a public key. The text itself is not shown, because it may be a secret key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidKey {
    #[error(
        "is not a public key of minisign; write its second line (56 characters, beginning with RW), or the absolute path of its file"
    )]
    NotAKey,
    #[error("is a secret key; write the public key, and make a new pair: this secret key is no longer secret")]
    Secret,
}

impl HasKind for InvalidKey {
    fn kind(&self) -> &'static str {
        match self {
            Self::NotAKey => "not_a_key",
            Self::Secret => "secret",
        }
    }
}

impl PublicKey {
    /// Reads a key: the text of a `.pub` file, or only its second line.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`].
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidKey> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let encoded = if first.starts_with("untrusted comment:") { lines.next().unwrap_or_default() } else { first };
        let bytes = BASE64.decode(encoded).map_err(|_| InvalidKey::NotAKey)?;
        if bytes.len() == SECRET_BYTES {
            return Err(InvalidKey::Secret);
        }
        if lines.next().is_some() {
            return Err(InvalidKey::NotAKey);
        }
        Self::of(&bytes).ok_or(InvalidKey::NotAKey)
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; PUBLIC_BYTES] = array(bytes)?;
        let id = KeyId::of(array(bytes.get(2..10)?)?);
        bytes.starts_with(KEY_ALGORITHM).then_some(Self { id, bytes })
    }

    #[must_use]
    pub(crate) const fn id(&self) -> &KeyId {
        &self.id
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = self.bytes.get(10..).unwrap_or_default();
        UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
    }
}

/// The second line of the key's file.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
