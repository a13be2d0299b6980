//! Archives: one reader and one plan for `cutover publish` and for the nodes.
//!
//! ```text
//! compressed bytes ──► Decoder (gzip, zstd) ──► Archive (tar) ──► UnpackPlan ──► the caller: write it, or only count it
//! ```
//!
//! [`read()`] runs the whole chain. The nodes write what it yields (`release::unpack`), `publish --file` only counts it
//! (`artifact::inspect`), and `publish DIR` runs the same plan over the entries that it packs. So no node refuses an
//! archive for its content that `publish` has accepted, as long as both allow the same links.
//!
//! Accepted is what GNU tar, bsdtar and Python's `tarfile` read without a complaint, as far as a release can contain it: v7,
//! ustar, GNU, pax and star headers in any combination, sparse files in all four forms, several gzip members and zstd frames.
//! Owners, ACLs, extended attributes, SELinux labels and file capabilities are dropped. Refused are devices and pipes, parts of
//! multi-volume archives, everything that [`crate::plan::unpack`] refuses, and damage: a wrong checksum, a cut stream, data
//! after the end.
//!
//! Memory is bounded for every archive: the zstd window (at most 128 MiB, as the frame's header says), one extension header
//! (16 MiB), one map of a sparse file (16 MiB), and the plan.

mod decode;
mod error;
mod field;
mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use decode::{Decoder, Format};
pub(crate) use error::ReadError;
pub(crate) use field::Mtime;
pub(crate) use reader::{Archive, Content, read};
