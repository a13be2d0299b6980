//! The operations that the command line, the HTTP API, the web page and chat share.
//!
//! Every operation uses a Consul client with the caller's token, so the same ACLs apply to all of them. Operations read
//! keys into documents ([`read`]), write the few keys that people may write ([`request`], [`operate`], [`forget`],
//! [`recover`]), record builds ([`publish`], [`runs`], [`retention`]), and query nodes ([`ask`], [`dry_run`],
//! [`doctor`]). [`archive`] reads older history from the artifact store, and [`ships`] the lists of files.
//!
//! Non-goals: printing, waiting for outcomes, serving HTTP, and everything that agents write.

pub(crate) mod access;
pub(crate) mod archive;
pub(crate) mod ask;
pub(crate) mod attester;
pub(crate) mod catalogue;
mod code;
pub(crate) mod doctor;
pub(crate) mod dry_run;
pub(crate) mod feeds;
pub(crate) mod forget;
pub(crate) mod group;
mod kv;
pub(crate) mod naming;
pub(crate) mod operate;
pub(crate) mod publish;
pub(crate) mod read;
pub(crate) mod recover;
pub(crate) mod request;
pub(crate) mod retention;
pub(crate) mod rights;
pub(crate) mod runs;
pub(crate) mod ships;

pub use access::Access;
pub(crate) use attester::Attester;
pub use attester::PlannedWrite;
pub use attester::Scope;
pub use code::Code;
pub(crate) use code::Failure;
pub(crate) use kv::{Kv, Replaced};
