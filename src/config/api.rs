//! The section `[api]`: where the agent listens, under which host names, and which proxy it trusts.
//!
//! Callers send Consul tokens. So an unsafe combination, such as plain HTTP beyond loopback, is an error unless the settings
//! allow it explicitly. Certificates and token files are only named here; the agent reads them.

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

/// The default address of the API: loopback, because callers send Consul tokens.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8740);

/// The default header in which the proxy names the user.
const DEFAULT_USER_HEADER: &str = "x-forwarded-user";

/// The longest name of a user in bytes. Records contain it as `by`, which has this limit.
const MAX_USER_BYTES: usize = 128;

/// The settings of the agent's HTTP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiSection {
    /// The address to listen on.
    pub(crate) listen: SocketAddr,
    /// The base of links in messages.
    pub(crate) public_url: Option<PublicUrl>,
    /// The link that compares two commits, with the placeholders `{from}`, `{to}` and optionally `{app}`.
    pub(crate) compare_url: Option<String>,
    /// Accepted host names, besides the agent's address, `localhost`, and the host of `public_url`; in lower case.
    pub(crate) hosts: Vec<String>,
    /// Certificate and key; none for plain HTTP.
    pub(crate) tls: Option<TlsFiles>,
    /// Whether plain HTTP is allowed beyond loopback.
    pub(crate) plain_http: bool,
    /// The proxy that names its users.
    pub(crate) proxy: Option<ProxySettings>,
    /// Users without a Consul token of their own, by name.
    pub(crate) users: BTreeMap<String, UserSettings>,
}

/// The public base URL of the page: as written, without a trailing `/`, and parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicUrl {
    text: String,
    url: Url,
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = values::web_url(text)?;
        let url = Url::parse(&text).map_err(|error| error.to_string())?;
        Ok(Self { text, url })
    }

    #[must_use]
    pub(crate) const fn url(&self) -> &Url {
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

/// The files of the agent's own certificate. They are read at start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TlsFiles {
    /// The certificate with its chain, in PEM; absolute.
    pub(crate) cert_file: PathBuf,
    /// The key of the certificate, in PEM; absolute.
    pub(crate) key_file: PathBuf,
}

/// A proxy in front of the agent that authenticates users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ProxySettings {
    /// The addresses of the proxy; at least one.
    pub(crate) from: Vec<IpAddr>,
    /// The header in which the proxy names the user, in lower case.
    pub(crate) user_header: String,
}

/// A user without a Consul token of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UserSettings {
    /// The file with the user's Consul token; absolute. It is read at each request, so it can be changed.
    pub(crate) token_file: PathBuf,
}

/// The link that compares two commits of an app; `form` is `compare_url`. None without `compare_url`, or if both commits are
/// the same.
#[must_use]
pub(crate) fn compare_link(form: Option<&str>, app: &App, from: &Commit, to: &Commit) -> Option<String> {
    let form = form.filter(|_| from != to)?;
    Some(form.replace("{app}", app.as_str()).replace("{from}", from.as_str()).replace("{to}", to.as_str()))
}

pub(super) fn check(merged: &Merged, fragment: ApiFragment) -> Result<ApiSection, ConfigError> {
    let listen = checked(merged, &["api", "listen"], fragment.listen.as_deref(), |text| {
        text.parse().map_err(|_| {
            format!("{text:?} is not an address to listen on; write <IP>:<port>, for example \"127.0.0.1:8740\" or \"[::1]:8740\"").into()
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
            "{listen} is not loopback, and callers would send Consul tokens in the clear; set tls_cert_file and \
             tls_key_file, or listen on 127.0.0.1 behind a proxy with TLS, or set plain_http = true"
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
    Err(merged.error(&["api", has], format!("is set without {lacks}; set both or neither")))
}

fn check_proxy(merged: &Merged, fragment: &ProxyFragment) -> Result<ProxySettings, ConfigError> {
    let at = |key| ["api", "proxy", key];
    if fragment.from.is_empty() {
        let problem = "is missing; list the addresses of the proxy, for example [\"127.0.0.1\"]";
        return Err(merged.error(&at("from"), problem.to_owned()));
    }
    let address = |text: &String| {
        text.parse().map_err(|_| {
            merged.error(&at("from"), format!("{text:?} is not an IP address; write for example [\"127.0.0.1\"]"))
        })
    };
    let from = fragment.from.iter().map(address).collect::<Result<_, _>>()?;
    let user_header = checked(merged, &at("user_header"), fragment.user_header.as_deref(), header_name)?;
    Ok(ProxySettings { from, user_header: user_header.unwrap_or_else(|| DEFAULT_USER_HEADER.to_owned()) })
}

fn check_user(merged: &Merged, name: String, fragment: &UserFragment) -> Result<(String, UserSettings), ConfigError> {
    let key = ["api", "users", &name, "token_file"];
    if name.trim().is_empty() || name.len() > MAX_USER_BYTES || name.chars().any(char::is_control) {
        let problem = format!("a user's name has 1 to {MAX_USER_BYTES} bytes without control characters");
        return Err(merged.error(&["api", "users", &name], problem));
    }
    let token_file = checked(merged, &key, fragment.token_file.as_deref(), values::absolute)?
        .ok_or_else(|| merged.error(&key, "is missing; set it to a file with the user's Consul token".to_owned()))?;
    Ok((name, UserSettings { token_file }))
}

/// Checks a host name as in a URL, without scheme, port and path. An IP address is allowed.
fn host(text: &str) -> Result<String, InvalidValue> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !text.is_empty() && text.chars().all(plain);
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "{text:?} is not a host name; write it without scheme, port and path, for example \"deploy.example.com\""
    )
    .into())
}

/// Checks the address of a page that compares two commits.
fn compare(text: &str) -> Result<String, InvalidValue> {
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '`');
    if is_web && text.contains("{from}") && text.contains("{to}") && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} does not contain both commits; write for example \"https://git.example.com/{{app}}/compare/{{from}}...{{to}}\""
    ).into())
}

/// Checks the header in which the proxy names the user. Headers with another meaning are refused, because clients send
/// them too.
fn header_name(text: &str) -> Result<String, InvalidValue> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(format!("{text:?} is not the name of a header; write for example \"X-Forwarded-User\"").into());
    }
    let name = text.to_ascii_lowercase();
    let is_taken = ["host", "authorization", "cookie", "origin", "x-consul-token"].contains(&name.as_str());
    if is_taken || name.starts_with("content-") || name.starts_with("sec-fetch-") {
        return Err(format!(
            "{text:?} has another meaning in HTTP; use a header that only the proxy sets, for example \"X-Forwarded-User\""
        )
        .into());
    }
    Ok(name)
}
