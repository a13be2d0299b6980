//! Everything that can be read of Cutover, or asked of it: what command line, HTTP API, web page and chat have in common.
//!
//! Functions of a Consul client, whose token is the caller's: nothing here acts with rights that the caller lacks, and
//! nothing can be done through one face that Consul's ACLs refuse through another. They read keys into documents
//! ([`read`]), write the few keys that people may write ([`request`], [`operate`], [`forget`], [`recover`]), record builds ([`publish`],
//! [`runs`], [`retention`]), and ask the nodes what only they know ([`ask`], [`dry_run`], [`doctor`]). Of what is older than
//! Consul keeps, [`archive`] reads the artifact store.
//!
//! Not here: how anything is printed, waited for, or served; and everything that agents write.

pub mod access;
pub mod archive;
pub mod ask;
pub mod attester;
pub mod catalogue;
mod code;
pub mod doctor;
pub mod dry_run;
pub mod feeds;
pub mod forget;
pub mod group;
mod kv;
pub mod operate;
pub mod publish;
pub mod read;
pub mod recover;
pub mod request;
pub mod retention;
pub mod rights;
pub mod runs;

pub use access::{Access, Tell};
pub use attester::{Attester, PlannedWrite, Scope};
pub use code::{Code, Failure};
pub use kv::{Kv, Replaced};
