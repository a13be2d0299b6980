//! Settings for the connection to Consul: address, token, TLS, scope.
//!
//! [`Settings::from_env`] reads the 13 `CONSUL_*` variables that Consul's own API client reads, with the same rules: a
//! scheme may be missing, the token file takes precedence over the token, an `http://` address never disables
//! `CONSUL_HTTP_SSL=true`, a client certificate needs its key. It is stricter in three cases in which the official client would
//! continue with less security than requested: an invalid boolean is refused (there, an invalid `CONSUL_HTTP_SSL_VERIFY` turns
//! verification off), a CA file without a certificate is refused, and so is a `unix://` address (the HTTPS client that is
//! shared with `rs-consul` only supports TCP).
//!
//! Nothing here prints a secret: [`Secret`] has no `Display`, and its `Debug` is `***`.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::kind::HasKind;

/// Consul's own default: the agent on this machine.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8500";

/// A token or password. Its text is only available through [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`, so that `Debug` does not show it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads a secret from a file with one line of text.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] for a file with other content, which the error does not contain; else the error of the
    /// read.
    ///
    /// # Cancel safety
    ///
    /// Safe: reads only.
    pub(crate) async fn read(path: &Path) -> io::Result<Self> {
        let text = tokio::fs::read_to_string(path).await?;
        let text = text.trim();
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file does not contain one line of text"));
        }
        Ok(Self::new(text))
    }

    /// The text, only for request headers.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// HTTP basic authentication, for a proxy in front of Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The user's name.
    pub user: String,
    /// The password; empty if `CONSUL_HTTP_AUTH` has no colon.
    pub password: Secret,
}

/// Whether the server's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verify {
    /// The certificate must be valid for the name, and signed by a known CA.
    #[default]
    Full,
    /// Every certificate is accepted (`CONSUL_HTTP_SSL_VERIFY=false`): encrypted, but not authenticated.
    Nothing,
}

/// TLS towards Consul. The defaults: the system's CAs, no client certificate, full verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `CONSUL_HTTP_SSL`: use TLS even for an `http://` address.
    pub(crate) required: bool,
    /// `CONSUL_HTTP_SSL_VERIFY`.
    pub(crate) verify: Verify,
    /// `CONSUL_CACERT`: the only trusted CAs. Takes precedence over [`Tls::ca_dir`].
    pub(crate) ca_file: Option<PathBuf>,
    /// `CONSUL_CAPATH`: a directory of CA files.
    pub(crate) ca_dir: Option<PathBuf>,
    /// `CONSUL_CLIENT_CERT`; needs [`Tls::client_key`].
    pub(crate) client_cert: Option<PathBuf>,
    /// `CONSUL_CLIENT_KEY`; needs [`Tls::client_cert`].
    pub(crate) client_key: Option<PathBuf>,
    /// `CONSUL_TLS_SERVER_NAME`: the name that the certificate must have, instead of the address's host.
    pub(crate) server_name: Option<String>,
}

/// The settings of a [`super::Client`]. Config file and flags override single fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, `http://host:port`, `https://host:port`, each with an optional path prefix behind it.
    pub address: String,
    /// The ACL token.
    pub token: Option<Secret>,
    /// A file with the ACL token. [`super::Client::new`] reads it; unless empty, it takes precedence over [`Settings::token`].
    pub token_file: Option<PathBuf>,
    /// For a proxy in front of Consul.
    pub auth: Option<BasicAuth>,
    /// Also used for an `http://` address if it requires TLS.
    pub tls: Tls,
    /// The Consul Enterprise namespace.
    pub namespace: Option<String>,
    /// The Consul Enterprise admin partition.
    pub partition: Option<String>,
    /// The datacenter, if it is not the agent's own.
    pub datacenter: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            token: None,
            token_file: None,
            auth: None,
            tls: Tls::default(),
            namespace: None,
            partition: None,
            datacenter: None,
        }
    }
}

