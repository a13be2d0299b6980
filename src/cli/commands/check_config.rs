//! `cutover check-config`: the agent's own checks, without an agent.

use crate::cli::args::CheckConfig;
use crate::cli::context;
use crate::cli::output::{self, Format};
use crate::control::{Code, Failure};

/// Reads the config as the agent does, and prints what it came to.
///
/// # Errors
///
/// Exit code 1 with file, line, key, and what is wrong with it.
pub async fn run(format: Format, args: &CheckConfig) -> Result<Code, Failure> {
    let settings =
        context::config(args.config.clone(), Code::Failed, "the agent would not start with this config").await?;
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
