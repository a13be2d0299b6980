//! An S3 bucket as store, at AWS or on another server with the same protocol.
//!
//! Uses the AWS SDK with rustls and `ring`, the TLS provider of this program. Sends checksums only if S3 requires them,
//! because several other servers refuse the trailers that the SDK would add.

use std::time::Duration;
use std::{env, fmt};

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::{Buf, Bytes};

use super::error::StoreError;
use super::s3_error::{Target, explain};
use super::stat::{Stat, Told};
use super::upload::unseen_limit;
use super::{ByteRange, Limits, S3Settings};

/// The time limit for finding region and credentials. The last source is the instance's metadata service, which answers within
/// milliseconds, or never if there is none.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);

/// The region in signatures for servers other than AWS, if none is configured. Such servers accept this region.
const FALLBACK_REGION: &str = "us-east-1";

/// The variables in which the SDK looks for a server other than AWS: AWS SDKs and Tools Reference Guide, "Service-specific endpoints".
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// Explicit credentials, for tests and the demo. Everything else uses the sources of the AWS tools.
#[derive(Clone)]
pub struct S3Credentials {
    /// The access key.
    pub access_key: String,
    /// The secret; never shown.
    pub secret_key: String,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// A store in an S3 bucket.
#[derive(Clone, Debug)]
pub struct S3Store {
    pub(super) client: Client,
    pub(super) bucket: String,
    prefix: String,
    pub(super) endpoint: String,
    pub(super) limits: Limits,
}

impl S3Store {
    pub(super) async fn open(bucket: &str, prefix: &str, settings: &S3Settings) -> Result<Self, StoreError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client());
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        } else if settings.endpoint.is_some() || ENDPOINT_VARIABLES.iter().any(|name| env::var_os(name).is_some()) {
            // Not AWS, so querying AWS's metadata service would only cost time.
            let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
            loader = loader.region(region.or_else(ProfileFileRegionProvider::new()).or_else(FALLBACK_REGION));
        }
        let place = format!("s3://{bucket}");
        let config = tokio::time::timeout(DISCOVERY_LIMIT, loader.load()).await;
        let config = config.map_err(|_| StoreError::Settings { place, problem: "no region is known".to_owned() })?;
        Self::with_config(bucket, prefix, settings, &config)
    }

    /// A store with explicit credentials, without environment and profiles.
    ///
    /// # Errors
    ///
    /// [`StoreError::Settings`] when neither region nor endpoint is set.
    pub fn with_credentials(
        bucket: &str,
        prefix: &str,
        settings: &S3Settings,
        credentials: &S3Credentials,
    ) -> Result<Self, StoreError> {
        let S3Credentials { access_key, secret_key } = credentials;
        let credentials = Credentials::new(access_key, secret_key, None, None, "given by hand");
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client())
            .credentials_provider(SharedCredentialsProvider::new(credentials));
        config.set_region(settings.region.clone().map(Region::new));
        Self::with_config(bucket, prefix, settings, &config.build())
    }

    fn with_config(bucket: &str, prefix: &str, settings: &S3Settings, config: &SdkConfig) -> Result<Self, StoreError> {
        let limits = settings.limits;
        let timeouts = TimeoutConfig::builder().connect_timeout(limits.connect).read_timeout(limits.stall).build();
        let stalled = StalledStreamProtectionConfig::enabled()
            .upload_enabled(true)
            .download_enabled(false) // `S3Body` has its own limit, which also applies before the first byte.
            .grace_period(limits.stall + unseen_limit())
            .build();
        let mut builder = Builder::from(config)
            .force_path_style(settings.force_path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .timeout_config(timeouts)
            .stalled_stream_protection(stalled)
            .retry_config(
                RetryConfig::standard().with_max_attempts(limits.attempts).with_initial_backoff(limits.backoff),
            );
        let endpoint = settings.endpoint.clone().or_else(|| config.endpoint_url().map(str::to_owned));
        let region = config.region().map(ToString::to_string);
        let region = match (region, &endpoint) {
            (Some(region), _) => region,
            (None, Some(_)) => FALLBACK_REGION.to_owned(),
            (None, None) => {
                let (place, problem) = (format!("s3://{bucket}"), "no region is known".to_owned());
                return Err(StoreError::Settings { place, problem });
            }
        };
        if let Some(endpoint) = &settings.endpoint {
            if !is_http_url(endpoint) {
                let place = format!("s3://{bucket}");
                let problem = format!("the endpoint {endpoint:?} is not a URL such as https://s3.example.com");
                return Err(StoreError::Settings { place, problem });
            }
            builder = builder.endpoint_url(endpoint);
        }
        let endpoint = endpoint.unwrap_or_else(|| format!("S3 in {region}"));
        let client = Client::from_conf(builder.region(Region::new(region)).build());
        Ok(Self { client, bucket: bucket.to_owned(), prefix: prefix.to_owned(), endpoint, limits })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn target<'a>(&'a self, key: &'a str) -> Target<'a> {
        Target { bucket: &self.bucket, key, endpoint: &self.endpoint }
    }

    pub(super) fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    pub(super) async fn stat(&self, key: &str) -> Result<Option<Stat>, StoreError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => {
                let told = found.metadata.as_ref().and_then(Told::in_metadata);
                let changed_at = found.last_modified.map(|at| at.to_string()).unwrap_or_default();
                let version = format!("{} {changed_at}", found.e_tag.unwrap_or_default());
                Ok(Some(Stat { bytes: size_of(found.content_length), told, version }))
            }
            // An answer to HEAD has no body. Only a GET shows whether the bucket is missing.
            Err(error) => match explain(&self.target(key), error) {
                StoreError::NotFound { .. } => match Box::pin(self.get(key, 0)).await {
                    Ok(body) => Ok(Some(Stat { bytes: body.total_bytes(), told: None, version: String::new() })),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    Err(other) => Err(other),
                },
                other => Err(other),
            },
        }
    }

    pub(super) async fn get(&self, key: &str, from_byte: u64) -> Result<S3Body, StoreError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let request = if from_byte == 0 { request } else { request.range(format!("bytes={from_byte}-")) };
        let found = request.send().await.map_err(|e| explain(&self.target(key), e))?;
        self.body(key, found, from_byte)
    }

    pub(super) async fn get_range(
        &self,
        key: &str,
        range: ByteRange,
        version: Option<&str>,
    ) -> Result<S3Body, StoreError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let request = request.range(format!("bytes={}-{}", range.from, range.end.saturating_sub(1)));
        let request = request.set_if_match(version.map(str::to_owned)).customize();
        let once = Builder::default().retry_config(RetryConfig::disabled());
        let found = request.config_override(once).send().await.map_err(|e| explain(&self.target(key), e))?;
        self.body(key, found, range.from)
    }

    fn body(&self, key: &str, found: GetObjectOutput, from_byte: u64) -> Result<S3Body, StoreError> {
        let place = self.place(key);
        let range = found.content_range.as_deref().and_then(ContentRange::parse);
        let (total_bytes, begins_at) = match &range {
            Some(range) => (range.total_bytes, range.from),
            // A server that ignores ranges sends everything, without this header.
            None => (size_of(found.content_length), 0),
        };
        let Some(skip) = from_byte.checked_sub(begins_at) else {
            let source = format!("the answer begins at byte {begins_at} instead of {from_byte}").into();
            return Err(StoreError::Cut { place, source });
        };
        let (is_range, version, stall) = (range.is_some(), found.e_tag, self.limits.stall);
        Ok(S3Body { stream: found.body, place, total_bytes, is_range, version, skip, stall })
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.client.delete_object().bucket(&self.bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) => match explain(&self.target(key), error) {
                StoreError::NotFound { .. } => Ok(()),
                other => Err(other),
            },
        }
    }
}

/// What `Content-Range` says: "bytes 100-199/200".
struct ContentRange {
    from: u64,
    total_bytes: u64,
}

impl ContentRange {
    fn parse(header: &str) -> Option<Self> {
        let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
        let (from, _) = range.split_once('-')?;
        Some(Self { from: from.parse().ok()?, total_bytes: total.parse().ok()? })
    }
}

/// An object of a bucket that is being read.
#[derive(Debug)]
pub struct S3Body {
    stream: ByteStream,
    place: String,
    total_bytes: u64,
    is_range: bool,
    version: Option<String>,
    skip: u64,
    stall: Duration,
}

impl S3Body {
    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(super) const fn is_range(&self) -> bool {
        self.is_range
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            let next = tokio::time::timeout(self.stall, self.stream.next()).await;
            let next = next.map_err(|_| StoreError::Stalled { place: self.place.clone(), limit: self.stall })?;
            let Some(chunk) = next else { return Ok(None) };
            let mut chunk = chunk.map_err(|e| StoreError::Cut { place: self.place.clone(), source: e.into() })?;
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(skipped);
            self.skip -= skipped as u64;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}

fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

fn size_of(content_length: Option<i64>) -> u64 {
    content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

fn is_http_url(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}
