//! Subject and author of a commit, one line each.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest subject of a commit that is kept, in bytes. git's own tools expect some 72.
const MAX_SUBJECT_BYTES: usize = 256;

/// Subject and author of a commit. Everyone who can push may choose them, so each is cut to one line without control
/// characters, when it is written and again when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The first line of the message.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "short_subject")]
    #[schemars(length(max = MAX_SUBJECT_BYTES))]
    pub subject: Option<String>,
    /// The claimed author.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "short_author")]
    #[schemars(length(max = super::MAX_BY_BYTES))]
    pub author: Option<String>,
}

impl Summary {
    /// Keeps the first line of `message`.
    #[must_use]
    pub(crate) fn new(message: Option<&str>, author: Option<&str>) -> Self {
        Self {
            subject: message.and_then(|message| first_line(message, MAX_SUBJECT_BYTES)),
            author: author.and_then(|author| first_line(author, super::MAX_BY_BYTES)),
        }
    }

    /// Takes the fields that are unknown here from `other`.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self { subject: self.subject.or(other.subject), author: self.author.or(other.author) }
    }

    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.subject.is_none() && self.author.is_none()
    }
}

/// `“Fix the till” by Ann`, or the known part of that.
impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.subject, &self.author) {
            (Some(subject), Some(author)) => write!(f, "“{subject}” by {author}"),
            (Some(subject), None) => write!(f, "“{subject}”"),
            (None, Some(author)) => write!(f, "by {author}"),
            (None, None) => Ok(()),
        }
    }
}

/// The first line, trimmed and without control characters; none where nothing is left.
pub(super) fn first_line(text: &str, longest: usize) -> Option<String> {
    let line = text.trim().split(['\n', '\r']).next()?;
    let plain: String = line.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).collect();
    let short = super::clip(plain.trim(), longest);
    (!short.is_empty()).then_some(short)
}

fn short_subject<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| first_line(&text, MAX_SUBJECT_BYTES)))
}

fn short_author<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| first_line(&text, super::MAX_BY_BYTES)))
}
