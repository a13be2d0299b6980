//! The node's disk: unpacking ahead of time, placing, switching, pruning.
//!
//! ```text
//! archive ── stage ──► .cutover/staged/<artifact>/ ── place ──► releases/<name>/ ── seal ── switch ──► current
//! ```
//!
//! What it promises: `current` is at every instruction what it was or what it is to be; a release counts as complete
//! only when [`Site::seal`] has made it durable; nothing that another tool made is ever changed or removed; a step
//! that fails leaves nothing behind but what [`Site::discard`] or the next [`Site::open`] removes.
//!
//! What it refuses: to run beside another agent on the same directory; to replace a `current` that is no link; to
//! write into a release directory that is not of the epoch at hand; archives that are not exactly what their build
//! record says.
//!
//! The caller must
//!
//! 1. run every function on a thread that may block;
//! 2. call [`Site::stage`], [`Site::place`], the prepare hook, [`Site::seal`] in this order, and acknowledge only
//!    after the last; [`Placed::Existing`] needs neither hook nor seal;
//! 3. tell [`Site::mark_ran`] how each switch ended: `previous` and retention rest on it;
//! 4. hand [`Site::prune`] everything that the protocol still names;
//! 5. ignore `SIGXFSZ`, so that a file size limit is an error and not the end of the process.

mod archive;
mod control;
mod fault;
mod files;
mod ledger;
mod link;
mod place;
mod prune;
mod record;
mod site;
mod source;
mod stage;
mod switch;
mod unpack;
mod unpack_error;
mod writer;

pub use control::{Control, Expected};
pub use fault::StageFault;
pub use ledger::{Ledger, LedgerError, Loaded, Persisted};
pub use link::{InvalidLink, Links};
pub use place::Placed;
pub use prune::Discarded;
pub use record::ReleaseRecord;
pub use site::{Site, SiteError};
pub use stage::Staged;
pub use switch::{CurrentLink, LinkTarget};
pub use unpack::{DEFAULT_WRITERS, Unpacked, unpack};
pub use unpack_error::UnpackError;
