//! Work that takes long: on its own thread, with a progress bar on a terminal.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::cli::output::{self, clean};
use crate::control::{Code, Failure};

/// How often the progress bar is redrawn: smooth to the eye, and cheap compared with the work.
const REDRAW: Duration = Duration::from_millis(100);

/// How far the work is.
pub(super) struct Progress {
    pub(super) label: String,
    pub(super) done_bytes: u64,
    /// None if it is not known.
    pub(super) total_bytes: Option<u64>,
}

impl Progress {
    pub(super) fn new(label: &str, done_bytes: &AtomicU64, total_bytes: Option<u64>) -> Self {
        Self { label: label.to_owned(), done_bytes: done_bytes.load(Ordering::Relaxed), total_bytes }
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

/// Runs `work` with a progress bar on a terminal; elsewhere prints the first label.
pub(super) async fn shown<T>(progress: impl Fn() -> Progress, work: impl Future<Output = T>) -> T {
    if !output::talks_to_terminal() {
        say(&progress().label);
        return work.await;
    }
    let bar = ProgressBar::new_spinner();
    let mut redraw = tokio::time::interval(REDRAW);
    tokio::pin!(work);
    let ended = loop {
        tokio::select! {
            ended = &mut work => break ended,
            _ = redraw.tick() => draw(&bar, progress()),
        }
    };
    bar.finish_and_clear();
    ended
}

fn draw(bar: &ProgressBar, Progress { label, done_bytes, total_bytes }: Progress) {
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
