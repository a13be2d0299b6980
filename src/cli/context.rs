//! The surroundings of a command: access to Consul, the names of keys, and the output format.

use std::path::PathBuf;

use super::args::Global;
use super::output::{self, Format};
use crate::config;
use crate::consul::{Client, Secret, Settings};
use crate::control::{Access, Code, Failure};
use crate::protocol::keys::Keys;

/// What a command needs besides its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Consul, with the token from the flags or the environment.
    pub(crate) access: Access,
    pub(crate) format: Format,
}

impl Context {
    /// Reads the flags, and the environment where a flag is missing. Opens no connection.
    ///
    /// # Errors
    ///
    /// Exit code 2 for settings that cannot be used.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let client = Client::new(&settings(global, |name| std::env::var(name).ok())?)?;
        let access = Access::new(client, Keys::new(&global.prefix), |line| output::say(&output::clean(line)));
        Ok(Self { access, format: global.output })
    }
}

/// Reads Consul's settings. Flags take precedence over the environment, as for the `consul` command.
///
/// # Errors
///
/// Exit code 2 for settings that cannot be used.
pub(crate) fn settings(global: &Global, env: impl Fn(&str) -> Option<String>) -> Result<Settings, Failure> {
    let global = global.clone();
    // Flags replace single variables, before these become settings: a certificate may come from a flag and its key
    // from the environment.
    let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
    let over = |name: &str| match name {
        "CONSUL_HTTP_ADDR" => global.http_addr.clone(),
        "CONSUL_CACERT" => text(&global.ca_file),
        "CONSUL_CAPATH" => text(&global.ca_path),
        "CONSUL_CLIENT_CERT" => text(&global.client_cert),
        "CONSUL_CLIENT_KEY" => text(&global.client_key),
        "CONSUL_TLS_SERVER_NAME" => global.tls_server_name.clone(),
        "CONSUL_NAMESPACE" => global.namespace.clone(),
        "CONSUL_PARTITION" => global.partition.clone(),
        _ => None,
    };
    // A CA file excludes a CA directory. A directory given as a flag must not lose to a file in the environment.
    let is_replaced = |name: &str| name == "CONSUL_CACERT" && global.ca_path.is_some();
    let found = Settings::from_env(|name| over(name).or_else(|| env(name).filter(|_| !is_replaced(name))));
    let mut settings = found.map_err(|error| Failure::from(crate::consul::Error::from(error)))?;
    if global.token.is_some() || global.token_file.is_some() {
        // A token flag takes precedence over a token file that the environment names.
        settings.token = global.token.map(Secret::new);
        settings.token_file = global.token_file;
    }
    settings.datacenter = global.datacenter;
    Ok(settings)
}

/// Reads the agent's config. `code` and `what` become the failure when the config cannot be read.
///
/// # Errors
///
/// [`Failure`] with `code` and `what`, caused by an error that names file, line and key.
pub(crate) async fn config(path: PathBuf, code: Code, what: &str) -> Result<config::Settings, Failure> {
    tokio::task::spawn_blocking(move || config::Settings::load(&path, |name| std::env::var(name).ok()))
        .await
        .map_err(|error| Failure::new(Code::Failed, "the config could not be read").caused_by(error))?
        .map_err(|error| Failure::new(code, what).caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_flag_takes_precedence_over_a_token_file_in_the_environment() {
        let global = Global { token: Some("t".to_owned()), ..Global::default() };
        let env = |name: &str| (name == "CONSUL_HTTP_TOKEN_FILE").then(|| "/run/token".to_owned());
        let found = settings(&global, env).unwrap();
        assert_eq!((found.token.map(|t| t.expose().to_owned()), found.token_file), (Some("t".to_owned()), None));
    }

    #[test]
    fn a_certificate_may_come_from_a_flag_and_its_key_from_the_environment() {
        let global = Global { client_cert: Some("/c.pem".into()), ..Global::default() };
        let env = |name: &str| (name == "CONSUL_CLIENT_KEY").then(|| "/k.pem".to_owned());
        assert!(settings(&global, env).is_ok());
        assert_eq!(settings(&global, |_| None).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn every_flag_takes_precedence_over_its_variable() {
        let global = Global {
            http_addr: Some("flag:8500".to_owned()),
            ca_file: Some("/flag/ca.pem".into()),
            ca_path: Some("/flag/ca".into()),
            client_cert: Some("/flag/c.pem".into()),
            client_key: Some("/flag/k.pem".into()),
            tls_server_name: Some("flag.example.com".to_owned()),
            namespace: Some("flag-ns".to_owned()),
            partition: Some("flag-part".to_owned()),
            ..Global::default()
        };
        let is_text = |name: &str| !name.starts_with("CONSUL_HTTP_SSL") && name != "CONSUL_HTTP_AUTH";
        let env = |name: &str| match name {
            "CONSUL_HTTP_ADDR" => Some("variable:8500".to_owned()),
            name => is_text(name).then(|| format!("/variable/{name}")),
        };
        let found = settings(&global, env).unwrap();
        assert_eq!((found.address.as_str(), found.tls.server_name.as_deref()), ("flag:8500", Some("flag.example.com")));
        assert_eq!((found.namespace.as_deref(), found.partition.as_deref()), (Some("flag-ns"), Some("flag-part")));
        let paths = [found.tls.ca_file, found.tls.ca_dir, found.tls.client_cert, found.tls.client_key];
        let expected = ["/flag/ca.pem", "/flag/ca", "/flag/c.pem", "/flag/k.pem"];
        assert_eq!(paths, expected.map(|path| Some(PathBuf::from(path))));
        // A CA file excludes a CA directory, unless the directory was given as a flag.
        let typed = Global { ca_path: Some("/flag/ca".into()), ..Global::default() };
        assert_eq!(settings(&typed, env).unwrap().tls.ca_file, None);
        // Without flags, every variable is used.
        let found = settings(&Global::default(), env).unwrap();
        let named = [found.namespace, found.partition, found.tls.ca_dir.map(|path| path.display().to_string())];
        let expected = ["CONSUL_NAMESPACE", "CONSUL_PARTITION", "CONSUL_CAPATH"];
        assert_eq!(named, expected.map(|name| Some(format!("/variable/{name}"))));
    }
}
