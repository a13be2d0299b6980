//! `cutover history`.

use crate::cli::args::HistoryArgs;
use crate::cli::context::Context;
use crate::cli::exit::{CliError, ExitCode};
use crate::cli::output::{self, Format};
use crate::cli::view;
use crate::document::HistoryDocument;

/// Prints the newest requests of a unit.
///
/// # Errors
///
/// Exit code 3 for a unit that has no keys.
pub async fn run(context: &Context, args: &HistoryArgs) -> Result<ExitCode, CliError> {
    let keys = context.keys.unit(&args.unit);
    let entries = context.kv.entries(&keys.all_history()).await?;
    if entries.is_empty() && context.kv.entry(&keys.deploy()).await?.is_none() {
        return Err(context.unknown(&args.unit).await);
    }
    let document = HistoryDocument::build(&args.unit, &keys, &entries, args.limit);
    output::result(&match context.format {
        Format::Text => view::history(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(ExitCode::Done)
}
