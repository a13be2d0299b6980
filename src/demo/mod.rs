//! A small fleet on this machine: what `cutover demo` shows, and what the tests run against. Real processes throughout.
//!
//! ```text
//!  script ──► commands ──► cutover publish | deploy | rollback | …, consul kv put     as any user types them
//!     │
//!     └────► fleet ──► Consul agents, cutover agents, one app per node     each a process, all in one directory
//! ```
//!
//! The script only knows what users can know: documents that commands print, HTTP answers, and file times on the
//! nodes' disks. Nothing here reaches into an agent, and nothing is shown that was not read.

pub mod app;
mod builds;
pub mod cluster;
mod commands;
mod error;
mod evidence;
mod fleet;
mod http;
mod print;
pub mod process;
#[cfg(feature = "s3-server")]
pub mod s3;
mod script;
mod stage;

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use error::DemoError;

use fleet::Fleet;
use print::Screen;
use script::Show;

/// How many lines of each agent's log are shown when the demo fails: a stack of causes and what led to it.
const SHOWN_LOG_LINES: usize = 12;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes, at least 1.
    pub nodes: usize,
    /// Where archives lie.
    pub store: StoreKind,
    /// What happens after the last step.
    pub afterwards: Afterwards,
}

/// What kind of artifact store the demo uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A directory, `dir://`.
    Directory,
    /// An S3 server in this process.
    S3,
}

/// What happens after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Everything is ended and removed.
    End,
    /// Everything is left running until Ctrl-C, and then ended and removed.
    Keep,
}

/// Shows the whole story, and leaves nothing behind: no process and no directory, also after a failure, Ctrl-C or
/// SIGTERM.
///
/// # Errors
///
/// [`DemoError::Claim`] where something did not come out as claimed, [`DemoError::Interrupted`] after a signal before
/// the last step, and what could not be started.
///
/// # Cancel safety
///
/// Dropped, it kills what it started instead of stopping it in order; a hook that runs at that moment may outlive it.
pub async fn run(options: &Options) -> Result<(), DemoError> {
    let mut stop = Stop::listen()?;
    let dir = tempfile::Builder::new()
        .prefix("cutover-demo-")
        .tempdir()
        .map_err(|source| DemoError::file("create a directory in", &std::env::temp_dir(), source))?;
    let mut fleet = None;
    let mut screen = Screen::new();
    let ended = tokio::select! {
        () = stop.asked() => Err(DemoError::Interrupted),
        ended = play(options, dir.path(), &mut fleet, &mut screen) => ended,
    };
    if ended.is_ok() && options.afterwards == Afterwards::Keep {
        stop.asked().await;
    }
    let told = tell_end(&ended, fleet.as_ref(), &mut screen);
    let ended = ended.and(told);
    if let Some(fleet) = fleet.take() {
        fleet.stop().await;
    }
    let path = dir.path().to_owned();
    let removed = dir.close().map_err(|source| DemoError::file("remove", &path, source));
    ended.and(removed)?;
    screen.plain("everything is stopped and removed")
}

async fn play(options: &Options, dir: &Path, place: &mut Option<Fleet>, screen: &mut Screen) -> Result<(), DemoError> {
    let fleet = stage::start(options, dir, place, screen).await?;
    Show::new(fleet, screen).play().await?;
    if options.afterwards == Afterwards::Keep {
        stage::invite(fleet, screen).await?;
    }
    Ok(())
}

/// What somebody needs who wants to know why; the logs are gone with the directory.
fn tell_end(ended: &Result<(), DemoError>, fleet: Option<&Fleet>, screen: &mut Screen) -> Result<(), DemoError> {
    match (ended, fleet) {
        (Ok(()) | Err(DemoError::Interrupted), _) | (Err(_), None) => Ok(()),
        (Err(_), Some(fleet)) => {
            for (name, tail) in fleet.log_tails(SHOWN_LOG_LINES) {
                screen.plain(&format!("\nthe log of the agent on {name} ends:\n{tail}"))?;
            }
            Ok(())
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self, DemoError> {
        let listen = |kind| signal(kind).map_err(DemoError::Signals);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
