//! An S3 bucket as store, at AWS or on another server with the same protocol.
//!
//! Uses the AWS SDK with rustls and `ring`, the TLS provider of this program. Sends checksums only if S3 requires them,
//! because several other servers refuse the trailers that the SDK would add.

use std::fmt;
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Buf, Bytes};

use super::busy::Busy;
use super::error::StoreError;
use super::s3_credentials::{AskAgain, RegionFrom, Sources};
use super::s3_error::{Target, explain};
use super::s3_proxy::{Proxies, http_client};
use super::s3_variables::Variables;
use super::stat::{Stat, Told};
use super::upload::unseen_limit;
use super::{ByteRange, Limits, S3Settings};

/// The time limit for finding region and credentials. The last source is the instance's metadata service, which answers within
/// milliseconds, or never if there is none.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);

/// How often the region is looked for.
const DISCOVERIES: u32 = 2;

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
    pub(super) busy: Busy,
    pub(super) notes: Vec<String>,
}

impl S3Store {
    pub(super) async fn open(bucket: &str, prefix: &str, settings: &S3Settings) -> Result<Self, StoreError> {
        let mut variables = Variables::read().await?;
        let endpoint = settings.endpoint.clone().or_else(named_endpoint);
        let sources = Sources {
            http: http_client(variables.roots.as_ref(), &variables.proxies),
            region: match (&settings.region, &endpoint) {
                (Some(region), _) => RegionFrom::Settings(region.clone()),
                (None, Some(_)) => RegionFrom::Local(FALLBACK_REGION),
                (None, None) => RegionFrom::Aws,
            },
            retries: variables.retries(settings.limits.attempts),
            profile: variables.profile.clone(),
        };
        let config = discover(bucket, &sources).await?;
        let endpoint = endpoint.or_else(|| config.endpoint_url().map(str::to_owned));
        let mut builder = Builder::from(&config).retry_config(sources.retries.clone());
        if endpoint.is_some() {
            // The SDK refuses a server of one's own with these.
            for (name, is_set) in
                [("AWS_USE_DUALSTACK_ENDPOINT", config.use_dual_stack()), ("AWS_USE_FIPS_ENDPOINT", config.use_fips())]
            {
                if is_set == Some(true) {
                    variables.notes.push(format!("{name} is ignored, because the endpoint of the store is configured"));
                }
            }
            builder.set_use_dual_stack(Some(false)).set_use_fips(Some(false));
        }
        let region = config.region().map(ToString::to_string);
        let sources = match &region {
            Some(region) => Sources { region: RegionFrom::Settings(region.clone()), ..sources },
            None => sources,
        };
        let builder = builder.credentials_provider(AskAgain::new(sources, &config));
        let settings = S3Settings { region, endpoint, ..settings.clone() };
        let store = Self::with_builder(bucket, prefix, &settings, builder)?;
        Ok(Self { notes: variables.notes, ..store })
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
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client(None, &Proxies::default()))
            .credentials_provider(SharedCredentialsProvider::new(credentials));
        let limits = settings.limits;
        let retries = RetryConfig::standard().with_max_attempts(limits.attempts);
        Self::with_builder(bucket, prefix, settings, Builder::from(&config.build()).retry_config(retries))
    }

    fn with_builder(bucket: &str, prefix: &str, settings: &S3Settings, builder: Builder) -> Result<Self, StoreError> {
        let limits = settings.limits;
        // The limits of the sources of credentials do not apply: an attempt may first have to ask those.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(limits.connect)
            .read_timeout(limits.stall)
            .disable_operation_attempt_timeout()
            .build();
        let stalled = StalledStreamProtectionConfig::enabled()
            .upload_enabled(true)
            .download_enabled(false) // `S3Body` has its own limit, which also applies before the first byte.
            .grace_period(limits.stall + unseen_limit())
            .build();
        let mut builder = builder
            .force_path_style(settings.force_path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .timeout_config(timeouts)
            .stalled_stream_protection(stalled);
        let region = match (&settings.region, &settings.endpoint) {
            (Some(region), _) => region.clone(),
            (None, Some(_)) => FALLBACK_REGION.to_owned(),
            (None, None) => return Err(no_region(bucket)),
        };
        if let Some(endpoint) = &settings.endpoint {
            if !is_http_url(endpoint) {
                let place = format!("s3://{bucket}");
                let problem = format!("the endpoint {endpoint:?} is not a URL such as https://s3.example.com");
                return Err(StoreError::Settings { place, problem });
            }
            builder = builder.endpoint_url(endpoint);
        }
        let endpoint = settings.endpoint.clone().unwrap_or_else(|| format!("S3 in {region}"));
        let client = Client::from_conf(builder.region(Region::new(region)).build());
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(Self { client, bucket, prefix, endpoint, limits, busy: Busy::new(limits.patience), notes: Vec::new() })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// As [`Busy::patiently`].
    pub(super) async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.busy.patiently(call).await
    }

    pub(super) fn target<'a>(&'a self, key: &'a str) -> Target<'a> {
        Target { bucket: &self.bucket, key, endpoint: &self.endpoint }
    }

    pub(super) fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    pub(super) async fn stat(&self, key: &str) -> Result<Option<Stat>, StoreError> {
        self.patiently(|| Box::pin(self.stat_once(key))).await
    }

    async fn stat_once(&self, key: &str) -> Result<Option<Stat>, StoreError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => {
                let told = found.metadata.as_ref().and_then(Told::in_metadata);
                let changed_at = found.last_modified.map(|at| at.to_string()).unwrap_or_default();
                let version = format!("{} {changed_at}", found.e_tag.unwrap_or_default());
                Ok(Some(Stat { bytes: size_of(found.content_length), told, version }))
            }
            // An answer to HEAD has no body. Only a GET shows whether the bucket is missing.
            Err(error) => match explain(&self.target(key), error) {
                StoreError::NotFound { .. } => match Box::pin(self.get_once(key, 0)).await {
                    Ok(body) => Ok(Some(Stat { bytes: body.total_bytes(), told: None, version: String::new() })),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    Err(other) => Err(other),
                },
                other => Err(other),
            },
        }
    }

    pub(super) async fn get(&self, key: &str, from_byte: u64) -> Result<S3Body, StoreError> {
        self.patiently(|| Box::pin(self.get_once(key, from_byte))).await
    }

    async fn get_once(&self, key: &str, from_byte: u64) -> Result<S3Body, StoreError> {
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
        let range = found.content_range.as_deref().map(|header| ContentRange::parse(header).ok_or(header)).transpose();
        let range = range.map_err(|header| {
            let source = format!("it answers with the range {header:?}, which does not state the object's size").into();
            StoreError::Refused { place: place.clone(), code: "Content-Range".to_owned(), source }
        })?;
        let (total_bytes, begins_at) = match &range {
            Some(range) => (range.total_bytes, range.from),
            // A server that ignores ranges sends everything, without this header.
            None => (size_of(found.content_length), 0),
        };
        let Some(skip) = from_byte.checked_sub(begins_at) else {
            let source = format!("the answer begins at byte {begins_at} instead of {from_byte}").into();
            return Err(StoreError::Cut { place, source });
        };
        let (is_range, version, stall) = (range.is_some(), found.e_tag.filter(|tag| is_strong(tag)), self.limits.stall);
        Ok(S3Body { stream: found.body, place, total_bytes, is_range, version, skip, stall })
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.patiently(|| Box::pin(self.delete_once(key))).await
    }

    async fn delete_once(&self, key: &str) -> Result<(), StoreError> {
        match self.client.delete_object().bucket(&self.bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) => match explain(&self.target(key), error) {
                StoreError::NotFound { .. } => Ok(()),
                other => Err(other),
            },
        }
    }
}

