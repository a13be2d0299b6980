//! The signature in a build record, as text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest signature that is kept, in bytes. One of minisign has about 250; the comment on its third line may be longer.
const MAX_BYTES: usize = 1024;

/// The content of a minisign signature file, `.minisig`: four lines.
///
/// Whoever can write Consul may write anything here. So it is cut to 1024 bytes and loses its control characters when it is
/// read; what is cut does not fit any build.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String")]
pub struct Signature(#[schemars(length(max = MAX_BYTES))] String);

impl Signature {
    /// The four lines.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Signature {
    fn from(text: String) -> Self {
        let plain: String = text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect();
        Self(super::clip(&plain, MAX_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_of_any_text_is_short_and_plain() {
        let read: Signature = serde_json::from_value(serde_json::json!("a\r\nb\u{1b}[2J\tc\u{0}")).unwrap();
        assert_eq!(read.as_str(), "a\nb[2J\tc");
        assert_eq!(Signature::from("\u{e9}".repeat(100_000)).as_str().len(), MAX_BYTES);
        assert!(serde_json::from_str::<Signature>("7").is_err());
    }
}
