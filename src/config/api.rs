//! What `[api]` may hold, checked: where the agent listens, by which names, and whom it believes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;

use serde::{Serialize, Serializer};
use url::Url;

use super::fragment::{ApiFragment, ProxyFragment, UserFragment};
use super::merge::{Merged, checked};
use super::{ConfigError, InvalidValue, values};
use crate::protocol::ids::{App, Commit};

/// Where the API listens by default: on loopback, because it receives Consul tokens.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8740);

/// The header in which proxies name the user, where the settings name none.
const DEFAULT_USER_HEADER: &str = "x-forwarded-user";

/// The longest name of a user: it stands in records as `by`, which have room for this many bytes.
const MAX_USER_BYTES: usize = 128;

/// The agent's HTTP side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiSection {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What links in messages begin with.
    pub public_url: Option<PublicUrl>,
    /// Where two commits are compared, with `{from}`, `{to}` and, where there are several apps, `{app}` in it.
    pub compare_url: Option<String>,
    /// Names, besides its address, `localhost`, and that of `public_url`, by which it may be called; in lower case.
    pub hosts: Vec<String>,
    /// Certificate and key; none: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Whether plain HTTP may leave the machine.
    pub plain_http: bool,
    /// The proxy that says who its users are.
    pub proxy: Option<ProxySettings>,
    /// Users without a Consul token of their own, by name.
    pub users: BTreeMap<String, UserSettings>,
}

/// Where people find the agent's pages: as it was written, without `/` at its end, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    url: Url,
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = values::web_url(text)?;
        let url = Url::parse(&text).map_err(|error| error.to_string())?;
        Ok(Self { text, url })
    }

    /// Its scheme, host, port and path.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }
}

impl Deref for PublicUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Serialize for PublicUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

/// The files of the agent's own certificate. Read when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    /// The certificate and what leads to its CA, in PEM; absolute.
    pub cert_file: PathBuf,
    /// Its key, in PEM; absolute.
    pub key_file: PathBuf,
}

/// A proxy in front of the agent that has found out who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxySettings {
    /// The addresses that it comes from; at least one.
    pub from: Vec<IpAddr>,
    /// The header in which it names the user, in lower case.
    pub user_header: String,
}

/// A user without a Consul token of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserSettings {
    /// Holds the Consul token that acts for the user; absolute. Read at each request, so it can be changed.
    pub token_file: PathBuf,
}

/// Where two commits of an app are compared, `form` being `compare_url`; none where nowhere is, or it is one and the same.
#[must_use]
pub fn compare_link(form: Option<&str>, app: &App, from: &Commit, to: &Commit) -> Option<String> {
    let form = form.filter(|_| from != to)?;
    Some(form.replace("{app}", app.as_str()).replace("{from}", from.as_str()).replace("{to}", to.as_str()))
}

/// Checks `[api]`.
pub(super) fn check(merged: &Merged, fragment: ApiFragment) -> Result<ApiSection, ConfigError> {
    let listen = checked(merged, &["api", "listen"], fragment.listen.as_deref(), |text| {
        text.parse().map_err(|_| {
            format!("{text:?} is no address to listen on; write <IP>:<port>, as \"127.0.0.1:8740\" or \"[::1]:8740\"")
                .into()
        })
    })?;
    let listen: SocketAddr = listen.unwrap_or(DEFAULT_LISTEN);
    let public_url = checked(merged, &["api", "public_url"], fragment.public_url.as_deref(), PublicUrl::parse)?;
    let compare_url = checked(merged, &["api", "compare_url"], fragment.compare_url.as_deref(), compare)?;
    let hosts =
        fragment.hosts.iter().map(|text| host(text).map_err(|e| merged.error(&["api", "hosts"], e.to_string())));
    let hosts = hosts.collect::<Result<_, _>>()?;
    let tls = check_tls(merged, &fragment)?;
    let plain_http = fragment.plain_http.unwrap_or(false);
    if tls.is_none() && !plain_http && !listen.ip().is_loopback() {
        let problem = format!(
            "{listen} is not loopback, and Consul tokens would pass in the clear; set tls_cert_file and tls_key_file, \
             or listen on 127.0.0.1 behind a proxy with TLS, or say plain_http = true"
        );
        return Err(merged.error(&["api", "listen"], problem));
    }
    let proxy = fragment.proxy.map(|proxy| check_proxy(merged, &proxy)).transpose()?;
    let users = fragment.users.into_iter().map(|(name, user)| check_user(merged, name, &user));
    let users = users.collect::<Result<_, _>>()?;
    Ok(ApiSection { listen, public_url, compare_url, hosts, tls, plain_http, proxy, users })
}

