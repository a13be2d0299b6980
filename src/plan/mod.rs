//! Pure decisions: what an archive may write, whether a build fits, and which releases and builds are removed.

pub(crate) mod builds;
pub mod retention;
pub(crate) mod room;
pub(crate) mod staged;
pub mod unpack;
