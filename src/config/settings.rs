//! The checked settings of an agent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rustix::process::Uid;
use serde::{Deserialize, Serialize};

use super::fragment::{ApiFragment, CacheFragment, ConsulFragment, Fragment, NotifyFragment, StoreFragment};
use super::merge::Merged;
use super::unit::UnitSettings;
use super::{ConfigError, values};
use crate::protocol::ids::{App, Node, Unit};

/// Where the API listens by default: on loopback, because it speaks plain HTTP and receives Consul tokens.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8740);

/// Where Cutover's keys lie in Consul's KV store.
const DEFAULT_PREFIX: &str = "cutover/";

/// How many bytes of downloaded archives a node keeps by default, 10 GiB: two artifacts of the largest size that
/// Cutover is designed for (5 GB), hundreds of usual ones, and little beside the releases themselves.
pub const DEFAULT_CACHE_BUDGET_BYTES: u64 = 10 << 30;

/// Everything that the configuration says, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// This node's name; none: the Consul agent's node name.
    pub node: Option<Node>,
    /// How Consul is reached.
    pub consul: ConsulSection,
    /// Where archives are; none only where there is no unit.
    pub store: Option<StoreSection>,
    /// The agent's HTTP side.
    pub api: ApiSection,
    /// Downloaded archives.
    pub cache: CacheSettings,
    /// What is deployed to this node. None: the agent serves API and page alone.
    pub units: BTreeMap<Unit, UnitSettings>,
    /// Who is told about deploys, by the name of the section.
    pub notify: BTreeMap<String, NotifySettings>,
}

/// How Consul is reached. What is absent comes from the `CONSUL_*` variables, which the client reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsulSection {
    /// As `CONSUL_HTTP_ADDR`.
    pub address: Option<String>,
    /// Where Cutover's keys lie, with a `/` at its end.
    pub prefix: String,
    /// As `CONSUL_HTTP_TOKEN_FILE`; absolute.
    pub token_file: Option<PathBuf>,
    /// As `CONSUL_CACERT`; absolute.
    pub ca_file: Option<PathBuf>,
    /// As `CONSUL_CLIENT_CERT`; absolute, and only together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// As `CONSUL_CLIENT_KEY`; absolute, and only together with `cert_file`.
    pub key_file: Option<PathBuf>,
}

/// Where archives are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreSection {
    /// `s3://<bucket>[/<prefix>]` or `dir:///<path>`, without `/` at its end.
    pub url: String,
    /// The bucket's region; none: as the AWS variables and files say.
    pub region: Option<String>,
    /// Another S3 server's http(s) URL.
    pub endpoint: Option<String>,
    /// Bucket in the path and not in the host name.
    pub force_path_style: bool,
}

/// The agent's HTTP side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiSection {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What links in messages begin with, without `/` at its end.
    pub public_url: Option<String>,
}

/// Downloaded archives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheSettings {
    /// Where they lie; absolute.
    pub dir: PathBuf,
    /// How many bytes of them are kept.
    pub budget_bytes: u64,
}

/// How a notification is shaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotifyKind {
    /// An activity with a thread, as Flowdock took it.
    Flowdock,
    /// An incoming webhook of Slack, Mattermost, Rocket.Chat, Discord.
    Slack,
    /// A signed event document.
    Webhook,
}

/// One receiver of notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotifySettings {
    /// The shape.
    pub kind: NotifyKind,
    /// Holds the URL, which is a secret; absolute.
    pub url_file: PathBuf,
}

impl Settings {
    /// Checks what the files say together, and fills in defaults.
    pub(super) fn check(
        merged: &Merged,
        env: &impl Fn(&str) -> Option<String>,
        user: Uid,
    ) -> Result<Self, ConfigError> {
        let Fragment { node, consul, store, api, cache, deploy, notify } = merged.fragment()?;
        let consul = check_consul(merged, &consul)?;
        let store = check_store(merged, &store, env)?;
        let api = check_api(merged, &api)?;
        let cache = check_cache(merged, &cache, env, user)?;
        let mut units = BTreeMap::new();
        for (unit, fragment) in deploy {
            let settings = UnitSettings::check(merged, &unit, fragment)?;
            units.insert(unit, settings);
        }
        refuse_shared_directories(merged, &units)?;
        if store.is_none() && !units.is_empty() {
            let problem = "is missing; write s3://<bucket>/<prefix> or dir:///<path>, or set CUTOVER_STORE";
            return Err(merged.error(&["store", "url"], problem.to_owned()));
        }
        let notify = notify
            .into_iter()
            .map(|(name, fragment)| Ok((name.clone(), check_notify(merged, &name, &fragment)?)))
            .collect::<Result<_, ConfigError>>()?;
        Ok(Self { node, consul, store, api, cache, units, notify })
    }
}

