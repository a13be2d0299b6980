//! The archived part of a unit's history, read from the artifact store.

use sha2::{Digest, Sha256};

use super::access::Access;
use super::code::{Code, Failure};
use super::read;
use crate::artifact::store::{Class, Store, StoreError};
use crate::document::{DeployDocument, FullHistory, Selection};
use crate::protocol::ids::{Epoch, Unit};
use crate::protocol::record::Segment;

/// The longest segment that is read, in bytes. Coordinators write up to 8 MiB, plus one record of at most 512 KiB (Consul's
/// limit for a value).
const LONGEST_SEGMENT: usize = 16 << 20;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error.class() {
            Class::Forbidden => Code::NotAllowed,
            Class::NotFound => Code::NotFound,
            Class::Transient => Code::Unreachable,
            Class::Permanent | Class::Verify => Code::Failed,
        };
        Self::new(code, "the artifact store cannot be used").caused_by(error)
    }
}

/// Reads archived segments, newest first, until `past` has the newest `limit` entries of `selection`; at most `most`
/// segments. Checks each segment's digest.
///
/// # Errors
///
/// As any read of the store; [`Code::Failed`] if a segment's digest differs from the one in `archive`.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn fill(
    past: &mut FullHistory,
    store: &Store,
    selection: &Selection,
    limit: usize,
    most: usize,
) -> Result<(), Failure> {
    for _ in 0..most {
        let Some(segment) = past.next_segment(selection, limit).cloned() else { break };
        add(past, store, &segment).await?;
    }
    Ok(())
}

/// The document of a request whose record is archived; none if it is not.
///
/// # Errors
///
/// As [`fill`], and as any read of Consul.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn deploy(
    access: &Access,
    unit: &Unit,
    epoch: Epoch,
    store: &Store,
) -> Result<Option<DeployDocument>, Failure> {
    let mut past = read::past(access, unit).await?;
    while let Some(segment) = past.segment_with(epoch).cloned() {
        add(&mut past, store, &segment).await?;
    }
    Ok(past.request(epoch).map(|record| DeployDocument::of(record.clone(), Code::of(record) as u8)))
}

async fn add(past: &mut FullHistory, store: &Store, segment: &Segment) -> Result<(), Failure> {
    let key = store.key_below(&segment.object);
    let bytes = store.get_small(&key, LONGEST_SEGMENT).await?;
    if hex::encode(Sha256::digest(&bytes)) != segment.sha256.as_str() {
        let what = format!("{} was changed after it was archived: its digest differs", store.place(&key));
        return Err(Failure::new(Code::Failed, what).hint(
            "restore the object from a backup or an older version in the store; a shorter list does not need it",
        ));
    }
    past.add(segment, &bytes);
    Ok(())
}
