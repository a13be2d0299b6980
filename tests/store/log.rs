//! Collects what a test's own thread logs.
//!
//! The subscriber is that of the whole process: with one for each test, `tracing` takes a message that another test logged first
//! for one that nobody wants.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Once;

use tracing_subscriber::EnvFilter;

thread_local! {
    /// None while nothing is collected.
    static WRITTEN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The messages of this program since [`Log::start`], on one thread.
pub(crate) struct Log(());

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.iter_mut().for_each(|it| it.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages by level, without level and module.
pub(crate) struct Messages {
    pub(crate) info_or_worse: Vec<String>,
    pub(crate) debug: Vec<String>,
}

impl Log {
    pub(crate) fn start() -> Self {
        static INIT: Once = Once::new();
        INIT.call_once(|| {
            let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("cutover=debug"));
            log.with_ansi(false).without_time().with_writer(|| Writer).init();
        });
        WRITTEN.set(Some(Vec::new()));
        Self(())
    }

    pub(crate) fn end(self) -> Messages {
        let text = String::from_utf8(WRITTEN.take().unwrap_or_default()).unwrap();
        let own = text.lines().filter_map(|line| line.trim_start().split_once(" cutover::"));
        let own = own.filter_map(|(level, rest)| Some((level.to_owned(), rest.split_once(": ")?.1.to_owned())));
        let (debug, others): (Vec<_>, Vec<_>) = own.partition(|(level, _)| level == "DEBUG");
        let messages = |lines: Vec<(String, String)>| lines.into_iter().map(|(_, message)| message).collect();
        Messages { info_or_worse: messages(others), debug: messages(debug) }
    }
}
