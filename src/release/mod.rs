//! The node's disk: unpacking ahead of time, placing, switching, pruning.
//!
//! ```text
//! archive ── stage ──► .cutover/staged/<artifact>/ ── place ──► releases/<name>/ ── seal ── switch ──► current
//! ```
//!
//! Guarantees: at every moment `current` has its old or its new target. A release counts as complete only after
//! [`Site::seal`] has made it durable. Releases of other tools are never changed or removed. A failed step leaves behind only
//! what [`Site::discard`] or the next [`Site::open`] removes. Files that cannot be removed stay, are named by
//! [`Site::unremovable`], and fail nothing else. Nothing behind a mount is ever removed.
//!
//! Refused are: a second agent on the same directory, replacing a `current` that is not a link, writing into a release
//! directory of another epoch, and archives that do not exactly match their build record.
//!
//! The caller must
//!
//! 1. run every function on a thread that may block;
//! 2. call [`Site::stage`], [`Site::place`], the prepare hook, [`Site::note_changes`], [`Site::seal`] in this order, and
//!    acknowledge only after the last; [`Placed::Existing`] needs neither hook nor seal, but a [`Site::check`];
//! 3. report the result of each switch to [`Site::mark_ran`], on which `previous` and retention depend;
//! 4. pass every release that the protocol still refers to to [`Site::prune`];
//! 5. ignore `SIGXFSZ`, so that a file size limit is an error and not the end of the process;
//! 6. give [`Site::stage`] a source that writes no file and starts no thread while it is read: it is read on a thread that can write
//!    to the unpack's directory only, and every thread that it starts is limited likewise, for good.

mod check;
mod confine;
mod control;
mod durable;
mod failed;
mod fault;
mod files;
mod ledger;
mod link;
mod list;
mod look;
mod notes;
mod place;
mod prune;
mod record;
mod removal;
mod shared_copy;
mod site;
mod source;
mod stage;
mod switch;
mod trash;
mod tree;
mod unpack;
mod unpack_error;
mod writer;

pub use check::Checked;
pub use confine::{Confinement, Why};
pub use control::Control;
pub use control::Expected;
pub use fault::Retry;
pub use fault::StageFault;
pub(crate) use ledger::{LedgerError, Loaded, Persisted};
pub(crate) use link::LinkEffect;
pub use link::Links;
pub use place::Placed;
pub use prune::Discarded;
pub(crate) use record::ReleaseRecord;
pub use site::Site;
pub use site::SiteError;
pub(crate) use stage::{MARGIN_BYTES, tree_bytes};
pub use switch::CurrentLink;
pub use switch::LinkTarget;
pub use unpack::Unpacked;
pub use unpack::unpack;
pub use unpack_error::UnpackError;
