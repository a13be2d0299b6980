//! A unit's past, from Consul and the archive: what lists and pages are made of.

use super::Api;
use crate::control::{Access, Code, Failure, archive, read};
use crate::document::{DeployDocument, HistoryDocument, Selection};
use crate::protocol::ids::{Epoch, Unit};

/// Segments of the archive that one request reads at most, each of up to 8 MiB: beyond them the document is incomplete.
const MOST_SEGMENTS: usize = 4;

/// The newest `limit` lines that `selection` takes, and what `before` is for the next page; none: this is the last.
///
/// # Errors
///
/// As [`read::past`] and [`archive::fill`].
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(super) async fn lines(
    api: &Api,
    access: &Access,
    unit: &Unit,
    selection: &Selection,
    limit: usize,
) -> Result<(HistoryDocument, Option<Epoch>), Failure> {
    let beyond = limit.saturating_add(1);
    let mut past = read::past(access, unit).await?;
    if let Some(store) = &api.store {
        // That the caller may read `archive` is the right to what it names.
        archive::fill(&mut past, store, (selection, beyond), MOST_SEGMENTS).await?;
    }
    let mut document = past.document(unit, selection, beyond);
    let has_more = document.entries.len() > limit;
    document.entries.truncate(limit);
    document.requests.retain(|row| document.entries.iter().any(|line| line.epoch == row.record.epoch));
    let next = document.entries.last().filter(|_| has_more).map(|line| line.epoch);
    Ok((document, next))
}

/// What became of one request.
///
/// # Errors
///
/// As [`read::deploy`] and [`archive::deploy`].
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(super) async fn request(api: &Api, access: &Access, unit: &Unit, epoch: Epoch) -> Result<DeployDocument, Failure> {
    let found = match (read::deploy(access, unit, epoch).await, &api.store) {
        (Err(failure), Some(store)) if failure.code == Code::NotFound => {
            archive::deploy(access, unit, epoch, store).await?.ok_or(failure)?
        }
        (found, _) => found?,
    };
    Ok(read::compared(access, found).await)
}
