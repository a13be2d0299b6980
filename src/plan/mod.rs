//! Pure decisions: what an archive may write, whether a build fits, whether a release is still as it was made, and which releases
//! and builds are removed.

pub(crate) mod builds;
pub mod retention;
pub(crate) mod room;
pub(crate) mod staged;
pub mod unpack;
pub mod verify;
