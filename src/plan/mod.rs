//! Pure decisions: what an archive may write, and which releases and builds are removed.

pub(crate) mod builds;
pub mod retention;
pub mod unpack;
