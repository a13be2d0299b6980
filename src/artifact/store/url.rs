//! `s3://bucket/prefix` and `dir:///srv/artifacts`.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::kind::HasKind;

/// The URL of a store, from the config or `--store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `dir:///srv/artifacts`.
    Dir {
        /// An absolute path.
        root: PathBuf,
    },
    /// `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix of every key, without slashes at its ends; may be empty.
        prefix: String,
    },
}

/// An invalid URL of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("store URL {given:?} {problem}; write s3://bucket/prefix or dir:///srv/artifacts")]
pub struct StoreUrlError {
    pub(crate) given: String,
    pub(crate) problem: &'static str,
}

impl HasKind for StoreUrlError {
    fn kind(&self) -> &'static str {
        "store_url_error"
    }
}

impl StoreUrl {
    /// Reads a store's URL.
    ///
    /// # Errors
    ///
    /// [`StoreUrlError`] with the problem and the allowed forms.
    pub fn parse(text: &str) -> Result<Self, StoreUrlError> {
        let parsed = match text.split_once("://") {
            Some(("s3", rest)) => parse_s3(rest),
            Some(("dir", rest)) => parse_dir(rest),
            Some(("file", _)) => Err("has the scheme file; use dir instead"),
            Some(_) => Err("has an unknown scheme"),
            None => Err("has no scheme"),
        };
        parsed.map_err(|problem| StoreUrlError { given: text.to_owned(), problem })
    }
}

fn parse_s3(rest: &str) -> Result<StoreUrl, &'static str> {
    if rest.contains(['?', '#', '@']) {
        return Err(
            "contains ? or # or @ (credentials come from the environment, region and endpoint from the config)",
        );
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("has no bucket");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !bucket.bytes().all(plain) {
        return Err("has a bucket with a character outside A-Z a-z 0-9 . _ -");
    }
    let prefix = prefix.trim_end_matches('/');
    let printable = |c: char| !c.is_control() && !c.is_whitespace();
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("has an empty part, . or .. in its prefix");
    }
    if !prefix.chars().all(printable) {
        return Err("has a blank or a control character in its prefix");
    }
    Ok(StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn parse_dir(rest: &str) -> Result<StoreUrl, &'static str> {
    let root = Path::new(rest);
    if !root.is_absolute() {
        return Err("is not an absolute path (three slashes)");
    }
    if root.components().any(|part| part == Component::ParentDir) {
        return Err("contains ..");
    }
    Ok(StoreUrl::Dir { root: root.components().collect() })
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        Self::parse(text)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir { root } => write!(f, "dir://{}", root.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written_alike() {
        for (given, written) in [
            ("s3://artifacts", "s3://artifacts"),
            ("s3://artifacts/", "s3://artifacts"),
            ("s3://artifacts/builds/x/", "s3://artifacts/builds/x"),
            ("dir:///srv/artifacts/", "dir:///srv/artifacts"),
        ] {
            assert_eq!(StoreUrl::parse(given).unwrap().to_string(), written);
        }
    }

    #[test]
    fn errors_contain_the_problem() {
        for (given, said) in [
            ("artifacts", "no scheme"),
            ("s3://", "no bucket"),
            ("s3:///x", "no bucket"),
            ("s3://key:secret@bucket", "credentials"),
            ("s3://a/b//c", "empty part"),
            ("s3://a/../c", ".."),
            ("dir://srv/artifacts", "three slashes"),
            ("dir:///srv/../etc", ".."),
            ("file:///srv", "use dir"),
            ("gs://bucket", "unknown scheme"),
        ] {
            let error = StoreUrl::parse(given).unwrap_err().to_string();
            assert!(error.contains(said), "{given}: {error}");
        }
    }
}
