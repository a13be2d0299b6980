//! Everything that can be read of Cutover, or asked of it: what command line, HTTP API, web page and chat have in common.
//!
//! Functions of a Consul client, whose token is the caller's: nothing here acts with rights that the caller lacks, and
//! nothing can be done through one face that Consul's ACLs refuse through another. They read keys into documents
//! ([`read`]), write the few keys that people may write ([`request`], [`operate`]), and record builds ([`publish`]).
//!
//! Not here: how anything is printed, waited for, or served; and everything that agents write.

pub mod access;
mod code;
pub mod feeds;
mod kv;
pub mod operate;
pub mod publish;
pub mod read;
pub mod request;

pub use access::{Access, Tell};
pub use code::{Code, Failure};
pub use kv::{Kv, Replaced};
