//! Logging: to journald under systemd, else to stderr as text or JSON.
//!
//! `RUST_LOG` sets the level (default `info`), `CUTOVER_LOG` the format, `text` or `json`; commands other than the agent log
//! only if it is set. Each message is a complete sentence. Fields are for queries: `unit`, `epoch`, `artifact`, `node` are named
//! as in records and status; `deploy` is the deploy's id.

use std::error::Error;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging for a command other than the agent if `CUTOVER_LOG` is set. Its messages for users go to stderr directly.
pub(crate) fn init_if_asked() {
    if std::env::var_os("CUTOVER_LOG").is_some() {
        init();
    }
}

/// Starts logging. Called once.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    if is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal.with_syslog_identifier("cutover".to_owned())).init();
        return;
    }
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    if std::env::var("CUTOVER_LOG").is_ok_and(|form| form == "json") {
        registry.with(text.json()).init();
    } else {
        // Colour codes only on a terminal: a file or pipe would keep them.
        let with_colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        registry.with(text.with_ansi(with_colour)).init();
    }
}

/// An error with all its causes in one line: `what failed: cause: cause`. For logs, answers, and the command line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        // Some libraries repeat their source in their own message.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = error.source();
    }
    line
}

/// Whether stderr is the journal. systemd sets `$JOURNAL_STREAM` to its device and inode (`systemd.exec(5)`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}
