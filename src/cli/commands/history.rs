//! `cutover history`.

use crate::cli::args::HistoryArgs;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::store;
use crate::cli::view;
use crate::control::{Code, Failure, archive, read};
use crate::document::Selection;

/// Prints the newest of a unit's past; where Consul has not as much as was asked for, the archive's part of it too.
///
/// Without a store to read, what Consul has is printed, and where the rest is said.
///
/// # Errors
///
/// Exit code 3 for a unit that has no keys; what a store that was named cannot give.
pub async fn run(context: &Context, args: &HistoryArgs) -> Result<Code, Failure> {
    let mut past = read::past(&context.access, &args.unit).await?;
    let all = Selection::default();
    if past.lacks(&all, args.limit).is_some() {
        match store::locate(&args.store).await {
            Ok(location) => archive::fill(&mut past, &location.open().await?, (&all, args.limit), usize::MAX).await?,
            Err(failure) if args.store.store.is_none() && args.store.config.is_none() => {
                output::say("older records lie in the artifact store, and are not shown");
                output::say(&output::clean(&failure.hint.unwrap_or(failure.what)));
            }
            Err(failure) => return Err(failure),
        }
    }
    let document = past.document(&args.unit, &all, args.limit);
    output::result(&match context.format {
        Format::Text => view::history(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(Code::Done)
}
