//! Pure decisions about the disk: what an archive may write, and which releases go.

pub mod retention;
pub mod unpack;
