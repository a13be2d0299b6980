//! What a long run has found so far, so that it can be taken up again: one line of JSON per cell, in `target/`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use crate::cell::Report;

/// Where the lines are.
pub(crate) fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults.jsonl")
}

/// Forgets all that was found.
pub(crate) fn clear() {
    // There may be none.
    _ = std::fs::remove_file(path());
}

/// Adds a cell's report.
pub(crate) fn add(report: &Report) {
    let mut file = OpenOptions::new().create(true).append(true).open(path()).unwrap();
    writeln!(file, "{}", serde_json::to_string(report).unwrap()).unwrap();
}

/// What was found, oldest first. A line that a killed run has not finished is none.
pub(crate) fn read() -> Vec<Report> {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
