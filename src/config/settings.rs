//! The checked settings of an agent.
//!
//! Every value is complete and valid: defaults are filled in, paths are absolute, and rules between settings have been
//! checked. Code that uses [`Settings`] never checks a value again. The files that the settings name, such as
//! certificates and tokens, are not read here, except for the public keys of signatures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Uid;
use serde::Serialize;

use super::api::{self, ApiSection};
use super::fetch::{self, FetchSection};
use super::fragment::{CacheFragment, ConsulFragment, Fragment, StoreFragment};
use super::merge::{Merged, checked};
use super::notify::{ChatSettings, NotifySettings};
use super::unit::UnitSettings;
use super::{ConfigError, signatures, values};
use crate::protocol::ids::{Node, Unit};

/// The default prefix of Cutover's keys in Consul.
const DEFAULT_PREFIX: &str = "cutover/";

/// How many bytes of downloaded archives a node keeps by default, 10 GiB. That is two artifacts of the largest size that
/// Cutover is designed for (5 GB), or hundreds of usual ones, and little compared with the releases themselves.
pub(crate) const DEFAULT_CACHE_BUDGET_BYTES: u64 = 10 << 30;

/// How often the store is swept by default. A missing archive is noticed well before a new node usually needs it, and a
/// thousand builds cost a thousand HEAD requests, about one per second.
const DEFAULT_SWEEP_EVERY: Duration = Duration::from_mins(15);

/// The shortest allowed pause between two sweeps.
const LEAST_SWEEP_EVERY: Duration = Duration::from_secs(1);

/// All settings, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The name of this node; none for the Consul agent's node name.
    pub(crate) node: Option<Node>,
    pub(crate) consul: ConsulSection,
    /// The artifact store; optional only without groups.
    pub(crate) store: Option<StoreSection>,
    /// The HTTP server of the API and the page.
    pub api: ApiSection,
    pub(crate) cache: CacheSettings,
    pub(crate) fetch: FetchSection,
    /// The groups of this node. If empty, the agent serves only the API and the page.
    pub(crate) units: BTreeMap<Unit, UnitSettings>,
    /// The receivers of notifications, by name.
    pub(crate) notify: BTreeMap<String, NotifySettings>,
    /// Deploys from chat; none if off.
    pub(crate) chat: Option<ChatSettings>,
}

/// A file with a secret, which is read on each use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretFile {
    /// The setting that names the file, as written in the configuration.
    pub(crate) setting: String,
    /// Absolute.
    pub(crate) path: PathBuf,
}

/// The connection to Consul. Missing values come from the `CONSUL_*` variables, which the client reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ConsulSection {
    /// Like `CONSUL_HTTP_ADDR`.
    pub(crate) address: Option<String>,
    /// The prefix of Cutover's keys, with a trailing `/`.
    pub(crate) prefix: String,
    /// Like `CONSUL_HTTP_TOKEN_FILE`; absolute.
    pub(crate) token_file: Option<PathBuf>,
    /// Like `CONSUL_CACERT`; absolute.
    pub(crate) ca_file: Option<PathBuf>,
    /// Like `CONSUL_CLIENT_CERT`; absolute, and only together with `key_file`.
    pub(crate) cert_file: Option<PathBuf>,
    /// Like `CONSUL_CLIENT_KEY`; absolute, and only together with `cert_file`.
    pub(crate) key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StoreSection {
    /// `s3://<bucket>[/<prefix>]` or `dir:///<path>`, without a trailing `/`.
    pub(crate) url: String,
    /// The bucket's region; none to use the AWS variables and files.
    pub(crate) region: Option<String>,
    /// The URL of an S3 server other than Amazon's.
    pub(crate) endpoint: Option<String>,
    /// Whether the bucket is part of the path instead of the host name.
    pub(crate) force_path_style: bool,
    /// How often the coordinator checks that every published archive is still in the store.
    pub(crate) sweep_every: Duration,
    /// How many builds of an app `cutover publish` keeps, besides those in use; none to keep all.
    pub(crate) keep_builds: Option<u32>,
}

/// Downloaded archives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CacheSettings {
    /// Absolute.
    pub(crate) dir: PathBuf,
    /// The most that all archives together may have: the least recently used ones are removed.
    pub(crate) budget_bytes: u64,
    /// What stays free on the filesystems of the cache and of the releases; none for the default, which depends on their sizes.
    pub(crate) min_free_bytes: Option<u64>,
}

