//! `cutover agent`: the daemon.

use crate::agent;
use crate::cli::args::{AgentArgs, Global};
use crate::cli::context;
use crate::config::ConsulSection;
use crate::consul::Client;
use crate::control::{Code, Failure};
use crate::telemetry;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Exit code 2 for invalid settings, 1 if the agent cannot start or must stop.
pub(crate) async fn run(global: &Global, args: &AgentArgs) -> Result<Code, Failure> {
    telemetry::init();
    let settings = context::config(args.config.clone(), Code::Usage, "the agent cannot start with this config").await?;
    let global = overlaid(global.clone(), &settings.consul);
    let consul = Client::new(&context::settings(&global, |name| std::env::var(name).ok())?)?;
    agent::run(settings, consul)
        .await
        .map(|()| Code::Done)
        .map_err(|error| Failure::new(Code::Failed, "the agent stopped").caused_by(error))
}

/// Merges flags and config file. Flags take precedence over the file, and the file over the environment.
fn overlaid(mut global: Global, file: &ConsulSection) -> Global {
    global.http_addr = global.http_addr.or_else(|| file.address.clone());
    if global.token.is_none() && global.token_file.is_none() {
        global.token_file.clone_from(&file.token_file);
    }
    if global.ca_path.is_none() {
        global.ca_file = global.ca_file.or_else(|| file.ca_file.clone());
    }
    global.client_cert = global.client_cert.or_else(|| file.cert_file.clone());
    global.client_key = global.client_key.or_else(|| file.key_file.clone());
    global
}
