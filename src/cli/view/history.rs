//! `cutover history` as text.

use super::{line, moment, problems};
use crate::cli::output::{Table, Tone, duration};
use crate::document::{HistoryDocument, HistoryEntry, changes_line};
use crate::protocol::record::Outcome;

/// One line per request and per action. A name with ✓ was verified by an agent; any other name is only claimed.
#[must_use]
pub(crate) fn history(document: &HistoryDocument) -> String {
    let heading = ["#", "WHEN", "OUTCOME", "TARGET", "BY", "VIA", "NODES", "TOOK", "REASON AND NOTES"];
    let mut table = Table::with_heading(&heading);
    for entry in &document.entries {
        let (outcome, tone) = outcome(entry);
        table.row([
            (entry.epoch.to_string(), Tone::Plain),
            (moment(entry.at), Tone::Plain),
            (outcome.to_owned(), tone),
            (entry.what.clone(), Tone::Plain),
            (by(entry), Tone::Plain),
            (entry.via.clone(), Tone::Plain),
            (entry.nodes.map_or_else(String::new, |nodes| nodes.to_string()), Tone::Plain),
            (entry.took_ms.map_or_else(String::new, duration), Tone::Plain),
            (notes(entry), Tone::Plain),
        ]);
    }
    let older = match document.archived {
        0 => String::new(),
        archived => {
            line("archive", &format!("{archived} older records are in the artifact store; show more with -n COUNT"))
        }
    };
    table.render() + &older + &problems(&document.problems)
}

/// What it changes, then reason, fault and notes.
fn notes(entry: &HistoryEntry) -> String {
    let changes = entry.changes.as_ref().map(changes_line);
    let remarks = Some(entry.remarks.clone()).filter(|remarks| !remarks.is_empty());
    changes.into_iter().chain(remarks).collect::<Vec<_>>().join("; ")
}

/// `ann ✓` if an agent verified ann; if the claimed name differs, it follows in parentheses.
fn by(entry: &HistoryEntry) -> String {
    match &entry.verified {
        None => entry.by.clone(),
        Some(identity) if identity.name == entry.by => format!("{} ✓", entry.by),
        Some(identity) => format!("{} ✓ (as {})", identity.name, entry.by),
    }
}

const fn outcome(entry: &HistoryEntry) -> (&'static str, Tone) {
    match (entry.outcome, entry.nodes) {
        (Some(outcome), _) => (outcome.as_str(), tone(outcome)),
        (None, Some(_)) => ("running", Tone::Warn),
        (None, None) => (entry.kind.as_str(), Tone::Plain),
    }
}

const fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Done => Tone::Good,
        Outcome::Aborted | Outcome::Refused | Outcome::Superseded => Tone::Warn,
        Outcome::Failed | Outcome::Reverted => Tone::Bad,
    }
}
