//! `cutover build prune`: removes old builds that no group needs.

use crate::cli::args::Prune;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::{store, view};
use crate::control::{Code, Failure, retention};

/// Removes old builds, or prints which it would remove. Returns 1 if a build could not be removed.
pub(super) async fn run(context: &Context, args: &Prune) -> Result<Code, Failure> {
    let access = &context.access;
    let pruned = if args.dry_run {
        retention::would_prune(access, &args.app, args.keep).await?
    } else {
        let store = store::locate(&args.store).await?.patient().open().await?;
        store::say_ignored(&store);
        // Boxed, because the future of the AWS SDK is large.
        Box::pin(retention::prune(access, &store, &args.app, args.keep)).await?
    };
    output::result(&match context.format {
        Format::Json => output::json(&pruned)?,
        Format::Text => match view::pruned(&pruned) {
            text if text.is_empty() => "nothing to remove\n".to_owned(),
            text => text,
        },
    })?;
    Ok(if pruned.left.is_empty() { Code::Done } else { Code::Failed })
}
