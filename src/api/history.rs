//! A unit's history, from Consul and the archive in the store.

use super::Api;
use crate::control::{Access, Code, Failure, archive, read};
use crate::document::{DeployDocument, HistoryDocument, Selection};
use crate::protocol::ids::{Epoch, Unit};

/// The most segments of the archive that one request reads, of up to 8 MiB each. With more segments the document is
/// incomplete.
const MOST_SEGMENTS: usize = 4;

/// The newest `limit` entries that match `selection`, and the value of `before` for the next page, if there is one.
///
/// # Errors
///
/// As [`read::past`] and [`archive::fill`].
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(super) async fn entries(
    api: &Api,
    access: &Access,
    unit: &Unit,
    selection: &Selection,
    limit: usize,
) -> Result<(HistoryDocument, Option<Epoch>), Failure> {
    // One entry more shows whether there is a next page.
    let beyond = limit.saturating_add(1);
    let mut past = read::past(access, unit).await?;
    if let Some(store) = &api.store {
        // The archive is read with the agent's credentials. The caller's token was allowed to read the key `archive`, which
        // names it.
        archive::fill(&mut past, store, selection, beyond, MOST_SEGMENTS).await?;
    }
    let mut document = past.document(unit, selection, beyond);
    let has_more = document.entries.len() > limit;
    document.entries.truncate(limit);
    document.requests.retain(|row| document.entries.iter().any(|line| line.epoch == row.record.epoch));
    let next = document.entries.last().filter(|_| has_more).map(|line| line.epoch);
    Ok((document, next))
}

/// The document of one request.
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
