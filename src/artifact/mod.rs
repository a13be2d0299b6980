//! Artifacts: their names, packing them, storing them, and downloading them to a node.
//!
//! ```text
//!  publish: DIR ── pack ──► archive ── Store::put ──► S3 bucket or directory
//!  node:    Store::get ──► Fetcher ──┬──► cache file (.part, then whole)
//!                                    └──► FetchReader ──► digest, decompress, write (release)
//! ```
//!
//! This module writes no releases, does not use Consul, and does not verify digests: [`fetch::FetchReader`] passes bytes on
//! as they arrive.
//!
//! The caller's duties:
//!
//! 1. Install rustls' `ring` provider before a [`store::Store`] is opened, as `main` does for every client.
//! 2. Verify the digest of the bytes of a [`fetch::FetchReader`] against the build record before they are used, and call
//!    [`fetch::Fetcher::reject`] if it is wrong.
//! 3. Run [`Tree::scan`], [`Tree::pack`], [`inspect()`] and everything of [`cache::Cache`] on a thread that may block.

pub mod cache;
mod compress;
mod digest;
pub mod fetch;
mod ignore;
mod inspect;
pub(crate) mod manifest;
mod name;
mod pack;
pub mod store;
mod tar_writer;

pub use ignore::GitDir;
pub use ignore::LeftOut;
pub use inspect::inspect;
pub(crate) use name::{artifact_name, distinct_name, manifest_key, object_key, object_name};
pub use pack::Mtimes;
pub use pack::PackError;
pub use pack::Packed;
pub use pack::Packing;
pub use pack::Tree;
pub use pack::Watch;