fn check_tls(merged: &Merged, fragment: &ApiFragment) -> Result<Option<TlsFiles>, ConfigError> {
    let file = |key: &str, value: &Option<String>| checked(merged, &["api", key], value.as_deref(), values::absolute);
    let cert_file = file("tls_cert_file", &fragment.tls_cert_file)?;
    let key_file = file("tls_key_file", &fragment.tls_key_file)?;
    let (has, lacks) = match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => return Ok(Some(TlsFiles { cert_file, key_file })),
        (None, None) => return Ok(None),
        (Some(_), None) => ("tls_cert_file", "tls_key_file"),
        (None, Some(_)) => ("tls_key_file", "tls_cert_file"),
    };
    Err(merged.error(&["api", has], format!("stands without {lacks}; set both, or neither")))
}

fn check_proxy(merged: &Merged, fragment: &ProxyFragment) -> Result<ProxySettings, ConfigError> {
    let at = |key| ["api", "proxy", key];
    if fragment.from.is_empty() {
        let problem = "is missing; write the addresses that the proxy comes from, as [\"127.0.0.1\"]";
        return Err(merged.error(&at("from"), problem.to_owned()));
    }
    let address = |text: &String| {
        text.parse().map_err(|_| {
            merged.error(&at("from"), format!("{text:?} is no IP address; write addresses as [\"127.0.0.1\"]"))
        })
    };
    let from = fragment.from.iter().map(address).collect::<Result<_, _>>()?;
    let user_header = checked(merged, &at("user_header"), fragment.user_header.as_deref(), header_name)?;
    Ok(ProxySettings { from, user_header: user_header.unwrap_or_else(|| DEFAULT_USER_HEADER.to_owned()) })
}

fn check_user(merged: &Merged, name: String, fragment: &UserFragment) -> Result<(String, UserSettings), ConfigError> {
    let key = ["api", "users", &name, "token_file"];
    if name.trim().is_empty() || name.len() > MAX_USER_BYTES || name.chars().any(char::is_control) {
        let problem = format!("a user's name is 1 to {MAX_USER_BYTES} bytes without control characters");
        return Err(merged.error(&["api", "users", &name], problem));
    }
    let token_file = checked(merged, &key, fragment.token_file.as_deref(), values::absolute)?
        .ok_or_else(|| merged.error(&key, "is missing; name the file that holds a Consul token".to_owned()))?;
    Ok((name, UserSettings { token_file }))
}

/// A host as it stands in URLs, without scheme, port and path.
fn host(text: &str) -> Result<String, InvalidValue> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !text.is_empty() && text.chars().all(plain);
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{text:?} is no host name; write it without scheme, port and path, as \"deploy.example.com\"").into())
}

/// The address of a page that compares two commits.
fn compare(text: &str) -> Result<String, InvalidValue> {
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '`');
    if is_web && text.contains("{from}") && text.contains("{to}") && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} compares nothing; write it with both commits, as \"https://git.example.com/{{app}}/compare/{{from}}...{{to}}\""
    ).into())
}

/// A header that a proxy may name a user in: none that says something else, which every client sends.
fn header_name(text: &str) -> Result<String, InvalidValue> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(format!("{text:?} is no header's name; write it as \"X-Forwarded-User\"").into());
    }
    let name = text.to_ascii_lowercase();
    let is_taken = ["host", "authorization", "cookie", "origin", "x-consul-token"].contains(&name.as_str());
    if is_taken || name.starts_with("content-") || name.starts_with("sec-fetch-") {
        return Err(format!(
            "{text:?} says something else than a user; have the proxy set one of its own, as \"X-Forwarded-User\""
        )
        .into());
    }
    Ok(name)
}