/// Invalid settings, with the variable or file, and the fix.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{variable} is {value:?}, which is neither true nor false")]
    NotBoolean { variable: &'static str, value: String },
    /// The address cannot be used.
    #[error("the Consul address {address:?} {problem}")]
    Address {
        /// The address, without user and password.
        address: String,
        /// The problem, and the allowed values.
        problem: &'static str,
    },
    /// A certificate without its key, or the reverse.
    #[error("{given} is set without {missing}; a client certificate needs both")]
    HalfCertificate {
        /// The variable that is set.
        given: &'static str,
        missing: &'static str,
    },
    /// A file of a setting cannot be read.
    #[error("cannot read {what} {}", path.display())]
    Read {
        /// The setting of the file, for example "the CA file".
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file of a setting has the wrong content.
    #[error("{what} {} {problem}", path.display())]
    File {
        /// The setting of the file, for example "the CA file".
        what: &'static str,
        path: PathBuf,
        /// The rest of the sentence, for example "contains no certificate".
        problem: String,
    },
    /// rustls refuses the certificates or the key.
    #[error("the TLS settings for Consul are inconsistent")]
    Tls(#[source] rustls::Error),
    /// A token or password that is not valid in a header.
    #[error("the {what} contains a character that is not valid in an HTTP header")]
    NotAHeader { what: &'static str },
    /// An invalid host name.
    #[error("CONSUL_TLS_SERVER_NAME {name:?} is not a host name")]
    ServerName { name: String },
}

impl HasKind for SettingsError {
    fn kind(&self) -> &'static str {
        match self {
            Self::NotBoolean { .. } => "not_boolean",
            Self::Address { .. } => "address",
            Self::HalfCertificate { .. } => "half_certificate",
            Self::Read { .. } => "read",
            Self::File { .. } => "file",
            Self::Tls(_) => "tls",
            Self::NotAHeader { .. } => "not_a_header",
            Self::ServerName { .. } => "server_name",
        }
    }
}

/// The parts of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// `host:port`, or `host`.
    pub(super) authority: String,
    /// Empty, or a path that starts with `/` and does not end with one.
    pub(super) prefix: String,
}

impl Endpoint {
    /// `scheme://authority/prefix`, to which `/v1/…` is appended.
    pub(super) fn base(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

impl Settings {
    /// Settings from the environment that `lookup` reads; an empty variable counts as unset.
    ///
    /// # Errors
    ///
    /// [`SettingsError::NotBoolean`], [`SettingsError::HalfCertificate`] or [`SettingsError::Address`], for the first
    /// variable that cannot be used. Files are not opened here.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let text = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        let flag = |name: &'static str| text(name).map(|value| parse_bool(name, &value)).transpose();
        let settings = Self {
            address: text("CONSUL_HTTP_ADDR").unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()),
            token: text("CONSUL_HTTP_TOKEN").map(Secret::new),
            token_file: path("CONSUL_HTTP_TOKEN_FILE"),
            auth: text("CONSUL_HTTP_AUTH").map(|auth| match auth.split_once(':') {
                Some((user, password)) => BasicAuth { user: user.to_owned(), password: Secret::new(password) },
                None => BasicAuth { user: auth, password: Secret::new("") },
            }),
            tls: Tls {
                required: flag("CONSUL_HTTP_SSL")?.unwrap_or(false),
                verify: match flag("CONSUL_HTTP_SSL_VERIFY")? {
                    Some(false) => Verify::Nothing,
                    Some(true) | None => Verify::Full,
                },
                ca_file: path("CONSUL_CACERT"),
                ca_dir: path("CONSUL_CAPATH"),
                client_cert: path("CONSUL_CLIENT_CERT"),
                client_key: path("CONSUL_CLIENT_KEY"),
                server_name: text("CONSUL_TLS_SERVER_NAME"),
            },
            namespace: text("CONSUL_NAMESPACE"),
            partition: text("CONSUL_PARTITION"),
            datacenter: None,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Checks everything that needs no file. [`super::Client::new`] calls it, too.
    ///
    /// # Errors
    ///
    /// [`SettingsError::HalfCertificate`] or [`SettingsError::Address`].
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        match (&self.tls.client_cert, &self.tls.client_key) {
            (Some(_), None) => {
                return Err(SettingsError::HalfCertificate {
                    given: "CONSUL_CLIENT_CERT",
                    missing: "CONSUL_CLIENT_KEY",
                });
            }
            (None, Some(_)) => {
                return Err(SettingsError::HalfCertificate {
                    given: "CONSUL_CLIENT_KEY",
                    missing: "CONSUL_CLIENT_CERT",
                });
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.endpoint().map(|_| ())
    }

    /// Parses the address by the official client's rules.
    pub(super) fn endpoint(&self) -> Result<Endpoint, SettingsError> {
        let refuse = |problem| {
            // `user:password@host` is a common mistake. The error must contain neither.
            let address = match self.address.rsplit_once('@') {
                Some((_, host)) => format!("***@{host}"),
                None => self.address.clone(),
            };
            Err(SettingsError::Address { address, problem })
        };
        let (scheme, rest) = match self.address.split_once("://") {
            Some(("http", rest)) => ("http", rest),
            Some(("https", rest)) => ("https", rest),
            Some(("unix", _)) => {
                return refuse(
                    "is a socket, but Cutover only supports TCP; let the Consul agent listen on 127.0.0.1:8500, too",
                );
            }
            Some(_) => return refuse("has an unknown scheme; use host:port, http://host:port or https://host:port"),
            None => ("http", self.address.as_str()),
        };
        let (authority, prefix) = match rest.split_once('/') {
            Some((authority, prefix)) => (authority, prefix.trim_matches('/')),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return refuse("contains a user or password; put them into CONSUL_HTTP_AUTH");
        }
        if authority.is_empty() || authority.parse::<http::uri::Authority>().is_err() {
            return refuse("has no host; use host:port, for example 127.0.0.1:8500");
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        if !prefix.is_empty() && (prefix.contains(['?', '#']) || prefix.parse::<http::uri::PathAndQuery>().is_err()) {
            return refuse("has a path that is not valid in a URL");
        }
        // An `http://` address never disables requested TLS.
        let scheme = if self.tls.required { "https" } else { scheme };
        Ok(Endpoint { scheme, authority: authority.to_owned(), prefix })
    }
}

/// The words of Go's `strconv.ParseBool`, which the official client uses.
fn parse_bool(variable: &'static str, value: &str) -> Result<bool, SettingsError> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        other => Err(SettingsError::NotBoolean { variable, value: other.chars().take(40).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_env(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn base(variables: &[(&str, &str)]) -> String {
        read(variables).and_then(|settings| settings.endpoint()).map_or_else(|e| e.to_string(), |e| e.base())
    }

    #[test]
    fn addresses_are_parsed_like_in_the_official_client() {
        assert_eq!(base(&[]), "http://127.0.0.1:8500");
        assert_eq!(base(&[("CONSUL_HTTP_ADDR", "")]), "http://127.0.0.1:8500");
        for (given, expected) in [
            ("consul.example:8500", "http://consul.example:8500"),
            ("consul.example", "http://consul.example"),
            ("[::1]:8500", "http://[::1]:8500"),
            ("http://consul.example:80", "http://consul.example:80"),
            ("https://consul.example:8501", "https://consul.example:8501"),
            ("https://proxy.example/consul/eu/", "https://proxy.example/consul/eu"),
        ] {
            assert_eq!(base(&[("CONSUL_HTTP_ADDR", given)]), expected);
        }
        for bad in ["unix:///run/consul.sock", "ftp://a", "http://", "a b", "http://u:p@host:8500", "http://h/a?b"] {
            assert!(read(&[("CONSUL_HTTP_ADDR", bad)]).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn requested_tls_is_never_downgraded() {
        let variables = [("CONSUL_HTTP_ADDR", "http://consul.example:8501"), ("CONSUL_HTTP_SSL", "true")];
        assert_eq!(base(&variables), "https://consul.example:8501");
        let variables = [("CONSUL_HTTP_ADDR", "https://consul.example:8501"), ("CONSUL_HTTP_SSL", "false")];
        assert_eq!(base(&variables), "https://consul.example:8501");
        assert!(read(&[("CONSUL_HTTP_SSL", "yes")]).is_err());
        assert!(read(&[("CONSUL_HTTP_SSL_VERIFY", "off")]).is_err(), "must not turn the verification off");
        assert_eq!(read(&[("CONSUL_HTTP_SSL_VERIFY", "0")]).unwrap().tls.verify, Verify::Nothing);
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        assert!(read(&[("CONSUL_CLIENT_CERT", "/c.pem")]).is_err());
        assert!(read(&[("CONSUL_CLIENT_KEY", "/k.pem")]).is_err());
        assert!(read(&[("CONSUL_CLIENT_CERT", "/c.pem"), ("CONSUL_CLIENT_KEY", "/k.pem")]).is_ok());
    }

    #[test]
    fn all_other_variables_are_read() {
        let settings = read(&[
            ("CONSUL_HTTP_TOKEN", "t0p"),
            ("CONSUL_HTTP_TOKEN_FILE", "/t"),
            ("CONSUL_HTTP_AUTH", "ann:pa:ss"),
            ("CONSUL_CACERT", "/ca.pem"),
            ("CONSUL_CAPATH", "/ca"),
            ("CONSUL_TLS_SERVER_NAME", "server.dc1.consul"),
            ("CONSUL_NAMESPACE", "team"),
            ("CONSUL_PARTITION", "part"),
        ])
        .unwrap();
        assert_eq!(settings.token, Some(Secret::new("t0p")));
        assert_eq!(settings.token_file, Some("/t".into()));
        assert_eq!(settings.auth, Some(BasicAuth { user: "ann".to_owned(), password: Secret::new("pa:ss") }));
        assert_eq!(settings.tls.ca_file, Some("/ca.pem".into()));
        assert_eq!(settings.tls.ca_dir, Some("/ca".into()));
        assert_eq!(settings.tls.server_name.as_deref(), Some("server.dc1.consul"));
        assert_eq!((settings.namespace.as_deref(), settings.partition.as_deref()), (Some("team"), Some("part")));
    }

    #[test]
    fn no_secret_is_printed() {
        let settings = read(&[("CONSUL_HTTP_TOKEN", "hunter2"), ("CONSUL_HTTP_AUTH", "ann:hunter2")]).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        let error = read(&[("CONSUL_HTTP_ADDR", "http://ann:hunter2@host")]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
