//! Everything that can be read of Cutover, or asked of it: what command line, HTTP API, web page and chat have in common.
//!
//! Functions of a Consul client, whose token is the caller's: nothing here acts with rights that the caller lacks, and
//! nothing can be done through one face that Consul's ACLs refuse through another. They read keys into documents
//! ([`read`]), write the few keys that people may write ([`request`], [`operate`], [`forget`], [`recover`]), record builds ([`publish`],
//! [`runs`], [`retention`]), and ask the nodes what only they know ([`ask`], [`dry_run`], [`doctor`]). Of what is older than
//! Consul keeps, [`archive`] reads the artifact store.
//!
//! Not here: how anything is printed, waited for, or served; and everything that agents write.

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
pub(crate) mod operate;
pub(crate) mod publish;
pub(crate) mod read;
pub(crate) mod recover;
pub(crate) mod request;
pub(crate) mod retention;
pub(crate) mod rights;
pub(crate) mod runs;

pub use access::Access;
pub(crate) use attester::Attester;
pub use attester::PlannedWrite;
pub use attester::Scope;
pub use code::Code;
pub(crate) use code::Failure;
pub(crate) use kv::{Kv, Replaced};
