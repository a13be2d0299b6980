//! The documents as text. Every text from KV goes through [`clean`], directly or in a table.

mod answers;
mod builds;
mod changes;
mod deploy;
mod history;
mod recover;
mod status;

use super::output::{Tone, clean};
use crate::document::{Problem, moment};

pub(crate) use answers::{doctor, dry_run, repair};
pub(crate) use builds::{builds, pruned};
pub(crate) use changes::{build, since};
pub(crate) use deploy::{deploy, fault_lines};
pub(crate) use history::history;
pub(crate) use recover::{followed, plan, recover};
pub(crate) use status::{answer_word, status, status_line};

/// One line: `label` in the first column, then the text.
fn line(label: &str, text: &str) -> String {
    format!("{label:<13}{text}\n")
}

/// One line per record that cannot be read.
fn problems(found: &[Problem]) -> String {
    found.iter().fold(String::new(), |out, problem| {
        out + &line(&Tone::Bad.paint("unreadable   "), &format!("{}: {}", clean(&problem.key), clean(&problem.problem)))
    })
}
