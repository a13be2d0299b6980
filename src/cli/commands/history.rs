//! `cutover history`.

use crate::cli::args::HistoryArgs;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::view;
use crate::control::{Code, Failure, read};

/// Prints the newest requests of a unit.
///
/// # Errors
///
/// Exit code 3 for a unit that has no keys.
pub async fn run(context: &Context, args: &HistoryArgs) -> Result<Code, Failure> {
    let document = read::history(&context.access, &args.unit, args.limit).await?;
    output::result(&match context.format {
        Format::Text => view::history(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(Code::Done)
}
