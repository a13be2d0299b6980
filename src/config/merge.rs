//! Merges fragments, and remembers the file and line of each key for errors.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::ConfigError;
use super::fragment::Fragment;
use super::values::InvalidValue;

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    pub(crate) file: PathBuf,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// All fragments that were added, merged into one.
#[derive(Debug, Default)]
pub(super) struct Merged {
    table: Table,
    /// Where each key was last set. The empty key means the first file as a whole.
    origins: BTreeMap<Vec<String>, FilePosition>,
}

impl Merged {
    /// Checks the fragment `text` of `file` by itself, then merges it over the previous ones.
    pub(super) fn add(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let syntax = |e: &toml::de::Error| ConfigError::Syntax {
            position: position(file, text, e.span()),
            problem: one_line(e.message()),
        };
        let parsed = DeTable::parse(text).map_err(|e| syntax(&e))?;
        let reader = toml::Deserializer::parse(text).map_err(|e| syntax(&e))?;
        let _: Fragment = serde_path_to_error::deserialize(reader).map_err(|e| {
            let key: Vec<String> = e.path().iter().map(segment).collect();
            let inner = e.inner();
            value_error(position(file, text, inner.span()), &key, one_line(inner.message()))
        })?;
        self.origins.entry(Vec::new()).or_insert_with(|| position(file, text, None));
        self.note_origins(file, text, &mut Vec::new(), parsed.get_ref());
        overlay(&mut self.table, text.parse().map_err(|e| syntax(&e))?);
        Ok(())
    }

    pub(super) fn fragment(&self) -> Result<Fragment, ConfigError> {
        // Merging only replaces values by other valid values of the same key, so this should never fail.
        serde_path_to_error::deserialize(self.table.clone()).map_err(|e| {
            let key: Vec<String> = e.path().iter().map(segment).collect();
            let problem = one_line(e.inner().message());
            self.error(&key, problem)
        })
    }

    /// An error about the value of `key`, with the file and line of the key, or of the nearest table around it.
    pub(super) fn error<S: AsRef<str>>(&self, key: &[S], problem: String) -> ConfigError {
        let key: Vec<String> = key.iter().map(|segment| segment.as_ref().to_owned()).collect();
        let nearest = (0..=key.len()).rev().find_map(|n| self.origins.get(key.get(..n)?));
        let position = nearest.cloned().unwrap_or_else(|| FilePosition { file: PathBuf::new(), line: 1 });
        value_error(position, &key, problem)
    }

    fn note_origins(&mut self, file: &Path, text: &str, at: &mut Vec<String>, table: &DeTable<'_>) {
        for (key, value) in table {
            at.push(key.get_ref().to_string());
            self.origins.insert(at.clone(), position(file, text, Some(key.span())));
            if let DeValue::Table(inner) = value.get_ref() {
                self.note_origins(file, text, at, inner);
            }
            at.pop();
        }
    }
}

/// Applies a check to an optional value, and adds file and key to its error.
pub(super) fn checked<T>(
    merged: &Merged,
    key: &[&str],
    value: Option<&str>,
    check: impl Fn(&str) -> Result<T, InvalidValue>,
) -> Result<Option<T>, ConfigError> {
    value.map(|value| check(value).map_err(|problem| merged.error(key, problem.to_string()))).transpose()
}

/// Merges tables key by key. All other values, including lists, are replaced.
fn overlay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => overlay(old, new),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn value_error(position: FilePosition, key: &[String], problem: String) -> ConfigError {
    ConfigError::Value { position, key: dotted(key), problem }
}

fn position(file: &Path, text: &str, span: Option<Range<usize>>) -> FilePosition {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or("");
    FilePosition { file: file.to_owned(), line: before.matches('\n').count() + 1 }
}

fn segment(segment: &Segment) -> String {
    match segment {
        Segment::Seq { index } => format!("[{index}]"),
        Segment::Map { key } => key.clone(),
        Segment::Enum { variant } => variant.clone(),
        Segment::Unknown => "?".to_owned(),
    }
}

/// A key in TOML notation, with `[n]` for the index in a list.
fn dotted(key: &[String]) -> String {
    let mut text = String::new();
    for part in key {
        let index = part.starts_with('[') && part.ends_with(']');
        if !text.is_empty() && !index {
            text.push('.');
        }
        let bare = !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if bare || index {
            text.push_str(part);
        } else {
            text.extend(['"'].into_iter().chain(part.escape_debug()).chain(['"']));
        }
    }
    if text.is_empty() { "the file".to_owned() } else { text }
}

/// Joins the lines of a message: an error is shown on one line.
fn one_line(message: &str) -> String {
    message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
