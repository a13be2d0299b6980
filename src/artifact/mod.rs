//! Artifacts: what they are called, how they are packed, where they are kept, and how a node gets them.
//!
//! ```text
//!  publish: DIR ── pack ──► archive ── Store::put_file ──► S3 bucket or directory
//!  node:    Store::get ──► Fetcher ──┬──► cache file (.part, then whole)
//!                                    └──► FetchReader ──► digest, decompress, write (release)
//! ```
//!
//! Nothing here writes a release, speaks to Consul, or believes a digest: [`fetch::FetchReader`] hands on bytes as
//! they come.
//!
//! The caller's duties:
//!
//! 1. Install rustls' `ring` provider before a [`store::Store`] is opened, as `main` does for every client.
//! 2. Check the digest of what a [`fetch::FetchReader`] gave against the build record before anything of it is used,
//!    and call [`fetch::Fetcher::reject`] when it is another one.
//! 3. Run [`pack()`], [`inspect()`] and [`cache::trim`] where blocking is allowed; they are plain blocking functions.

pub mod cache;
pub mod fetch;
mod inspect;
mod name;
mod pack;
pub mod store;

pub use inspect::{InspectError, Inspected, inspect};
pub use name::{artifact_name, object_key};
pub use pack::{DEFAULT_MTIME_SECS, PackError, Packed, pack};
