//! How the demo looks: a label per step, facts under it, and how long it took at the end of its last line.
//!
//! Colour codes are always written; `anstream` takes them out where stdout is no terminal, or `NO_COLOR` is set.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

use super::error::DemoError;

/// Columns that labels take.
const LABEL: usize = 12;
/// The column up to which a step's last line is filled with dots. With the time it fits 100 columns.
const DOTS: usize = 88;

/// The longest tick of the clock of file times: a kernel's tick, 10 ms at `CONFIG_HZ=100`.
const TICK: Duration = Duration::from_millis(10);

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// The terminal, or the file that stdout is.
#[derive(Debug)]
pub(super) struct Screen {
    out: std::io::Stdout,
    began: Instant,
    step_began: Instant,
    step: String,
}

impl Screen {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { out: std::io::stdout(), began: now, step_began: now, step: String::new() }
    }

    /// The step that runs, for errors.
    pub(super) fn step(&self) -> &str {
        &self.step
    }

    /// How long the demo has run.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Begins a step: its label, and what it is about.
    pub(super) fn begin(&mut self, label: &str, text: &str) -> Result<(), DemoError> {
        label.clone_into(&mut self.step);
        self.step_began = Instant::now();
        self.write(&format!("{BOLD}{label:<LABEL$}{BOLD:#}{text}\n"))
    }

    /// A command as it is typed.
    pub(super) fn command(&self, line: &str) -> Result<(), DemoError> {
        self.fact(&format!("{BOLD}$ {line}{BOLD:#}"))
    }

    /// What a command says while it runs.
    pub(super) fn talk(&self, line: &str) -> Result<(), DemoError> {
        self.fact(&format!("{DIM}│ {}{DIM:#}", clean(line)))
    }

    /// A line of the step.
    pub(super) fn fact(&self, text: &str) -> Result<(), DemoError> {
        self.write(&format!("{:LABEL$}{text}\n", ""))
    }

    /// The step's last line, with the step's time.
    pub(super) fn end(&self, text: &str) -> Result<(), DemoError> {
        let width = anstream::adapter::strip_str(text).to_string().chars().count() + LABEL;
        let dots = ".".repeat(DOTS.saturating_sub(width + 2).max(3));
        let took = seconds(self.step_began.elapsed());
        self.write(&format!("{:LABEL$}{text} {DIM}{dots} {took}{DIM:#}\n", ""))
    }

    /// A line outside of any step.
    pub(super) fn plain(&self, text: &str) -> Result<(), DemoError> {
        self.write(&format!("{text}\n"))
    }

    fn write(&self, text: &str) -> Result<(), DemoError> {
        let mut out = anstream::AutoStream::auto(self.out.lock());
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(DemoError::Print)
    }
}

/// Output of hooks and commands may not steer the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).collect()
}

/// `n1 ✓`.
pub(super) fn succeeded(name: &str) -> String {
    format!("{name} {GOOD}✓{GOOD:#}")
}

/// `n3 ✗`.
pub(super) fn failed(name: &str) -> String {
    format!("{name} {BAD}✗{BAD:#}")
}

/// `n2 –`: the node did not get that far.
pub(super) fn not_reached(name: &str) -> String {
    format!("{name} {DIM}–{DIM:#}")
}

/// `1.5 s`, `212 ms`.
pub(super) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// A span between two file times, which are exact to one [`TICK`].
pub(super) fn coarse(span: Duration) -> String {
    if span < TICK { format!("under {} ms", TICK.as_millis()) } else { seconds(span) }
}
