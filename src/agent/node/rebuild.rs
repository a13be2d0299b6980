//! The journal at start: as it was written, or made again from what lies on the disk.
//!
//! What is made again is what the node runs, by the record of the release that `current` points to, and what it ran before
//! Cutover, which has a file of its own. The floor is not: it is one whole record of the barrier's. Until one is followed
//! again, the epochs in the records of releases bar older ones ([`known_epoch`]); so a node that has lost its journal is
//! not taken back by keys that were restored.

use std::sync::Arc;

use crate::agent::daemon::context::Context;
use crate::plan::retention::Ran;
use crate::protocol::ids::Epoch;
use crate::protocol::journal::{Journal, Origin, Target};
use crate::protocol::record::Release;
use crate::release::{CurrentLink, LedgerError, Loaded, ReleaseRecord, Site};

/// The journal. One that was made again holds no record: until it does, the barrier is read consistently.
///
/// # Errors
///
/// [`LedgerError`]: a file cannot be read, a newer agent wrote it, or the new one cannot be written.
pub(crate) async fn journal(ctx: &Arc<Context>) -> Result<Journal, LedgerError> {
    let site = Arc::clone(&ctx.site);
    let unit = ctx.unit.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let origin = match site.origin_ledger().load::<Origin>()? {
            Loaded::Intact(origin) => Some(origin),
            Loaded::Absent => None,
            Loaded::Damaged(reason) => {
                tracing::error!(%unit, %reason, "what ran before Cutover is not known from it");
                None
            }
        };
        match site.ledger().load::<Journal>()? {
            Loaded::Intact(journal) => {
                // Written by an agent that kept it in the journal alone, or damaged since.
                if journal.origin != origin
                    && let Some(origin) = &journal.origin
                {
                    let _persisted = site.origin_ledger().store(origin)?;
                }
                return Ok(journal);
            }
            Loaded::Absent if known_epoch(&site).is_none() => {}
            Loaded::Absent => {
                tracing::error!(%unit, "the journal is gone: it is made again from what lies on the disk");
            }
            Loaded::Damaged(reason) => {
                tracing::error!(%unit, %reason, "the journal is damaged: it is made again from what lies on the disk");
            }
        }
        // What the disk says is not all known while a newer agent's record of a release cannot be read.
        if let Some(newer) = site.newer_record().ok().flatten() {
            return Err(LedgerError::Newer(newer));
        }
        let journal = Journal { origin, ..from_disk(&site) };
        if let Some(release) = &journal.runs {
            tracing::info!(%unit, release = %release.release, artifact = %release.artifact, "found running");
        }
        // Nothing is published on the strength of it: the first record that is followed is written again.
        let _persisted = site.ledger().store(&journal)?;
        Ok(journal)
    });
    match loaded.await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// The newest epoch that this node is known to have followed, by the releases that it has made and run.
pub(crate) fn known_epoch(site: &Site) -> Option<Epoch> {
    // Where the records cannot be read nothing is known of them; the work with releases says so.
    site.records().unwrap_or_default().iter().map(ReleaseRecord::newest_epoch).max()
}

/// What `current` points to, where Cutover made it.
fn from_disk(site: &Site) -> Journal {
    let Ok(CurrentLink::Release(name)) = site.current() else { return Journal::default() };
    let Some(record) = site.record(&name).ok().flatten().filter(|record| record.complete) else {
        return Journal::default();
    };
    let has_run = record.last_run.is_some_and(|run| run.outcome == Ran::Done);
    let release = Release {
        epoch: record.newest_epoch(),
        artifact: record.artifact,
        sha256: record.sha256,
        release: record.release,
    };
    let touched = Some(release.epoch);
    // That the link points there is not enough: its hooks may not have run, and run again then.
    let (runs, moving) = if has_run { (Some(release), None) } else { (None, Some(Target::Release(release))) };
    Journal { runs, moving, touched, ..Journal::default() }
}