impl Settings {
    /// The files that the agent reads for requests from chat or through a proxy.
    #[must_use]
    pub(crate) fn secret_files(&self) -> Vec<SecretFile> {
        let file = |setting: String, path: &Path| SecretFile { setting, path: path.to_owned() };
        let chat =
            self.chat.iter().map(|chat| file("[chat] signing_secret_file".to_owned(), &chat.signing_secret_file));
        let chat_users = self.chat.iter().flat_map(|chat| &chat.users);
        let chat_users = chat_users.map(|(id, user)| file(format!("[chat.users.{id}] token_file"), &user.token_file));
        let users = self.api.users.iter();
        let users = users.map(|(name, user)| file(format!("[api.users.{name}] token_file"), &user.token_file));
        chat.chain(chat_users).chain(users).collect()
    }

    /// Checks the merged files, and fills in defaults.
    pub(super) fn check(
        merged: &Merged,
        env: &impl Fn(&str) -> Option<String>,
        user: Uid,
    ) -> Result<Self, ConfigError> {
        let Fragment { node, consul, store, api, cache, fetch, deploy, notify, chat, signatures } =
            merged.fragment()?;
        let consul = check_consul(merged, &consul)?;
        let store = check_store(merged, &store, env)?;
        let api = api::check(merged, api)?;
        let cache = check_cache(merged, &cache, env, user)?;
        let fetch = fetch::check(merged, &fetch)?;
        let keys = signatures::check(merged, &signatures)?;
        let mut units = BTreeMap::new();
        for (unit, fragment) in deploy {
            let settings = UnitSettings::check(merged, &unit, fragment, &keys)?;
            units.insert(unit, settings);
        }
        refuse_shared_directories(merged, &units)?;
        if store.is_none() && !units.is_empty() {
            let problem = "is missing; write s3://<bucket>/<prefix> or dir:///<path>, or set CUTOVER_STORE";
            return Err(merged.error(&["store", "url"], problem.to_owned()));
        }
        let notify = notify
            .into_iter()
            .map(|(name, fragment)| Ok((name.clone(), NotifySettings::check(merged, &name, fragment)?)))
            .collect::<Result<_, ConfigError>>()?;
        let chat = chat.map(|fragment| ChatSettings::check(merged, fragment)).transpose()?;
        Ok(Self { node, consul, store, api, cache, fetch, units, notify, chat })
    }
}

fn check_consul(merged: &Merged, fragment: &ConsulFragment) -> Result<ConsulSection, ConfigError> {
    let file =
        |key: &str, value: &Option<String>| checked(merged, &["consul", key], value.as_deref(), values::absolute);
    let section = ConsulSection {
        address: checked(merged, &["consul", "address"], fragment.address.as_deref(), values::line)?,
        prefix: checked(merged, &["consul", "prefix"], fragment.prefix.as_deref(), values::kv_prefix)?
            .unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
        token_file: file("token_file", &fragment.token_file)?,
        ca_file: file("ca_file", &fragment.ca_file)?,
        cert_file: file("cert_file", &fragment.cert_file)?,
        key_file: file("key_file", &fragment.key_file)?,
    };
    let (has, lacks) = match (&section.cert_file, &section.key_file) {
        (Some(_), None) => ("cert_file", "key_file"),
        (None, Some(_)) => ("key_file", "cert_file"),
        (Some(_), Some(_)) | (None, None) => return Ok(section),
    };
    Err(merged.error(&["consul", has], format!("is set without {lacks}; set both or neither")))
}

