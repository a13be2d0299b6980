//! Converts errors of the SDK into errors with a fix, each in one line. The SDK's own words, which are many, go to the log.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};

use super::error::{Cause, StoreError};
use super::s3_credentials::{chain_of, mentions, tried};

/// The longest text of another program that is part of an error, in characters.
const LONGEST_REASON: usize = 300;

/// The codes with which a server asks for fewer requests: S3 API Reference, "Error responses", and those of AWS in general.
const BUSY: [&str; 10] = [
    "BandwidthLimitExceeded",
    "HTTP 429",
    "HTTP 503",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "ThrottlingException",
    "TooManyRequests",
];

/// The codes with which STS refuses for good: STS API Reference, "`AssumeRole`" and "`AssumeRoleWithWebIdentity`".
const REFUSED_BY_STS: [&str; 8] = [
    "AccessDenied",
    "ExpiredToken",
    "IDPRejectedClaim",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "RegionDisabled",
    "SignatureDoesNotMatch",
    "ValidationError",
];

/// The object of a request, for error messages.
pub(super) struct Target<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    /// The address of the server, or the region at AWS.
    pub(super) endpoint: &'a str,
}

/// Converts an error of the SDK by its status and code. An error without an answer becomes [`StoreError::Unreachable`] or
/// [`StoreError::NoCredentials`].
#[expect(clippy::needless_pass_by_value, reason = "nobody has a use for the error of the SDK afterwards")]
pub(super) fn explain<E>(target: &Target<'_>, error: SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let place = format!("s3://{}/{}", target.bucket, target.key);
    let Some(answer) = error.raw_response() else {
        let endpoint = target.endpoint.to_owned();
        if let Some(error) = without_credentials(&place, &error) {
            return error;
        }
        let source = reason(&place, &error);
        return match error {
            SdkError::ConstructionFailure(_) => StoreError::Refused { place, code: "not sent".to_owned(), source },
            _ => StoreError::Unreachable { place, endpoint, source },
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
            StoreError::Forbidden { source: reason(&place, &error), place, code }
        }
        (408 | 429 | 500.., _) | (400, "RequestTimeout") => {
            StoreError::Unavailable { source: reason(&place, &error), place, code }
        }
        // An error with a good status: the answer was truncated, or did not come from S3.
        (200..=299, _) => StoreError::Cut { source: reason(&place, &error), place },
        _ => StoreError::Refused { source: reason(&place, &error), place, code },
    }
}

/// As [`explain`], for a request with a body: one that takes too long is an upload that is too slow, or stuck.
pub(super) fn explain_upload<E>(target: &Target<'_>, error: SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if matches!(error, SdkError::TimeoutError(_)) || mentions(&error, "minimum throughput") {
        let place = format!("s3://{}/{}", target.bucket, target.key);
        return StoreError::SlowUpload { source: reason(&place, &error), place };
    }
    explain(target, error)
}

/// The error of a request that could not be signed; none if it could.
fn without_credentials(place: &str, error: &(dyn Error + 'static)) -> Option<StoreError> {
    let place = place.to_owned();
    let Some(failure) = chain_of(error).find_map(|error| error.downcast_ref::<CredentialsError>()) else {
        // The SDK's cache of credentials has its own time limit, and its error has no type.
        let is_late = mentions(error, "identity resolver timed out");
        return is_late.then(|| StoreError::CredentialsUnavailable { source: reason(&place, error), place });
    };
    let source = reason(&place, failure);
    Some(match failure {
        CredentialsError::CredentialsNotLoaded(_) => {
            StoreError::NoCredentials { place, source: one_line(&tried(failure)).into() }
        }
        CredentialsError::InvalidConfiguration(_) => StoreError::Credentials { place, source },
        _ if REFUSED_BY_STS.iter().any(|code| mentions(failure, code)) => StoreError::Credentials { place, source },
        _ => StoreError::CredentialsUnavailable { place, source },
    })
}

/// Whether the server asks for fewer requests.
pub(crate) fn is_busy(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { code, .. } if BUSY.contains(&code.as_str()))
}

/// The cause that matters to whoever reads the error, in one line; logs all of them.
fn reason(place: &str, error: &(dyn Error + 'static)) -> Cause {
    let all = one_line(&chain_of(error).map(ToString::to_string).collect::<Vec<_>>().join(": "));
    tracing::info!(%place, "{place}: the AWS SDK says: {all}");
    let told = chain_of(error).find_map(|error| error.downcast_ref::<ErrorMetadata>());
    let told = told.map(|told| told.message().unwrap_or("the server gave no reason").to_owned());
    let why = told.or_else(|| chain_of(error).last().map(ToString::to_string)).unwrap_or_default();
    let mut why = one_line(&why);
    if let Some((at, _)) = why.char_indices().nth(LONGEST_REASON) {
        why.truncate(at);
        why.push('…');
    }
    if mentions(error, "tunnel error") {
        why = format!("the proxy (of HTTPS_PROXY, else ALL_PROXY) does not connect: {why}");
    } else if why.contains("UnknownIssuer") {
        why = format!("{why}: name the CA's certificate in AWS_CA_BUNDLE, or add it to the system's");
    }
    why.into()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        let page = format!("<html>\n  <h1>503</h1>\r\n{}", "x".repeat(1000));
        let source = reason("s3://a/b", &std::io::Error::other(page)).to_string();
        assert!(source.starts_with("<html> <h1>503</h1> xxx") && source.ends_with("x…"), "{source}");
        assert_eq!(source.chars().count(), LONGEST_REASON + 1);
    }

    #[test]
    fn only_a_server_that_has_too_much_to_do_is_busy() {
        let with = |code: &str| {
            let (place, code) = ("s3://a/b".to_owned(), code.to_owned());
            is_busy(&StoreError::Unavailable { place, code, source: "x".into() })
        };
        assert!(with("SlowDown") && with("HTTP 503"));
        assert!(!with("InternalError") && !with("HTTP 500"));
    }
}
