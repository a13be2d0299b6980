//! The receipt of the proofs' disks for a journal that was written.

use crate::protocol::journal::Journal;
use crate::protocol::participant::Receipt;

/// Proof that a journal is on a simulated disk. Only [`write`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Written(());

impl Receipt for Written {}

/// Writes a journal to a simulated disk.
pub(crate) fn write(disk: &mut Journal, journal: &Journal) -> Written {
    disk.clone_from(journal);
    Written(())
}