/// Applies a check to an optional value, and adds file and key to its error.
pub(super) fn checked<T>(
    merged: &Merged,
    key: &[&str],
    value: Option<&str>,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    value.map(|value| check(value).map_err(|problem| merged.error(key, problem))).transpose()
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
    Err(merged.error(&["consul", has], format!("stands without {lacks}; set both, or neither")))
}

fn check_store(
    merged: &Merged,
    fragment: &StoreFragment,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Option<StoreSection>, ConfigError> {
    let variable = "CUTOVER_STORE";
    let url = match (&fragment.url, env(variable).filter(|value| !value.is_empty())) {
        (Some(url), _) => checked(merged, &["store", "url"], Some(url), values::store_url)?,
        (None, Some(url)) => {
            Some(values::store_url(&url).map_err(|problem| ConfigError::Environment { variable, problem })?)
        }
        (None, None) => None,
    };
    let region = checked(merged, &["store", "region"], fragment.region.as_deref(), values::line)?;
    let endpoint = checked(merged, &["store", "endpoint"], fragment.endpoint.as_deref(), values::web_url)?;
    Ok(url.map(|url| StoreSection {
        url,
        region,
        endpoint,
        force_path_style: fragment.force_path_style.unwrap_or(false),
    }))
}

fn check_api(merged: &Merged, fragment: &ApiFragment) -> Result<ApiSection, ConfigError> {
    let listen = checked(merged, &["api", "listen"], fragment.listen.as_deref(), |text| {
        text.parse().map_err(|_| {
            format!("{text:?} is no address to listen on; write <IP>:<port>, as \"127.0.0.1:8740\" or \"[::1]:8740\"")
        })
    })?;
    let public_url = checked(merged, &["api", "public_url"], fragment.public_url.as_deref(), values::web_url)?;
    Ok(ApiSection { listen: listen.unwrap_or(DEFAULT_LISTEN), public_url })
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
    Ok(CacheSettings { dir, budget_bytes })
}

/// Systemd's directory, else the system's for root, else the user's.
fn default_cache_dir(env: &impl Fn(&str) -> Option<String>, user: Uid) -> Result<PathBuf, ConfigError> {
    let set = |variable: &'static str| env(variable).filter(|value| !value.is_empty()).map(|value| (variable, value));
    let (variable, base, below) = if let Some((variable, dirs)) = set("CACHE_DIRECTORY") {
        // A unit with several CacheDirectory= gets them with colons between; the first is the agent's.
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
    let base = values::absolute(&base).map_err(|problem| ConfigError::Environment { variable, problem })?;
    // Joining "" would add a slash at the end.
    Ok(if below.is_empty() { base } else { base.join(below) })
}

fn check_notify(merged: &Merged, name: &str, fragment: &NotifyFragment) -> Result<NotifySettings, ConfigError> {
    // The name stands in logs and metrics; the rules for an app's name suit it.
    name.parse::<App>().map_err(|e| merged.error(&["notify", name], format!("the section's name {}", e.problem)))?;
    let missing = |key: &str, allowed: &str| merged.error(&["notify", name, key], format!("is missing; {allowed}"));
    let kind = fragment.kind.ok_or_else(|| missing("kind", "write slack, flowdock or webhook"))?;
    let url_file = checked(merged, &["notify", name, "url_file"], fragment.url_file.as_deref(), values::absolute)?
        .ok_or_else(|| missing("url_file", "name the file that holds the URL"))?;
    Ok(NotifySettings { kind, url_file })
}

/// Two units in one directory, or one within the other, would switch and prune each other's releases.
fn refuse_shared_directories(merged: &Merged, units: &BTreeMap<Unit, UnitSettings>) -> Result<(), ConfigError> {
    let mut earlier: Vec<(&Unit, &Path)> = Vec::new();
    for (unit, settings) in units {
        let dir = settings.deploy_to.as_path();
        if let Some((other, _)) = earlier.iter().find(|(_, other)| dir.starts_with(other) || other.starts_with(dir)) {
            let problem = format!(
                "{} is, or holds, or lies in, the directory of {:?}; give each unit a directory of its own",
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
    fn the_cache_lies_where_systemd_root_or_the_user_has_it() {
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
