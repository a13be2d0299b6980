//! Output to stdout and stderr: results to stdout, messages to stderr.
//!
//! Tables have columns that `grep` and `awk` can read. Colour codes are always written; [`anstream`] removes them if the
//! stream is not a terminal, or `NO_COLOR` is set.
//!
//! Callers pass every text that comes from KV through [`clean`] or [`clean_lines`]; [`Table`] and [`json`] do that
//! themselves.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// The format of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Text,
    /// One JSON document; with `--follow` one per line.
    Json,
}

/// The colour of a word, by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    /// A heading or what matters most.
    Strong,
    Good,
    /// Needs attention.
    Warn,
    Bad,
}

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }

    #[must_use]
    pub(crate) fn paint(self, text: &str) -> String {
        if self == Self::Plain {
            return text.to_owned();
        }
        let style = self.style();
        format!("{style}{text}{style:#}")
    }
}

/// Whether a character can reorder, hide, or overwrite the text around it on a terminal.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Makes one line of foreign text safe to print: removes control and bidi characters, turns line ends and tabs into
/// blanks.
#[must_use]
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c }).filter(|c| !is_unsafe(*c)).collect()
}

/// Applies [`clean`] to each line of foreign text, and indents it with `indent`.
#[must_use]
pub(crate) fn clean_lines(text: &str, indent: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        out.push_str(indent);
        out.push_str(&clean(line));
        out.push('\n');
        out
    })
}

/// `document` as indented JSON. The characters that [`clean`] removes become `\u` escapes, so that the output is
/// lossless and safe on a terminal.
///
/// # Errors
///
/// [`io::Error`] if the document cannot be written as JSON; every document of Cutover can.
pub(crate) fn json(document: &impl Serialize) -> io::Result<String> {
    escape(&serde_json::to_string_pretty(document)?)
}

/// [`json`] in one line.
///
/// # Errors
///
/// As [`json`].
pub(crate) fn json_line(document: &impl Serialize) -> io::Result<String> {
    escape(&serde_json::to_string(document)?)
}

fn escape(json: &str) -> io::Result<String> {
    let mut out = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // The serializer has escaped the line ends inside strings. The remaining ones are layout.
        if c != '\n' && is_unsafe(c) {
            write!(out, "\\u{:04x}", u32::from(c)).map_err(io::Error::other)?;
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    Ok(out)
}

/// Writes a result to stdout.
///
/// # Errors
///
/// The error of the write, including a broken pipe.
pub(crate) fn result(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a message to stderr. A closed stderr must not stop the command, so errors are ignored.
pub(crate) fn say(line: &str) {
    let _ignored = writeln!(anstream::stderr().lock(), "{line}");
}

/// Writes a question to stderr, without a line end.
///
/// # Errors
///
/// The error of the write: a question that was not shown must not count as answered.
pub(crate) fn ask(question: &str) -> io::Result<()> {
    let mut err = anstream::stderr().lock();
    err.write_all(question.as_bytes())?;
    err.flush()
}

/// Whether stderr, where progress goes, is a terminal.
#[must_use]
pub(crate) fn talks_to_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether stdout, where results go, is a terminal.
#[must_use]
pub(crate) fn prints_to_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A table of columns, separated by two blanks, without borders.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    #[must_use]
    pub(crate) fn with_heading(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|name| ((*name).to_owned(), Tone::Strong)).collect()] }
    }

    /// Adds a row. Every cell is [`clean`]ed; an empty cell becomes `-`, so that `awk` can count columns.
    pub(crate) fn row<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        let cells = cells.into_iter().map(|(text, tone)| {
            let text = clean(&text);
            (if text.is_empty() { "-".to_owned() } else { text }, tone)
        });
        self.rows.push(cells.collect());
    }

    #[must_use]
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            for (at, ((text, tone), width)) in row.iter().zip(&widths).enumerate() {
                out.push_str(&tone.paint(text));
                if at + 1 < row.len() {
                    out.push_str(&" ".repeat(width + 2 - text.chars().count()));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// A span of time in whole seconds and up, or milliseconds below two seconds: `340ms`, `12s`, `3m 4s`.
#[must_use]
pub(crate) fn duration(millis: u64) -> String {
    match millis {
        0..2_000 => format!("{millis}ms"),
        2_000..60_000 => format!("{}s", millis / 1_000),
        60_000..3_600_000 => format!("{}m {}s", millis / 60_000, millis / 1_000 % 60),
        _ => format!("{}h {}m", millis / 3_600_000, millis / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_kv_cannot_control_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\u{202e}c\r\nd\u{9b}e"), "a[2Jbc  de");
        assert_eq!(clean_lines("one\u{7}\n\ttwo", "  "), "  one\n   two\n");
    }

    #[test]
    fn json_escapes_unsafe_characters_without_loss() {
        let printed = json(&serde_json::json!({"reason": "a\u{202e}b\u{9b}c\nd"})).unwrap();
        assert!(!printed.contains('\u{202e}') && !printed.contains('\u{9b}'));
        let back: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(back["reason"], "a\u{202e}b\u{9b}c\nd");
    }

    #[test]
    fn columns_are_aligned_and_empty_cells_are_visible() {
        let mut table = Table::with_heading(&["NODE", "STATE"]);
        table.row([("web-1".to_owned(), Tone::Plain), ("alive".to_owned(), Tone::Plain)]);
        table.row([("w".to_owned(), Tone::Plain), (String::new(), Tone::Plain)]);
        let plain = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(plain, "NODE   STATE\nweb-1  alive\nw      -\n");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([340, 12_400, 184_000, 7_260_000].map(duration), ["340ms", "12s", "3m 4s", "2h 1m"]);
    }
}
