//! How requests reach S3 and the services for credentials: directly, or through the proxies that the environment names.
//!
//! The metadata services of AWS belong to the machine, and are never asked through a proxy.

use std::net::IpAddr;

use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::{ConfigBag, HttpClient, RuntimeComponents, RuntimeComponentsBuilder, SharedHttpClient};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use url::{Host, Url};

/// The variables that name the addresses of metadata services.
const METADATA_VARIABLES: [&str; 2] = ["AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];

/// The proxies for each kind of URL.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<ProxyConfig>,
    https: Option<ProxyConfig>,
    /// Hosts and ports with HTTP that are never asked through a proxy, besides link-local addresses.
    direct: Vec<Authority>,
}

/// Host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    fn of(url: &Url) -> Option<Self> {
        Some(Self { host: url.host_str()?.to_owned(), port: url.port_or_known_default() })
    }
}

impl Proxies {
    /// Reads the variables. Notes name the proxies that cannot be used, without the passwords in them.
    pub(super) fn of(variable: &dyn Fn(&str) -> Option<String>, notes: &mut Vec<String>) -> Self {
        let first = |names: &[&'static str]| {
            let mut named = names.iter().filter_map(|name| Some((*name, variable(name)?)));
            named.find(|(_, value)| !value.is_empty())
        };
        let except = first(&["NO_PROXY", "no_proxy"]).map(|(_, hosts)| plain_domains(&hosts)).unwrap_or_default();
        let mut read = |names: &[&'static str], config: fn(String) -> Option<ProxyConfig>| {
            let (name, value) = first(names)?;
            let config = proxy_url(&value).and_then(config).map(|config| config.no_proxy(&except));
            if config.is_none() {
                let note =
                    format!("{name} is ignored for the store: set it to a URL such as http://proxy.example:3128");
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            config
        };
        let http = read(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"], |url| ProxyConfig::http(url).ok());
        let https = read(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"], |url| ProxyConfig::https(url).ok());
        let metadata = METADATA_VARIABLES.iter().filter_map(|name| Url::parse(&variable(name)?).ok());
        let direct = metadata.filter(|url| url.scheme() == "http").filter_map(|url| Authority::of(&url)).collect();
        Self { http, https, direct }
    }

    fn is_direct(&self, url: &Url) -> bool {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Authority::of(url).is_some_and(|it| self.direct.contains(&it)),
        };
        is_link_local(address) || Authority::of(url).is_some_and(|it| self.direct.contains(&it))
    }
}

/// The proxy's URL, if it has a scheme that is supported; without a scheme it means HTTP.
fn proxy_url(value: &str) -> Option<String> {
    let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let parsed = Url::parse(&url).ok()?;
    (matches!(parsed.scheme(), "http" | "https") && parsed.has_host()).then_some(url)
}

/// `NO_PROXY` with domains in the only form that the matcher knows: `.example.com` for `*.example.com`.
fn plain_domains(hosts: &str) -> String {
    let plain = |host: &str| if host == "*" { host.to_owned() } else { host.trim_start_matches('*').to_owned() };
    hosts.split(',').map(|host| plain(host.trim())).collect::<Vec<_>>().join(",")
}

/// Whether this is where AWS has its metadata services: `169.254.0.0/16`, `fe80::/10` and `fd00:ec2::/32`.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.segments().starts_with(&[0xfd00, 0x0ec2]),
    }
}

/// The client for S3 and the services for credentials. `roots` are the trusted certificates; none: the system's.
pub(super) fn http_client(roots: Option<&TrustStore>, proxies: &Proxies) -> SharedHttpClient {
    let roots = roots.cloned().unwrap_or_default();
    let client = |proxy: Option<&ProxyConfig>| one_way(&roots, proxy.cloned());
    if proxies.http.is_none() && proxies.https.is_none() {
        return client(None);
    }
    SharedHttpClient::new(Ways {
        direct: client(None),
        http: client(proxies.http.as_ref()),
        https: client(proxies.https.as_ref()),
        proxies: proxies.clone(),
    })
}

