//! `cutover history`: every request of a unit, newest first.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Entries, Problem, read_all};
use crate::protocol::ids::{Epoch, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::History;

/// The newest requests of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryDocument {
    /// The unit.
    pub unit: Unit,
    /// The requests, newest first.
    pub requests: Vec<HistoryRow>,
    /// Records that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryRow {
    /// From when it was taken until it ended, by the coordinator's clock.
    pub took_ms: Option<u64>,
    /// The record.
    #[serde(flatten)]
    pub record: History,
}

impl HistoryDocument {
    /// Builds the document from `history/`, with at most `limit` requests.
    #[must_use]
    pub fn build(unit: &Unit, keys: &UnitKeys, entries: &Entries, limit: usize) -> Self {
        let mut problems = Vec::new();
        let records: BTreeMap<Epoch, History> = read_all(entries, &keys.all_history(), &mut problems);
        let requests = records.into_values().rev().take(limit).map(HistoryRow::from).collect();
        Self { unit: unit.clone(), requests, problems }
    }
}

impl From<History> for HistoryRow {
    fn from(record: History) -> Self {
        let took_ms = record.ended_at.and_then(|end| {
            let span = end.duration_since(record.started_at);
            u64::try_from(span.as_millis()).ok()
        });
        Self { took_ms, record }
    }
}
