//! Finds the artifact store for commands: flags, `$CUTOVER_STORE`, or the config's `[store]`.

use std::path::PathBuf;
use std::time::Duration;

use super::args::StoreArgs;
use super::context;
use super::output::{self, clean};
use crate::artifact::store::{Limits, S3Settings, Store, StoreUrl};
use crate::config;
use crate::control::{Code, Failure};

/// For how long `publish` waits for a store that asks for fewer requests.
const PATIENCE: Duration = Duration::from_mins(1);

/// A store that is not opened yet.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    url: StoreUrl,
    settings: S3Settings,
    /// `keep_builds` of the config, if the config was read and sets it.
    pub(crate) keep_builds: Option<u32>,
}

impl Location {
    pub(crate) const fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// The region that the flags or the config name, else that of the environment.
    pub(crate) fn region(&self) -> Option<String> {
        let variable = |name| std::env::var(name).ok().filter(|region| !region.is_empty());
        let configured = self.settings.region.clone();
        configured.or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"))
    }

    /// The same store, for a command that waits while the store asks for fewer requests.
    pub(crate) fn patient(self) -> Self {
        let limits = Limits { patience: PATIENCE, ..self.settings.limits };
        Self { settings: S3Settings { limits, ..self.settings }, ..self }
    }

    /// Opens the store. Sends nothing to an S3 server yet.
    ///
    /// # Errors
    ///
    /// Exit code 1 if no region is known for S3, or a variable of the AWS tools cannot be used.
    pub(crate) async fn open(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.url, &self.settings).await?)
    }
}

/// Prints what the environment asks for and the store ignores.
pub(crate) fn say_ignored(store: &Store) {
    for note in store.notes() {
        output::say(&clean(&format!("note: {note}")));
    }
}

/// Finds the store. Reads the config only if no URL was given.
///
/// # Errors
///
/// Exit code 2 if no store is configured, or the URL or the config is invalid.
pub(crate) async fn locate(args: &StoreArgs) -> Result<Location, Failure> {
    let given = args.store.clone();
    let (url, configured, keep_builds) = match given {
        Some(url) if args.config.is_none() => (url, S3Settings::default(), None),
        _ => configured(args.config.clone()).await?,
    };
    let url = StoreUrl::parse(&url)
        .map_err(|error| Failure::new(Code::Usage, "the store URL is invalid").caused_by(error))?;
    let settings = S3Settings {
        region: args.store_region.clone().or(configured.region),
        endpoint: args.store_endpoint.clone().or(configured.endpoint),
        force_path_style: args.store_path_style || configured.force_path_style,
        ..configured
    };
    Ok(Location { url, settings, keep_builds })
}

async fn configured(path: Option<PathBuf>) -> Result<(String, S3Settings, Option<u32>), Failure> {
    let unnamed = || {
        Failure::new(Code::Usage, "no artifact store is configured")
            .hint("set --store s3://bucket/prefix, CUTOVER_STORE, or --config with a config that has [store]")
    };
    let path = match path {
        Some(path) => path,
        None if tokio::fs::try_exists(config::DEFAULT_PATH).await.unwrap_or(false) => config::DEFAULT_PATH.into(),
        None => return Err(unnamed()),
    };
    let settings = context::config(path, Code::Usage, "the config cannot be used")
        .await
        .map_err(|error| error.hint("or set --store, which needs no config"))?;
    let store = settings.store.ok_or_else(unnamed)?;
    let (region, endpoint, force_path_style) = (store.region, store.endpoint, store.force_path_style);
    let settings = S3Settings { region, endpoint, force_path_style, ..S3Settings::default() };
    Ok((store.url, settings, store.keep_builds))
}