fn one_way(roots: &TrustStore, proxy: Option<ProxyConfig>) -> SharedHttpClient {
    let roots = roots.clone();
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.set_proxy_config(proxy.clone());
        let connector = connector.tls_provider(Provider::Rustls(CryptoMode::Ring));
        match TlsContext::builder().with_trust_store(roots.clone()).build() {
            Ok(context) => connector.tls_context(context).build(),
            Err(error) => {
                tracing::error!(%error, "the certificates for the store cannot be used: {error}");
                connector.build()
            }
        }
    })
}

/// One client per way. Each has its own connections.
#[derive(Debug)]
struct Ways {
    direct: SharedHttpClient,
    http: SharedHttpClient,
    https: SharedHttpClient,
    proxies: Proxies,
}

/// The connectors of the ways for one request.
#[derive(Debug)]
struct Crossroads {
    direct: SharedHttpConnector,
    http: SharedHttpConnector,
    https: SharedHttpConnector,
    proxies: Proxies,
}

impl HttpClient for Ways {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = |way: &SharedHttpClient| way.http_connector(settings, components);
        let (direct, http, https) = (connector(&self.direct), connector(&self.http), connector(&self.https));
        SharedHttpConnector::new(Crossroads { direct, http, https, proxies: self.proxies.clone() })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        bag: &ConfigBag,
    ) -> Result<(), BoxError> {
        HttpClient::validate_base_client_config(&self.direct, components, bag)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.direct.connector_metadata()
    }
}

impl HttpConnector for Crossroads {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match Url::parse(request.uri()) {
            Ok(url) if self.proxies.is_direct(&url) => self.direct.call(request),
            Ok(url) if url.scheme() == "https" => self.https.call(request),
            Ok(_) | Err(_) => self.http.call(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> (Proxies, Vec<String>) {
        let mut notes = Vec::new();
        let variable =
            |wanted: &str| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
        (Proxies::of(&variable, &mut notes), notes)
    }

    #[test]
    fn each_kind_of_url_has_its_proxy() {
        let found = |variables: &[(&str, &str)]| {
            let (proxies, notes) = proxies(variables);
            assert_eq!(notes, Vec::<String>::new());
            (proxies.http.is_some(), proxies.https.is_some())
        };
        assert_eq!(found(&[]), (false, false));
        assert_eq!(found(&[("HTTPS_PROXY", "http://p:1")]), (false, true));
        assert_eq!(found(&[("http_proxy", "p:1")]), (true, false));
        assert_eq!(found(&[("ALL_PROXY", "https://p:1"), ("HTTP_PROXY", "")]), (true, true));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_once_without_its_password() {
        for value in ["socks5://me:secret@p:1", "http://", "http://a b"] {
            let (found, notes) = proxies(&[("ALL_PROXY", value)]);
            assert!(found.http.is_none() && found.https.is_none());
            assert!(notes.len() == 1 && notes[0].starts_with("ALL_PROXY is ignored"), "{notes:?}");
            assert!(!notes[0].contains("secret"), "{notes:?}");
        }
    }

    #[test]
    fn metadata_services_are_asked_directly() {
        let (found, _) = proxies(&[
            ("ALL_PROXY", "http://p:1"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://imds.example:80/"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "https://vault.example/keys"),
        ]);
        for (url, expected) in [
            ("http://169.254.169.254/latest/api/token", true),
            ("http://169.254.170.2/role", true),
            ("http://[fd00:ec2::254]/latest/api/token", true),
            ("http://imds.example/latest/api/token", true),
            ("http://imds.example:81/", false),
            ("https://vault.example/keys", false),
            ("http://127.0.0.1:9000/bucket", false),
            ("https://artifacts.s3.eu-west-1.amazonaws.com/", false),
        ] {
            assert_eq!(found.is_direct(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn domains_of_no_proxy_may_begin_with_a_star() {
        assert_eq!(plain_domains("*, *.a.example ,.b.example,10.0.0.0/8"), "*,.a.example,.b.example,10.0.0.0/8");
    }
}
