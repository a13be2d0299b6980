//! Cutover's own event document, signed according to Standard Webhooks.
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

const PREFIX: &str = "whsec_";
/// The allowed length of a key in bytes, from the specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

#[derive(Clone)]
pub(super) struct Key(Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Key {
    /// Reads `whsec_<base64>`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let key = text.strip_prefix(PREFIX).and_then(|text| BASE64.decode(text).ok())?;
        KEY_BYTES.contains(&key.len()).then_some(Self(key))
    }

    /// What a file that holds no key should hold. It does not quote the file.
    pub(super) fn expected() -> String {
        let (least, most) = KEY_BYTES.into_inner();
        format!("contains no valid key: write {PREFIX} followed by {least} to {most} random bytes in base64")
    }

    /// The signature of a message: `v1,<base64 of HMAC-SHA256 over id.timestamp.body>`.
    pub(super) fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104, section 2)")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key will do");
        mac.update(format!("{id}.{}.", at.as_second()).as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}
