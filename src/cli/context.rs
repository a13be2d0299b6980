//! What every command that asks Consul needs: the store, the names of keys, and how to print.

use std::path::PathBuf;

use super::args::Global;
use super::exit::{CliError, ExitCode};
use super::kv::Kv;
use super::output::Format;
use crate::config;
use crate::consul::{Client, Secret, Settings};
use crate::document::units_in;
use crate::protocol::ids::Unit;
use crate::protocol::keys::Keys;

/// A command's surroundings.
#[derive(Clone, Debug)]
pub struct Context {
    /// Consul's KV store.
    pub kv: Kv,
    /// The names of keys.
    pub keys: Keys,
    /// How results are printed.
    pub format: Format,
}

impl Context {
    /// From the flags, and for what they do not say from the environment. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// Exit code 2 for settings that cannot be used.
    pub fn new(global: &Global) -> Result<Self, CliError> {
        let client = Client::new(&settings(global, |name| std::env::var(name).ok())?)?;
        Ok(Self { kv: Kv::new(client), keys: Keys::new(&global.prefix), format: global.output })
    }

    /// Every unit that has keys.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    pub async fn units(&self) -> Result<Vec<Unit>, CliError> {
        let names = self.kv.names(self.keys.prefix()).await?;
        Ok(units_in(self.keys.prefix(), names.iter().map(String::as_str)))
    }

    /// The error for a unit without keys, with what there is instead.
    pub async fn unknown(&self, unit: &Unit) -> CliError {
        let error = CliError::new(ExitCode::NotFound, format!("{unit} is not known under {}", self.keys.prefix()));
        match self.units().await {
            Ok(units) if units.is_empty() => {
                error.hint("no unit is: units appear when their first agent with coordinate = true starts")
            }
            Ok(units) => {
                let names: Vec<String> = units.iter().take(20).map(ToString::to_string).collect();
                error.hint(format!("known are {}; a unit appears when its first agent starts", names.join(", ")))
            }
            Err(unreadable) => unreadable,
        }
    }
}

/// Flags stand above the environment, as they do for the `consul` command.///
/// # Errors
///
/// Exit code 2 for settings that cannot be used.
pub fn settings(global: &Global, env: impl Fn(&str) -> Option<String>) -> Result<Settings, CliError> {
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
    let mut settings = found.map_err(|error| CliError::from(crate::consul::Error::from(error)))?;
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
/// [`CliError`] with `code`, `what`, and file, line, key, and what is wrong with it.
pub async fn config(path: PathBuf, code: ExitCode, what: &str) -> Result<config::Settings, CliError> {
    tokio::task::spawn_blocking(move || config::Settings::load(&path, |name| std::env::var(name).ok()))
        .await
        .map_err(|error| CliError::new(ExitCode::Failed, "the config could not be read").caused_by(error))?
        .map_err(|error| CliError::new(code, what).caused_by(error))
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
        assert_eq!(settings(&global, |_| None).unwrap_err().code, ExitCode::Usage);
    }
}
