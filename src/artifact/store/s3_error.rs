//! Converts errors of the SDK into errors with a fix.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::error::StoreError;

/// The object of a request, for error messages.
pub(super) struct Target<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    /// The address of the server, or the region at AWS.
    pub(super) endpoint: &'a str,
}

/// Converts an error of the SDK by its status and code. An error without an answer becomes [`StoreError::Unreachable`] or
/// [`StoreError::NoCredentials`].
pub(super) fn explain<E>(target: &Target<'_>, error: SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let place = format!("s3://{}/{}", target.bucket, target.key);
    let Some(answer) = error.raw_response() else {
        let endpoint = target.endpoint.to_owned();
        // Matching the type of this error would need another dependency, so the text is checked.
        if mentions(&error, "credential") {
            return StoreError::NoCredentials { place, source: error.into() };
        }
        return match error {
            SdkError::ConstructionFailure(_) => {
                StoreError::Refused { place, code: "not sent".to_owned(), source: error.into() }
            }
            _ => StoreError::Unreachable { place, endpoint, source: error.into() },
        };
    };
    let status = answer.status().as_u16();
    let region = answer.headers().get("x-amz-bucket-region").map(str::to_owned);
    // A HEAD has no body, and so no code. The GET after it detects a missing bucket.
    let code = error.code().map_or_else(|| format!("HTTP {status}"), str::to_owned);
    match (status, code.as_str()) {
        (404, "NoSuchUpload") => StoreError::UploadGone { place },
        (404, "NoSuchBucket") => StoreError::NoRoot { root: format!("s3://{}", target.bucket) },
        (404, _) => StoreError::NotFound { place },
        (412, _) => StoreError::Replaced { place },
        (301 | 307, _) | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            let problem = match region {
                Some(region) => format!("the bucket is in region {region}, but another region is set"),
                None => format!("wrong region or endpoint ({code})"),
            };
            StoreError::Settings { place, problem }
        }
        (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            StoreError::Forbidden { place, code, source: error.into() }
        }
        (408 | 429 | 500.., _) | (400, "RequestTimeout") => {
            StoreError::Unavailable { place, code, source: error.into() }
        }
        // An error with a good status: the answer was truncated, or did not come from S3.
        (200..=299, _) => StoreError::Cut { place, source: error.into() },
        _ => StoreError::Refused { place, code, source: error.into() },
    }
}

/// As [`explain`], for a request with a body: one that takes too long is an upload that is too slow, or stuck.
pub(super) fn explain_upload<E>(target: &Target<'_>, error: SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if matches!(error, SdkError::TimeoutError(_)) || mentions(&error, "minimum throughput") {
        let place = format!("s3://{}/{}", target.bucket, target.key);
        return StoreError::SlowUpload { place, source: error.into() };
    }
    explain(target, error)
}

/// Whether the text of an error or one of its causes contains a word.
fn mentions(error: &(dyn Error + 'static), word: &str) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(word) {
            return true;
        }
        next = error.source();
    }
    false
}
