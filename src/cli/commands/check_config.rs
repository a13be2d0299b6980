//! `cutover check-config`: the agent's own checks, without an agent.

use crate::api;
use crate::cli::args::CheckConfig;
use crate::cli::context;
use crate::cli::output::{self, Format};
use crate::control::{Code, Failure};

/// What is said of a config that cannot be used.
const REFUSED: &str = "the agent would not start with this config";

/// Reads the config and the agent's own certificate as the agent does, and prints what it came to.
///
/// # Errors
///
/// Exit code 1 with file, line, key, and what is wrong with it; for the certificate, with key and file.
pub async fn run(format: Format, args: &CheckConfig) -> Result<Code, Failure> {
    let settings = context::config(args.config.clone(), Code::Failed, REFUSED).await?;
    api::read_tls(&settings.api).map_err(|error| Failure::new(Code::Failed, REFUSED).caused_by(error))?;
    output::result(&match format {
        Format::Json => output::json(&settings)?,
        Format::Text => {
            let units: Vec<String> = settings.units.keys().map(ToString::to_string).collect();
            let units = if units.is_empty() { "none: API and page alone".to_owned() } else { units.join(", ") };
            format!("ok  {}\nunits  {units}\n", args.config.display())
        }
    })?;
    Ok(Code::Done)
}