/// Whether an entity tag names these bytes. A weak one (RFC 9110, 8.8.1), which some proxies make of a server's, never matches
/// in `If-Match`.
fn is_strong(tag: &str) -> bool {
    !tag.is_empty() && !tag.starts_with("W/")
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

/// Loads the configuration of the SDK, and looks for the region again where none was found: the metadata service of an instance
/// may fail once.
async fn discover(bucket: &str, sources: &Sources) -> Result<SdkConfig, StoreError> {
    for _ in 0..DISCOVERIES {
        let config = tokio::time::timeout(DISCOVERY_LIMIT, sources.load()).await;
        if let Some(config) = config.ok().filter(|config| config.region().is_some()) {
            return Ok(config);
        }
    }
    Err(no_region(bucket))
}

fn no_region(bucket: &str) -> StoreError {
    StoreError::Settings { place: format!("s3://{bucket}"), problem: "no region is known".to_owned() }
}

/// The server of the variables of the AWS tools: AWS SDKs and Tools Reference Guide, "Service-specific endpoints".
fn named_endpoint() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    ENDPOINT_VARIABLES.iter().find_map(|name| variable(name))
}

fn size_of(content_length: Option<i64>) -> u64 {
    content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

fn is_http_url(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weak_or_empty_tag_names_no_bytes() {
        assert!(is_strong("\"9b2cf535\""));
        assert!(!is_strong("W/\"9b2cf535\"") && !is_strong(""));
    }

    #[test]
    fn a_range_states_the_size_of_the_object() {
        let parsed = |header| ContentRange::parse(header).map(|range| [range.from, range.total_bytes]);
        assert_eq!(parsed("bytes 100-199/200"), Some([100, 200]));
        for unknown in ["bytes 100-199/*", "bytes */200", "items 1-2/3", "bytes 1/2"] {
            assert_eq!(parsed(unknown), None, "{unknown}");
        }
    }
}
