//! Loads the journal when the agent starts, or rebuilds it if it is lost. [`start`] takes every decision; this module
//! only reads and writes the disk.

use std::sync::Arc;

use crate::agent::daemon::context::Context;
use crate::plan::retention::RunResult;
use crate::protocol::ids::Unit;
use crate::protocol::journal::{Journal, Origin};
use crate::protocol::shell::rebuild::{Ledger, Loss, Made, Rebuilt, Start, start};
use crate::release::{CurrentLink, LedgerError, Loaded, ReleaseRecord, Site};

/// Loads or rebuilds the journal. A rebuilt journal holds no record. Until it holds one, the barrier is read
/// consistently.
///
/// # Errors
///
/// [`LedgerError`]: a file cannot be read, a newer agent wrote it, or the new one cannot be written.
pub(crate) async fn journal(ctx: &Arc<Context>) -> Result<Journal, LedgerError> {
    let site = Arc::clone(&ctx.site);
    let unit = ctx.unit.clone();
    match tokio::task::spawn_blocking(move || load(&site, &unit)).await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn load(site: &Site, unit: &Unit) -> Result<Journal, LedgerError> {
    let origin = match site.origin_ledger().load::<Origin>()? {
        Loaded::Intact(origin) => Some(origin),
        Loaded::Absent => None,
        Loaded::Damaged(reason) => {
            tracing::error!(%unit, %reason, "{unit}: origin.json is damaged, so this node no longer knows what ran before Cutover: {reason}");
            None
        }
    };
    let ledger = match site.ledger().load::<Journal>()? {
        Loaded::Intact(journal) => Ledger::Intact(Box::new(journal)),
        Loaded::Absent => Ledger::Absent,
        Loaded::Damaged(reason) => Ledger::Damaged(reason),
    };
    match start(ledger, origin) {
        Start::With { journal, origin_to_store } => {
            if let Some(origin) = &origin_to_store {
                let _persisted = site.origin_ledger().store(origin)?;
            }
            Ok(*journal)
        }
        Start::Rebuild(rebuild) => {
            // The journal is rebuilt from release records, so a record that only a newer agent can read would be
            // missing.
            if let Some(newer) = site.newer_record().ok().flatten() {
                return Err(LedgerError::Newer(newer));
            }
            let current = match site.current() {
                Ok(CurrentLink::Release(name)) => Some(name),
                Ok(CurrentLink::Absent | CurrentLink::Elsewhere(_) | CurrentLink::NotALink) | Err(_) => None,
            };
            let Rebuilt { journal, loss } = rebuild.journal(current.as_ref(), &made(site));
            tell(unit, &journal, &loss);
            let _persisted = site.ledger().store(&journal)?;
            Ok(journal)
        }
    }
}

fn tell(unit: &Unit, journal: &Journal, loss: &Loss) {
    match loss {
        Loss::NeverWritten => {}
        Loss::Gone => {
            tracing::error!(%unit, "{unit}: the journal is gone and is rebuilt from the releases on disk");
        }
        Loss::Damaged(reason) => {
            tracing::error!(%unit, %reason, "{unit}: the journal is damaged and is rebuilt from the releases on disk: {reason}");
        }
    }
    if let Some(runs) = &journal.runs {
        let (release, artifact) = (&runs.release, &runs.artifact);
        tracing::info!(%unit, %release, %artifact, "{unit}: found {artifact} running (release {release})");
    }
}

/// The releases that Cutover has made on this node. Empty if the records cannot be read: work with releases reports
/// that error.
pub(crate) fn made(site: &Site) -> Vec<Made> {
    let made = |record: ReleaseRecord| Made {
        has_run_well: record.last_run.is_some_and(|run| run.outcome == RunResult::Done),
        release: record.release,
        artifact: record.artifact,
        sha256: record.sha256,
        created_by: record.created_by,
        ran_in: record.ran_in,
        is_complete: record.complete,
    };
    site.records().unwrap_or_default().into_iter().map(made).collect()
}
