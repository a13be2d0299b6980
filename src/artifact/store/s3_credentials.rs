//! The sources of credentials: those of the AWS SDK, asked again when one fails.
//!
//! The SDK remembers some failures for good. So the sources are set up anew after a failure of their configuration: a file may
//! have been corrected, a name can be resolved.

use std::error::Error;
use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::ProviderChainError;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Providing;
use aws_credential_types::provider::{ProvideCredentials, Result as Provided, SharedCredentialsProvider};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Region, SharedHttpClient};
use tokio::sync::Mutex;

/// How often sources are asked. Each retries by itself when a server answers with an error, and not when it does not answer.
const TRIES: u32 = 2;

/// The pause before they are asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The time limit for an answer of STS. The SDK has none.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Which region is used.
#[derive(Clone, Debug)]
pub(super) enum RegionFrom {
    Settings(String),
    /// Where the AWS tools look, the metadata service last.
    Aws,
    /// Environment and profile, else this one: the server is not AWS, so the metadata service would only cost time.
    Local(&'static str),
}

/// How the configuration of the SDK is found.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) http: SharedHttpClient,
    pub(super) region: RegionFrom,
    pub(super) retries: RetryConfig,
    /// The profile in use.
    pub(super) profile: String,
}

impl Sources {
    pub(super) async fn load(&self) -> SdkConfig {
        let limits = TimeoutConfig::builder().connect_timeout(ANSWER_LIMIT).operation_attempt_timeout(ANSWER_LIMIT);
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http.clone())
            .retry_config(self.retries.clone())
            .timeout_config(limits.build());
        let loader = match &self.region {
            RegionFrom::Settings(region) => loader.region(Region::new(region.clone())),
            RegionFrom::Aws => loader,
            RegionFrom::Local(fallback) => {
                let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
                loader.region(region.or_else(ProfileFileRegionProvider::new()).or_else(*fallback))
            }
        };
        loader.load().await
    }
}

/// Asks the sources of the SDK.
#[derive(Debug)]
pub(super) struct AskAgain {
    sources: Sources,
    current: Mutex<Option<SharedCredentialsProvider>>,
}

impl AskAgain {
    /// `config` was loaded from `sources`.
    pub(super) fn new(sources: Sources, config: &SdkConfig) -> Self {
        Self { sources, current: Mutex::new(config.credentials_provider()) }
    }

    async fn ask(&self) -> Provided {
        let mut tries = 1;
        loop {
            let error = match self.provider().await?.provide_credentials().await {
                Ok(credentials) => return Ok(credentials),
                Err(error) => self.explained(error),
            };
            if matches!(error, CredentialsError::InvalidConfiguration(_)) {
                *self.current.lock().await = None;
            }
            if tries >= TRIES || !(may_pass(&error) || is_without_metadata(&error)) {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
            tries += 1;
        }
    }

    async fn provider(&self) -> Result<SharedCredentialsProvider, CredentialsError> {
        let mut current = self.current.lock().await;
        if let Some(provider) = &*current {
            return Ok(provider.clone());
        }
        let provider = self.sources.load().await.credentials_provider();
        let provider = provider.ok_or_else(CredentialsError::not_loaded_no_source)?;
        Ok(current.insert(provider).clone())
    }

    fn explained(&self, error: CredentialsError) -> CredentialsError {
        let profile = &self.sources.profile;
        match &error {
            // Sources that were left out of this program.
            CredentialsError::InvalidConfiguration(_) if mentions(&error, "cargo feature") => {
                CredentialsError::invalid_configuration(format!(
                    "profile {profile:?} signs in with SSO or \"aws login\", which Cutover does not do itself; make \
                     another profile with the line `credential_process = aws configure export-credentials --profile \
                     {profile}`, and name that one in AWS_PROFILE"
                ))
            }
            CredentialsError::ProviderError(_) if mentions(&error, "IMDS is disabled") => {
                CredentialsError::not_loaded("the instance's metadata service is disabled, or refuses this program")
            }
            // A service that was reached, or that somebody has named, exists, though it does not answer now.
            CredentialsError::CredentialsNotLoaded(_) if is_without_metadata(&error) => {
                let is_named = std::env::var_os("AWS_EC2_METADATA_SERVICE_ENDPOINT").is_some();
                let why = metadata_failure(&error).unwrap_or_default();
                if is_named || !(why.contains("(Connect)") || why.contains("timeout")) {
                    return CredentialsError::provider_error(format!("the instance's metadata service: {why}"));
                }
                error
            }
            _ => error,
        }
    }
}

impl ProvideCredentials for AskAgain {
    fn provide_credentials<'a>(&'a self) -> Providing<'a>
    where
        Self: 'a,
    {
        Providing::new(self.ask())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.current.try_lock().ok()?.as_ref()?.fallback_on_interrupt()
    }
}

/// Whether asking again can help.
fn may_pass(error: &CredentialsError) -> bool {
    !matches!(error, CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))
}

/// Whether no source has credentials, and the metadata service did not answer.
fn is_without_metadata(error: &CredentialsError) -> bool {
    metadata_failure(error).is_some_and(|why| why.contains("communicate with IMDS"))
}

/// What became of the last source, if none has credentials.
fn metadata_failure(error: &CredentialsError) -> Option<String> {
    let chain = error.source()?.downcast_ref::<ProviderChainError<CredentialsError>>()?;
    let attempt = chain.attempts().iter().find(|attempt| attempt.name() == "Ec2InstanceMetadata")?;
    Some(chain_of(attempt.error()).skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// What the sources say that have no credentials, other than that they are not configured.
pub(super) fn tried(error: &CredentialsError) -> String {
    let Some(source) = error.source() else { return "no source has any".to_owned() };
    let Some(chain) = source.downcast_ref::<ProviderChainError<CredentialsError>>() else { return source.to_string() };
    let told = chain.attempts().iter().filter_map(|attempt| {
        let name = match attempt.name() {
            "Profile" => "profile",
            "Ec2InstanceMetadata" => "metadata service",
            _ => return None, // These two are only skipped if their variables are not set.
        };
        let why = chain_of(attempt.error()).skip(1).last()?;
        Some(format!("{name}: {why}"))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "no source has any".to_owned() } else { told.join("; ") }
}

/// Whether the text of an error or one of its causes contains a word.
pub(super) fn mentions(error: &(dyn Error + 'static), word: &str) -> bool {
    chain_of(error).any(|error| error.to_string().contains(word))
}

/// An error and its causes.
pub(super) fn chain_of<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
