//! `cutover check-config`: the agent's own checks, without an agent.

use crate::cli::args::CheckConfig;
use crate::cli::exit::{CliError, ExitCode};
use crate::cli::output::{self, Format};
use crate::config::Settings;

/// Reads the config as the agent does, and prints what it came to.
///
/// # Errors
///
/// Exit code 1 with file, line, key, and what is wrong with it.
pub async fn run(format: Format, args: &CheckConfig) -> Result<ExitCode, CliError> {
    let path = args.config.clone();
    let loaded = tokio::task::spawn_blocking(move || Settings::load(&path, |name| std::env::var(name).ok()))
        .await
        .map_err(|error| CliError::new(ExitCode::Failed, "the config could not be read").caused_by(error))?;
    let settings = loaded.map_err(|error| {
        CliError::new(ExitCode::Failed, "the agent would not start with this config").caused_by(error)
    })?;
    output::result(&match format {
        Format::Json => output::json(&settings)?,
        Format::Text => {
            let units: Vec<String> = settings.units.keys().map(ToString::to_string).collect();
            let units = if units.is_empty() { "none: API and page alone".to_owned() } else { units.join(", ") };
            format!("ok  {}\nunits  {units}\n", args.config.display())
        }
    })?;
    Ok(ExitCode::Done)
}
