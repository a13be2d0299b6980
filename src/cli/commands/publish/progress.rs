//! Work that takes long: on its own thread, with a progress bar on a terminal.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::artifact::store::Store;
use crate::cli::output::{self, clean};
use crate::control::{Code, Failure};

/// How often the progress bar is redrawn: smooth to the eye, and cheap compared with the work.
const REDRAW: Duration = Duration::from_millis(100);

/// What is said while the store asks for fewer requests.
const BUSY: &str = "the store asks to slow down; waiting for up to a minute";

/// How far the work is.
pub(super) struct Progress {
    pub(super) label: String,
    pub(super) done_bytes: u64,
    /// None if it is not known.
    pub(super) total_bytes: Option<u64>,
    /// What it waits for, if it waits.
    pub(super) waits: Option<&'static str>,
}

impl Progress {
    pub(super) fn new(label: &str, done_bytes: &AtomicU64, total_bytes: Option<u64>) -> Self {
        Self { label: label.to_owned(), done_bytes: done_bytes.load(Ordering::Relaxed), total_bytes, waits: None }
    }

    /// Whether the store makes it wait.
    pub(super) fn at(self, store: &Store) -> Self {
        Self { waits: store.is_busy().then_some(BUSY), ..self }
    }
}

/// Runs blocking work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| Failure::new(Code::Failed, format!("{what} failed")).caused_by(error))?
}

/// Runs `work` with a progress bar on a terminal; elsewhere prints the first label, and what it waits for.
pub(super) async fn shown<T>(progress: impl Fn() -> Progress, work: impl Future<Output = T>) -> T {
    let mut redraw = tokio::time::interval(REDRAW);
    tokio::pin!(work);
    if !output::talks_to_terminal() {
        say(&progress().label);
        let mut said = None;
        loop {
            tokio::select! {
                ended = &mut work => return ended,
                _ = redraw.tick() => {
                    let waits = progress().waits;
                    if let Some(what) = waits.filter(|_| said != waits) {
                        say(what);
                    }
                    said = waits;
                }
            }
        }
    }
    let bar = ProgressBar::new_spinner();
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            _ = redraw.tick() => draw(&bar, progress()),
        }
    };
    bar.finish_and_clear();
    ended
}

fn draw(bar: &ProgressBar, Progress { label, done_bytes, total_bytes, waits }: Progress) {
    let label = waits.map_or(label, ToOwned::to_owned);
    let template = match total_bytes {
        Some(_) => "{msg}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}",
        None => "{spinner} {msg}  {bytes}  {bytes_per_sec}",
    };
    if bar.length() != total_bytes || bar.message() != clean(&label) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        match total_bytes {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        bar.set_message(clean(&label));
    }
    bar.set_position(done_bytes);
}
