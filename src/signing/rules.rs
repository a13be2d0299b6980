//! What a node asks of signatures: the pinned keys, and whether every build must be signed by one of them.

use serde::Serialize;

use super::error::SignatureError;
use super::key::PublicKey;
use super::minisig::Minisig;
use super::text::signed_text;
use crate::protocol::ids::{App, KeyId};
use crate::protocol::record::Build;

/// The rules of one group on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rules {
    /// `require_signature`: whether only builds are accepted that a pinned key has signed.
    pub(crate) required: bool,
    /// The pinned keys, sorted.
    pub(crate) keys: Vec<PublicKey>,
}

impl Rules {
    /// Whether there are none, as in settings without signatures.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        !self.required && self.keys.is_empty()
    }

    #[must_use]
    pub(crate) fn pins(&self, id: &KeyId) -> bool {
        self.keys.iter().any(|key| key.id() == id)
    }

    /// Checks a build record; returns the pinned key that has signed it.
    ///
    /// Without keys nothing is checked. Unless signatures are required, a build may be unsigned, and one of a key that is
    /// not pinned counts as unsigned. A signature that names a pinned key and does not fit is always refused: the record was
    /// changed, or the signature is that of another build.
    ///
    /// # Errors
    ///
    /// [`SignatureError`].
    pub(crate) fn check(&self, app: &App, build: &Build) -> Result<Option<KeyId>, SignatureError> {
        if self.is_empty() {
            return Ok(None);
        }
        match self.signer(app, build) {
            Ok(key) => Ok(Some(key)),
            Err(SignatureError::Unsigned | SignatureError::UnknownKey { .. }) if !self.required => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn signer(&self, app: &App, build: &Build) -> Result<KeyId, SignatureError> {
        let signature = build.signature.as_ref().ok_or(SignatureError::Unsigned)?;
        let minisig = Minisig::parse(signature)?;
        if !self.pins(&minisig.key) {
            return Err(SignatureError::UnknownKey { key: minisig.key });
        }
        let text = signed_text(app, build);
        // Two keys may have the same id: anyone can make a key with a given one.
        let mut keys = self.keys.iter().filter(|key| *key.id() == minisig.key);
        if keys.any(|key| minisig.is_of(key, &text)) {
            return Ok(minisig.key);
        }
        Err(SignatureError::Mismatch { key: minisig.key })
    }
}