fn check_store(
    merged: &Merged,
    fragment: &StoreFragment,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Option<StoreSection>, ConfigError> {
    let variable = "CUTOVER_STORE";
    let url = match (&fragment.url, env(variable).filter(|value| !value.is_empty())) {
        (Some(url), _) => checked(merged, &["store", "url"], Some(url), values::store_url)?,
        (None, Some(url)) => Some(
            values::store_url(&url)
                .map_err(|error| ConfigError::Environment { variable, problem: error.to_string() })?,
        ),
        (None, None) => None,
    };
    let region = checked(merged, &["store", "region"], fragment.region.as_deref(), values::line)?;
    let endpoint = checked(merged, &["store", "endpoint"], fragment.endpoint.as_deref(), values::web_url)?;
    let sweep_every = fragment.sweep_every.map_or(DEFAULT_SWEEP_EVERY, |span| span.0);
    if sweep_every < LEAST_SWEEP_EVERY {
        let problem = format!("{sweep_every:?} is too short; allowed is 1s to 24h, and the sweep cannot be turned off");
        return Err(merged.error(&["store", "sweep_every"], problem));
    }
    let keep_builds = fragment.keep_builds;
    if keep_builds == Some(0) {
        let problem = "0 would keep no builds; write at least 1, or remove the key to keep every build".to_owned();
        return Err(merged.error(&["store", "keep_builds"], problem));
    }
    Ok(url.map(|url| StoreSection {
        url,
        region,
        endpoint,
        force_path_style: fragment.force_path_style.unwrap_or(false),
        sweep_every,
        keep_builds,
    }))
}

fn check_cache(
    merged: &Merged,
    fragment: &CacheFragment,
    env: &impl Fn(&str) -> Option<String>,
    user: Uid,
) -> Result<CacheSettings, ConfigError> {
    let dir = match checked(merged, &["cache", "dir"], fragment.dir.as_deref(), values::absolute)? {
        Some(dir) => dir,
        None => default_cache_dir(env, user)?,
    };
    let budget_bytes = fragment.budget.as_ref().map_or(DEFAULT_CACHE_BUDGET_BYTES, |size| size.0);
    let min_free_bytes = fragment.min_free.as_ref().map(|size| size.0);
    Ok(CacheSettings { dir, budget_bytes, min_free_bytes })
}

/// The cache directory: systemd's, else `/var/cache/cutover` for root, else the user's.
fn default_cache_dir(env: &impl Fn(&str) -> Option<String>, user: Uid) -> Result<PathBuf, ConfigError> {
    let set = |variable: &'static str| env(variable).filter(|value| !value.is_empty()).map(|value| (variable, value));
    let (variable, base, below) = if let Some((variable, dirs)) = set("CACHE_DIRECTORY") {
        // systemd separates several CacheDirectory= by colons. The agent uses the first.
        (variable, dirs.split(':').next().unwrap_or_default().to_owned(), "")
    } else if user.is_root() {
        return Ok(PathBuf::from("/var/cache/cutover"));
    } else if let Some((variable, base)) = set("XDG_CACHE_HOME") {
        (variable, base, "cutover")
    } else if let Some((variable, home)) = set("HOME") {
        (variable, home, ".cache/cutover")
    } else {
        let problem = "is not set; set it, or cache.dir in the configuration".to_owned();
        return Err(ConfigError::Environment { variable: "HOME", problem });
    };
    let base =
        values::absolute(&base).map_err(|error| ConfigError::Environment { variable, problem: error.to_string() })?;
    // Joining "" would add a slash at the end.
    Ok(if below.is_empty() { base } else { base.join(below) })
}

/// Refuses groups that share a directory, or have one inside the other's: they would switch and prune each other's
/// releases.
fn refuse_shared_directories(merged: &Merged, units: &BTreeMap<Unit, UnitSettings>) -> Result<(), ConfigError> {
    let mut earlier: Vec<(&Unit, &Path)> = Vec::new();
    for (unit, settings) in units {
        let dir = settings.deploy_to.as_path();
        if let Some((other, _)) = earlier.iter().find(|(_, other)| dir.starts_with(other) || other.starts_with(dir)) {
            let problem = format!(
                "{} overlaps with the directory of {:?}; give each group its own directory",
                dir.display(),
                other.to_string()
            );
            return Err(merged.error(&["deploy", &unit.to_string(), "deploy_to"], problem));
        }
        earlier.push((unit, dir));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cache_directory_depends_on_systemd_and_the_user() {
        let root = Uid::ROOT;
        let ann = Uid::from_raw(1000);
        for (variables, user, expected) in [
            (&[("CACHE_DIRECTORY", "/c/one:/c/two"), ("HOME", "/home/ann")][..], ann, Some("/c/one")),
            (&[("HOME", "/root")], root, Some("/var/cache/cutover")),
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/home/ann")], ann, Some("/x/cutover")),
            (&[("XDG_CACHE_HOME", ""), ("HOME", "/home/ann")], ann, Some("/home/ann/.cache/cutover")),
            (&[("XDG_CACHE_HOME", "cache")], ann, None),
            (&[], ann, None),
        ] {
            let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(default_cache_dir(&env, user).ok(), expected.map(PathBuf::from), "{variables:?}");
        }
    }
}
