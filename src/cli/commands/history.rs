//! `cutover history`.

use crate::cli::args::HistoryArgs;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::store;
use crate::cli::view;
use crate::control::{Code, Failure, archive, read};
use crate::document::Selection;

/// Prints the newest entries of a group's history. Reads the archive if Consul has fewer entries than requested.
///
/// Without a configured store it prints what Consul has, and a message about the rest.
///
/// # Errors
///
/// Exit code 3 for a group without keys; the error of the store, if one was given and cannot be read.
pub(crate) async fn run(context: &Context, args: &HistoryArgs) -> Result<Code, Failure> {
    let mut past = read::past(&context.access, &args.unit).await?;
    let all = Selection::default();
    if past.next_segment(&all, args.limit).is_some() {
        match store::locate(&args.store).await {
            Ok(location) => archive::fill(&mut past, &location.open().await?, &all, args.limit, usize::MAX).await?,
            Err(failure) if args.store.store.is_none() && args.store.config.is_none() => {
                output::say("older records are in the artifact store and are not shown");
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
