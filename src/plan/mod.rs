//! Pure decisions: what an archive may write, which releases go from a disk, and which builds from the store.

pub mod builds;
pub mod retention;
pub mod unpack;
