//! The demo: a small fleet on this machine, its deploys, and what became of each.
//!
//! ```text
//!  steps ───► commands ──► cutover publish | deploy | rollback | …, consul kv put     as any user types them
//!     │
//!     └────► fleet ──► Consul agents, cutover agents, one app per node     each a process, all in one directory
//! ```
//!
//! The steps know only what users can know: documents that commands print, HTTP answers, and file times on the nodes'
//! disks. Nothing here reaches into an agent, and the demo prints only what it has read.

pub mod app;
mod builds;
mod commands;
mod consul_binary;
mod documents;
mod error;
mod evidence;
mod fleet;
mod http;
mod print;
mod startup;
mod steps;
mod store;

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use error::DemoError;

use fleet::Fleet;
use print::Screen;
use steps::Steps;

/// The name under which the demo's program is Cutover itself.
pub const CUTOVER: &str = "cutover";

/// How many lines of each agent's log the demo prints when it fails: the causes and what led to them.
const SHOWN_LOG_LINES: usize = 12;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes, at least 1.
    pub nodes: usize,
    /// Where to store archives.
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
    /// The demo stops and removes everything.
    End,
    /// The demo waits for Ctrl-C, and then stops and removes everything.
    Keep,
}

/// Runs every step, and leaves nothing behind: no process and no directory, also after a failure, Ctrl-C or SIGTERM.
///
/// # Errors
///
/// [`DemoError::Claim`] where a step did not do what the demo claims, [`DemoError::Interrupted`] after a signal before
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
    let mut ended = tokio::select! {
        () = stop.asked() => Err(DemoError::Interrupted),
        ended = run_steps(options, dir.path(), &mut fleet, &mut screen) => ended,
    };
    if let (Ok(()), Afterwards::Keep, Some(fleet)) = (&ended, options.afterwards, fleet.as_ref()) {
        // Not within the select: Ctrl-C after the first line of the invitation is the expected end.
        ended = startup::print_invitation(fleet, &screen).await;
        if ended.is_ok() {
            stop.asked().await;
        }
    }
    let printed = print_logs(&ended, fleet.as_ref(), &screen);
    let ended = ended.and(printed);
    if let Some(fleet) = fleet.take() {
        fleet.stop().await;
    }
    let path = dir.path().to_owned();
    let removed = dir.close().map_err(|source| DemoError::file("remove", &path, source));
    ended.and(removed)?;
    screen.plain("everything is stopped and removed")
}

async fn run_steps(
    options: &Options,
    dir: &Path,
    place: &mut Option<Fleet>,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    let fleet = startup::start(options, dir, place, screen).await?;
    Steps::new(fleet, screen).run().await
}

/// Prints the end of each agent's log after a failure: the logs themselves are removed with the directory.
fn print_logs(ended: &Result<(), DemoError>, fleet: Option<&Fleet>, screen: &Screen) -> Result<(), DemoError> {
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
