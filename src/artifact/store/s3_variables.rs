//! The variables of the AWS tools, and the keys of the profile, that the SDK leaves to the program or does not check.
//!
//! A wrong value is an error that names its variable: the SDK would panic. What is not supported is named in a note.

use std::fmt;
use std::fs;
use std::path::Path;

use aws_config::profile::ProfileSet;
use aws_sdk_s3::config::retry::{RetryConfig, RetryMode};
use aws_smithy_http_client::tls::TrustStore;
use aws_types::os_shim_internal::{Env, Fs};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::StoreError;
use super::s3_proxy::Proxies;

/// What the variables and the profile ask for.
#[derive(Debug)]
pub(super) struct Variables {
    /// None: the store's own.
    pub(super) attempts: Option<u32>,
    pub(super) mode: RetryMode,
    /// None: the certificates of the system.
    pub(super) roots: Option<TrustStore>,
    pub(super) proxies: Proxies,
    /// The profile in use.
    pub(super) profile: String,
    /// What is ignored, and why.
    pub(super) notes: Vec<String>,
}

/// A value, and who gave it.
struct Given {
    name: String,
    value: String,
}

/// Where values come from.
struct Sources<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    profiles: Option<&'a ProfileSet>,
}

/// What the environment and the profile of this process ask for and an S3 store ignores, one sentence each.
///
/// # Errors
///
/// [`StoreError::Variable`] for a variable of the AWS tools that cannot be used.
///
/// # Cancel safety
///
/// Safe.
pub(crate) async fn ignored_variables() -> Result<Vec<String>, StoreError> {
    Ok(Variables::read().await?.notes)
}

impl Variables {
    /// Reads the environment of this process, and the profile's files.
    ///
    /// # Errors
    ///
    /// [`StoreError::Variable`] for a value that cannot be used.
    pub(super) async fn read() -> Result<Self, StoreError> {
        // Files that cannot be read are named by the credentials' own error.
        #[expect(clippy::default_trait_access, reason = "the type is of a crate that is not used otherwise")]
        let profiles = aws_config::profile::load(&Fs::real(), &Env::real(), &Default::default(), None).await.ok();
        let variable = |name: &str| std::env::var(name).ok();
        Self::of(&Sources { variable: &variable, profiles: profiles.as_ref() })
    }

    fn of(sources: &Sources<'_>) -> Result<Self, StoreError> {
        let mut notes = Vec::new();
        let attempts = sources.find("AWS_MAX_ATTEMPTS", "max_attempts").map(|given| attempts(&given)).transpose()?;
        let mode = match sources.find("AWS_RETRY_MODE", "retry_mode") {
            Some(given) => mode(&given, &mut notes)?,
            None => RetryMode::Standard,
        };
        let roots = sources.find("AWS_CA_BUNDLE", "ca_bundle").map(|given| roots(&given)).transpose()?;
        let proxies = Proxies::of(sources.variable, &mut notes);
        let profile = sources.profiles.map_or("default", |profiles| profiles.selected_profile()).to_owned();
        Ok(Self { attempts, mode, roots, proxies, profile, notes })
    }

    /// How often and when requests are tried again.
    pub(super) fn retries(&self, attempts: u32) -> RetryConfig {
        let retries = match self.mode {
            RetryMode::Adaptive => RetryConfig::adaptive(),
            _ => RetryConfig::standard(),
        };
        retries.with_max_attempts(self.attempts.unwrap_or(attempts))
    }
}

impl Sources<'_> {
    /// The variable, or else the key of the profile. An empty value is none.
    fn find(&self, variable: &str, key: &str) -> Option<Given> {
        if let Some(value) = (self.variable)(variable).filter(|value| !value.is_empty()) {
            return Some(Given { name: variable.to_owned(), value });
        }
        let profiles = self.profiles?;
        let value = profiles.get(key).filter(|value| !value.is_empty())?.to_owned();
        Some(Given { name: format!("{key} of the profile {:?}", profiles.selected_profile()), value })
    }
}

impl Given {
    fn wrong(&self, problem: impl fmt::Display) -> StoreError {
        StoreError::Variable { name: self.name.clone(), problem: problem.to_string() }
    }
}

fn attempts(given: &Given) -> Result<u32, StoreError> {
    match given.value.parse() {
        Ok(attempts @ 1..) => Ok(attempts),
        _ => Err(given.wrong(format_args!("is {:?}: set it to a number from 1, or remove it", given.value))),
    }
}

fn mode(given: &Given, notes: &mut Vec<String>) -> Result<RetryMode, StoreError> {
    match given.value.to_ascii_lowercase().as_str() {
        "standard" => Ok(RetryMode::Standard),
        "adaptive" => Ok(RetryMode::Adaptive),
        "legacy" => {
            notes.push(format!("{}=legacy is ignored: requests are retried as with \"standard\"", given.name));
            Ok(RetryMode::Standard)
        }
        _ => Err(given.wrong(format_args!("is {:?}: set it to \"standard\" or \"adaptive\"", given.value))),
    }
}

/// The certificates of a file in PEM. Those that cannot be parsed are left out: with them, the SDK would panic.
fn roots(given: &Given) -> Result<TrustStore, StoreError> {
    let path = Path::new(&given.value);
    let text =
        fs::read(path).map_err(|e| given.wrong(format_args!("names {}, which cannot be read: {e}", path.display())))?;
    let mut parsed = RootCertStore::empty();
    let mut roots = TrustStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text).filter_map(Result::ok) {
        if parsed.add(certificate.clone()).is_ok() {
            let body = STANDARD.encode(&certificate);
            roots.add_pem_certificate(format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"));
        }
    }
    if parsed.is_empty() {
        return Err(given.wrong(format_args!("names {}, which has no certificate in PEM", path.display())));
    }
    Ok(roots)
}
