//! `cutover demo`, and the app that it deploys.

use crate::cli::args::{Demo, DemoApp, DemoAppAction, DemoStore};
use crate::control::{Code, Failure};
use crate::demo::{self, Afterwards, DemoError, Options, StoreKind, app};

/// Shows a whole small fleet on this machine.
///
/// # Errors
///
/// Exit code 1 where anything does not come out as the demo claims, and when it is stopped before the end.
pub async fn run(args: &Demo) -> Result<Code, Failure> {
    let store = match args.store {
        DemoStore::Dir => StoreKind::Directory,
        DemoStore::S3 => StoreKind::S3,
    };
    let afterwards = if args.keep { Afterwards::Keep } else { Afterwards::End };
    match demo::run(&Options { nodes: args.nodes.into(), store, afterwards }).await {
        Ok(()) => Ok(Code::Done),
        Err(DemoError::Interrupted) => Err(Failure::new(Code::Failed, "the demo was stopped before its end")),
        Err(error) => Err(Failure::new(Code::Failed, "the demo failed").caused_by(error)),
    }
}

/// The demo's app and its check.
///
/// # Errors
///
/// Exit code 1 where it cannot serve, or is not well.
pub async fn app(args: &DemoApp) -> Result<Code, Failure> {
    let ended = match &args.action {
        DemoAppAction::Serve { listen, root } => app::serve(*listen, root).await,
        DemoAppAction::Check { url, release } => app::check(url, release).await,
    };
    ended.map(|()| Code::Done).map_err(|error| Failure::new(Code::Failed, error.to_string()))
}
