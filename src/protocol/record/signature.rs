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

/// The record with this signature at its end. No other byte changes, so that [`before_signature`] finds what its publisher
/// wrote. None if it is not a JSON object.
#[must_use]
pub(crate) fn with_signature(record: &[u8], signature: &Signature) -> Option<String> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(record).ok()?;
    let unsigned = match (before_signature(record), fields.remove("signature")) {
        (Some(unsigned), _) => unsigned,
        (None, None) => std::str::from_utf8(record).ok()?.to_owned(),
        // A program that has other fields behind it wrote it.
        (None, Some(_)) => serde_json::to_string(&fields).ok()?,
    };
    let fields = unsigned.trim_end().strip_suffix('}')?;
    Some(format!("{fields},\"signature\":{}}}", serde_json::to_string(signature).ok()?))
}

/// The bytes that a record had before a signature was added at its end; none if it has none there.
#[must_use]
pub(crate) fn before_signature(record: &[u8]) -> Option<String> {
    let (fields, last) = std::str::from_utf8(record).ok()?.rsplit_once(",\"signature\":")?;
    serde_json::from_str::<String>(last.strip_suffix('}')?).ok()?;
    Some(format!("{fields}}}"))
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

    #[test]
    fn what_was_there_before_a_signature_is_found_again() {
        let [one, two] = ["one\n\"}", ",\"signature\":\"x\"}"].map(|text| Signature::from(text.to_owned()));
        for unsigned in [r#"{"a":{"c":1,"signature":"x"}}"#, r#"{"b":",\"signature\":\"x\"}"}"#, r#"{ "b": 1.0 }"#] {
            assert_eq!(before_signature(unsigned.as_bytes()), None, "{unsigned}");
            let mut record = unsigned.to_owned();
            for signature in [&one, &two, &one] {
                record = with_signature(record.as_bytes(), signature).unwrap();
                let fields: serde_json::Value = serde_json::from_str(&record).unwrap();
                assert_eq!(fields["signature"], signature.as_str());
                assert_eq!(
                    before_signature(record.as_bytes()).as_deref().map(str::trim_end),
                    Some(unsigned.trim_end())
                );
            }
        }
        let elsewhere = r#"{"signature":"x","b":1}"#;
        assert_eq!(before_signature(elsewhere.as_bytes()), None);
        let signed = with_signature(elsewhere.as_bytes(), &one).unwrap();
        assert_eq!(signed.matches("signature").count(), 1, "{signed}");
        assert_eq!(with_signature(b"[]", &one), None);
    }
}
