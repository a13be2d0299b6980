//! `cutover history` as text.

use super::{moment, problems};
use crate::cli::output::{Table, Tone, duration};
use crate::document::{HistoryDocument, HistoryRow, what_stopped, what_was_asked};
use crate::protocol::record::Outcome;

/// One line per request.
#[must_use]
pub fn history(document: &HistoryDocument) -> String {
    let heading = ["EPOCH", "WHEN", "OUTCOME", "WHAT", "BY", "VIA", "NODES", "TOOK", "WHY AND HOW IT ENDED"];
    let mut table = Table::with_heading(&heading);
    for row in &document.requests {
        let record = &row.record;
        let outcome = record.outcome.map_or(("running", Tone::Warn), |o| (o.as_str(), tone(o)));
        table.row([
            (record.epoch.to_string(), Tone::Plain),
            (moment(record.started_at), Tone::Plain),
            (outcome.0.to_owned(), outcome.1),
            (what_was_asked(&row.record), Tone::Plain),
            (record.by.clone(), Tone::Plain),
            (record.via.clone(), Tone::Plain),
            (record.nodes.len().to_string(), Tone::Plain),
            (row.took_ms.map_or_else(String::new, duration), Tone::Plain),
            (remarks(row), Tone::Plain),
        ]);
    }
    table.render() + &problems(&document.problems)
}

const fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Done => Tone::Good,
        Outcome::Aborted | Outcome::Refused | Outcome::Superseded => Tone::Warn,
        Outcome::Failed | Outcome::Reverted => Tone::Bad,
    }
}

fn remarks(row: &HistoryRow) -> String {
    let record = &row.record;
    let left_out = record.left_out.iter().map(|node| format!("without {node}"));
    let parts = [record.why.clone(), what_stopped(record)].into_iter().chain(record.notes.iter().cloned());
    parts.chain(left_out).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}
