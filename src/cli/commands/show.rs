//! `cutover build show`.

use crate::cli::args::BuildShow;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::store;
use crate::cli::view;
use crate::control::{Code, Failure, ships};

/// Prints one build, and what it changes compared with an earlier one.
///
/// Without a configured store it prints what Consul has, and says that the files are not listed.
///
/// # Errors
///
/// Exit code 3 if one of the two builds is not recorded; 2 if the given store or config is invalid.
pub(super) async fn run(context: &Context, args: &BuildShow) -> Result<Code, Failure> {
    let store = match store::locate(&args.store).await {
        Ok(location) => Some(location.open().await?),
        Err(_) if args.store.store.is_none() && args.store.config.is_none() => None,
        Err(failure) => return Err(failure),
    };
    let shown = ships::show(&context.access, store.as_ref(), &args.app, &args.artifact, args.against.as_ref());
    let document = Box::pin(shown).await?;
    output::result(&match context.format {
        Format::Text => view::build(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(Code::Done)
}
