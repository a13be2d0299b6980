//! `--dry-run`: asks every node what a deploy or rollback would do there.

use super::context::Context;
use super::output::{self, Format};
use super::view;
use crate::control::ask::LIMIT;
use crate::control::{Code, Failure, dry_run};
use crate::protocol::ids::Unit;
use crate::protocol::record::Request;

/// Prints what `request` would do, and returns the exit code that tells whether it would be carried out.
///
/// # Errors
///
/// As [`dry_run::dry_run`].
pub(super) async fn run(context: &Context, unit: &Unit, request: &Request) -> Result<Code, Failure> {
    output::say(&format!("{unit}  asking every node; nothing is changed"));
    let (document, code) = dry_run::dry_run(&context.access, unit, request, &request.author, LIMIT).await?;
    output::result(&match context.format {
        Format::Text => view::dry_run(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(code)
}
