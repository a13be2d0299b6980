//! A minisign signature: what its four lines say.
//!
//! ```text
//! untrusted comment: …
//! base64 of: "ED", key id (8 bytes), signature of BLAKE2b-512(text) (64 bytes)
//! trusted comment: …
//! base64 of: signature of the 64 bytes above and the trusted comment
//! ```
//!
//! Only this form is read. The older one, "Ed", signs the text itself; minisign writes it only with `-l`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::error::SignatureError;
use super::format::{ALGORITHM, KEY_ALGORITHM, TRUSTED, UNTRUSTED, array, hash, with_comment};
use super::key::PublicKey;
use crate::protocol::ids::KeyId;
use crate::protocol::record::Signature;

/// What a signature says.
pub(super) struct Minisig<'a> {
    pub(super) key: KeyId,
    signature: [u8; 64],
    trusted_comment: &'a str,
    of_comment: [u8; 64],
}

impl<'a> Minisig<'a> {
    pub(super) fn parse(signature: &'a Signature) -> Result<Self, SignatureError> {
        let odd = |problem| SignatureError::Malformed { problem };
        let mut lines = signature.as_str().lines();
        let mut next = || lines.next().ok_or(odd("it has fewer than four lines"));
        let (untrusted, signed, trusted, of_comment) = (next()?, next()?, next()?, next()?);
        if lines.any(|line| !line.is_empty()) {
            return Err(odd("it has more than four lines"));
        }
        if !untrusted.starts_with(UNTRUSTED) {
            return Err(odd("its first line is no untrusted comment"));
        }
        let trusted_comment = trusted.strip_prefix(TRUSTED).ok_or(odd("its third line is no trusted comment"))?;
        let signed = BASE64.decode(signed).map_err(|_| odd("its second line is not base64"))?;
        let of_comment = BASE64.decode(of_comment).map_err(|_| odd("its fourth line is not base64"))?;
        let wrong_length = odd("a line of it is cut, or too long");
        if signed.len() != 74 {
            return Err(wrong_length);
        }
        let [algorithm, key, signature] = [signed.get(..2), signed.get(2..10), signed.get(10..)];
        match algorithm {
            Some(ALGORITHM) => {}
            Some(KEY_ALGORITHM) => {
                return Err(odd("it has minisign's older form; sign with minisign 0.11, without -l"));
            }
            Some(_) | None => return Err(odd("its algorithm is unknown")),
        }
        let parts = || {
            let key = KeyId::of(array(key?)?);
            Some(Self { key, signature: array(signature?)?, trusted_comment, of_comment: array(&of_comment)? })
        };
        parts().ok_or(wrong_length)
    }

    /// Whether `key` has signed `text` and the trusted comment.
    pub(super) fn is_of(&self, key: &PublicKey, text: &str) -> bool {
        key.verifies(&hash(text), &self.signature)
            && key.verifies(&with_comment(&self.signature, self.trusted_comment), &self.of_comment)
    }
}

/// The key that a signature names as its own. Whether it made the signature is not checked.
///
/// # Errors
///
/// [`SignatureError::Malformed`]: the text does not have the form of a signature.
pub(crate) fn named_key(signature: &Signature) -> Result<KeyId, SignatureError> {
    Minisig::parse(signature).map(|minisig| minisig.key)
}
