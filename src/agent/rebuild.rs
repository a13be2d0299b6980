//! The journal at start: as it was written, or made again from what lies on the disk.

use std::sync::Arc;

use super::context::Context;
use crate::protocol::journal::Journal;
use crate::protocol::record::Release;
use crate::release::{CurrentLink, LedgerError, Loaded, Site};

/// The journal, and whether it was intact. Without one, the barrier's first read must be consistent.
///
/// # Errors
///
/// [`LedgerError`]: the file cannot be read, or the new one not be written.
pub(crate) async fn journal(ctx: &Arc<Context>) -> Result<(Journal, bool), LedgerError> {
    let site = Arc::clone(&ctx.site);
    let unit = ctx.unit.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        match site.ledger().load::<Journal>()? {
            Loaded::Intact(journal) => return Ok((journal, true)),
            Loaded::Absent => {}
            Loaded::Damaged(reason) => {
                tracing::error!(%unit, %reason, "the journal is damaged: it is made again from what lies on the disk");
            }
        }
        let mut journal = Journal::default();
        if let Some(release) = running(&site) {
            tracing::info!(%unit, release = %release.release, artifact = %release.artifact, "found running");
            journal.touched = Some(release.epoch);
            journal.runs = Some(release);
        }
        // Nothing is published on the strength of it: the first record that is followed is written again.
        let _persisted = site.ledger().store(&journal)?;
        Ok((journal, false))
    });
    match loaded.await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What `current` points to, where Cutover made it. Its epoch is the one that made it: a rollback's newer one is not
/// known any more, and following the barrier finds it again.
fn running(site: &Site) -> Option<Release> {
    let Ok(CurrentLink::Release(name)) = site.current() else { return None };
    let record = site.record(&name).ok().flatten().filter(|record| record.complete)?;
    Some(Release {
        epoch: record.created_by,
        artifact: record.artifact,
        sha256: record.sha256,
        release: record.release,
    })
}
