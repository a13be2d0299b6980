//! `cutover check-config`: the agent's checks of its config, without starting an agent.

use crate::api;
use crate::artifact::store::{StoreUrl, ignored_variables};
use crate::cli::args::CheckConfig;
use crate::cli::context;
use crate::cli::output::{self, Format, clean};
use crate::config::Settings;
use crate::control::{Code, Failure};

/// The error for an invalid config.
const REFUSED: &str = "the agent would not start with this config";

/// Reads the config and the agent's certificate as the agent does, and prints the settings.
///
/// # Errors
///
/// Exit code 1 with file, line and key of the mistake; for the certificate, with key and file.
pub(crate) async fn run(format: Format, args: &CheckConfig) -> Result<Code, Failure> {
    let settings = context::config(args.config.clone(), Code::Failed, REFUSED).await?;
    api::read_tls(&settings.api).map_err(|error| Failure::new(Code::Failed, REFUSED).caused_by(error))?;
    say_ignored(&settings).await;
    output::result(&match format {
        Format::Json => output::json(&settings)?,
        Format::Text => {
            let units: Vec<String> = settings.units.keys().map(ToString::to_string).collect();
            let units = if units.is_empty() { "none: only API and page".to_owned() } else { units.join(", ") };
            format!("ok  {}\ngroups  {units}\n", args.config.display())
        }
    })?;
    Ok(Code::Done)
}

/// Prints which variables of the AWS tools an agent with this environment would ignore or refuse. That may not be the
/// environment of the agent, so nothing fails.
async fn say_ignored(settings: &Settings) {
    let Some(Ok(StoreUrl::S3 { .. })) = settings.store.as_ref().map(|store| StoreUrl::parse(&store.url)) else {
        return;
    };
    let (word, notes) = match ignored_variables().await {
        Ok(notes) => ("note", notes),
        Err(error) => ("warning", vec![format!("with this environment, the store cannot be used: {error}")]),
    };
    for note in notes {
        output::say(&clean(&format!("{word}: {note}")));
    }
}
