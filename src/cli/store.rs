//! Where archives lie, for commands: flags, `$CUTOVER_STORE`, or the config's `[store]`.

use std::path::PathBuf;

use super::args::StoreArgs;
use super::context;
use crate::artifact::store::{S3Settings, Store, StoreUrl};
use crate::config;
use crate::control::{Code, Failure};

/// A store that was found, and not opened yet.
#[derive(Clone, Debug)]
pub struct Location {
    url: StoreUrl,
    settings: S3Settings,
    /// How many builds of an app are kept, where the config was read and says so.
    pub keep_builds: Option<u32>,
}

impl Location {
    /// Opens the store; S3's server is not spoken to yet.
    ///
    /// # Errors
    ///
    /// Exit code 1 where S3 has no region.
    pub async fn open(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.url, &self.settings).await?)
    }
}

/// Finds the store. The config is read only where no URL was given.
///
/// # Errors
///
/// Exit code 2 where no store is named, or by a URL or config that is not understood.
pub async fn locate(args: &StoreArgs) -> Result<Location, Failure> {
    let given = args.store.clone();
    let (url, configured, keep_builds) = match given {
        Some(url) if args.config.is_none() => (url, S3Settings::default(), None),
        _ => configured(args.config.clone()).await?,
    };
    let url = StoreUrl::parse(&url)
        .map_err(|error| Failure::new(Code::Usage, "the store is not understood").caused_by(error))?;
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
        Failure::new(Code::Usage, "no artifact store is named")
            .hint("--store s3://bucket/prefix, CUTOVER_STORE, or a config with [store] and --config name it")
    };
    let path = match path {
        Some(path) => path,
        None if tokio::fs::try_exists(config::DEFAULT_PATH).await.unwrap_or(false) => config::DEFAULT_PATH.into(),
        None => return Err(unnamed()),
    };
    let settings = context::config(path, Code::Usage, "the config cannot be used")
        .await
        .map_err(|error| error.hint("--store needs no config"))?;
    let store = settings.store.ok_or_else(unnamed)?;
    let (region, endpoint, force_path_style) = (store.region, store.endpoint, store.force_path_style);
    let settings = S3Settings { region, endpoint, force_path_style, ..S3Settings::default() };
    Ok((store.url, settings, store.keep_builds))
}
