//! What every command that asks Consul needs: the store, the names of keys, and how to print.

use std::path::PathBuf;

use super::args::Global;
use super::output::{self, Format};
use crate::config;
use crate::consul::{Client, Secret, Settings};
use crate::control::{Access, Code, Failure};
use crate::protocol::keys::Keys;

/// A command's surroundings.
#[derive(Clone, Debug)]
pub struct Context {
    /// Consul with the rights of the token that the flags and the environment give.
    pub access: Access,
    /// How results are printed.
    pub format: Format,
}

impl Context {
    /// From the flags, and for what they do not say from the environment. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// Exit code 2 for settings that cannot be used.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let client = Client::new(&settings(global, |name| std::env::var(name).ok())?)?;
        let access = Access::new(client, Keys::new(&global.prefix), |line| output::say(&output::clean(line)));
        Ok(Self { access, format: global.output })
    }
}

/// Flags stand above the environment, as they do for the `consul` command.///
/// # Errors
///
/// Exit code 2 for settings that cannot be used.
pub fn settings(global: &Global, env: impl Fn(&str) -> Option<String>) -> Result<Settings, Failure> {
    let global = global.clone();
    // Laid over the variables, and not over the settings made of them: a pair may come half from each.
    let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
    let over = |name: &str| match name {
        "CONSUL_HTTP_ADDR" => global.http_addr.clone(),
        "CONSUL_CACERT" => text(&global.ca_file),
        "CONSUL_CLIENT_CERT" => text(&global.client_cert),
        "CONSUL_CLIENT_KEY" => text(&global.client_key),
        "CONSUL_TLS_SERVER_NAME" => global.tls_server_name.clone(),
        _ => None,
    };
    let found = Settings::from_env(|name| over(name).or_else(|| env(name)));
    let mut settings = found.map_err(|error| Failure::from(crate::consul::Error::from(error)))?;
    if global.token.is_some() || global.token_file.is_some() {
        // A token that was typed stands above a file that the environment names.
        settings.token = global.token.map(Secret::new);
        settings.token_file = global.token_file;
    }
    settings.datacenter = global.datacenter;
    Ok(settings)
}

/// Reads the agent's config, as every command that needs it does; `code` and `what` say what it means when it cannot.
///
/// # Errors
///
/// [`Failure`] with `code`, `what`, and file, line, key, and what is wrong with it.
pub async fn config(path: PathBuf, code: Code, what: &str) -> Result<config::Settings, Failure> {
    tokio::task::spawn_blocking(move || config::Settings::load(&path, |name| std::env::var(name).ok()))
        .await
        .map_err(|error| Failure::new(Code::Failed, "the config could not be read").caused_by(error))?
        .map_err(|error| Failure::new(code, what).caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_token_stands_above_the_environments_file() {
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
}
