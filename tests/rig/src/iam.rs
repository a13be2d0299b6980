//! Policies of AWS, as far as Cutover prints them, and a guard that enforces them in the [S3 server](crate::s3).
//!
//! The actions that a call needs are written here from AWS's documentation, and not taken from Cutover.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use s3s::access::{S3Access, S3AccessContext};
use s3s::path::S3Path;
use s3s::{S3Error, S3ErrorCode, S3Result};
use serde_json::Value;

/// A policy: statements with `Effect: Allow`, actions, and one resource each, in which `*` stands for anything.
#[derive(Clone, Debug)]
pub struct Policy(Value);

impl Policy {
    /// A policy in JSON.
    #[must_use]
    pub fn new(policy: Value) -> Self {
        Self(policy)
    }

    /// Whether a statement allows the action on the resource.
    fn allows(&self, action: &str, resource: &str) -> bool {
        self.0["Statement"].as_array().into_iter().flatten().any(|statement| {
            let has_action = statement["Action"].as_array().into_iter().flatten().any(|it| it == action);
            let pattern = statement["Resource"].as_str().unwrap_or_default();
            statement["Effect"] == "Allow" && has_action && matches(pattern, resource)
        })
    }
}

/// Whether `text` has the form of `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(after, rest)))),
    }
}

/// Enforces the policy of each user, by access key.
pub(crate) struct Guard {
    root: PathBuf,
    policies: BTreeMap<String, Policy>,
}

impl Guard {
    pub(crate) fn new(root: &Path, policies: BTreeMap<String, Policy>) -> Self {
        Self { root: root.to_owned(), policies }
    }

    fn is_allowed(&self, user: &str, call: &str, path: &S3Path) -> bool {
        let Some(policy) = self.policies.get(user) else { return false };
        let (bucket, key) = match path {
            S3Path::Root => return false,
            S3Path::Bucket { bucket } => (bucket, None),
            S3Path::Object { bucket, key } => (bucket, Some(key)),
        };
        let arn = format!("arn:aws:s3:::{bucket}");
        let on_object = |action: &str| key.is_some_and(|key| policy.allows(action, &format!("{arn}/{key}")));
        match call {
            // Whoever may not list the bucket does not learn that an object is missing.
            "GetObject" | "HeadObject" => {
                let exists = key.is_some_and(|key| self.root.join(&**bucket).join(&**key).exists());
                on_object("s3:GetObject") && (exists || policy.allows("s3:ListBucket", &arn))
            }
            "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => {
                on_object("s3:PutObject")
            }
            "AbortMultipartUpload" => on_object("s3:AbortMultipartUpload"),
            "DeleteObject" => on_object("s3:DeleteObject"),
            "ListMultipartUploads" => policy.allows("s3:ListBucketMultipartUploads", &arn),
            _ => false,
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let user = cx.credentials().map(|credentials| credentials.access_key.clone()).unwrap_or_default();
        if self.is_allowed(&user, cx.s3_op().name(), cx.s3_path()) {
            return Ok(());
        }
        let problem = format!("{user} may not call {}", cx.s3_op().name());
        Err(S3Error::with_message(S3ErrorCode::AccessDenied, problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("a/*", "a/b/c", true),
            ("a/*", "a", false),
            ("a/*/history/*", "a/shop/history/x", true),
            ("a/*/history/*", "a/shop/x", false),
            ("*", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} and {text}");
        }
    }
}
