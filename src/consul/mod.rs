//! The Consul client: KV, transactions, sessions, blocking queries, events, services and checks, ACL identity.
//!
//! Requests take two ways, over one connection pool and one TLS configuration:
//!
//! - `rs-consul` sends the writes of single keys (put, check-and-set, acquire, release) and the node catalog, through
//!   `rs_client`, the only file that uses it;
//! - everything else is a few small calls of our own on the same `hyper` client.
//!
//! `rs-consul` 0.15 is not used for more for these reasons (each point measured, or read in its source): it has no
//! transactions, sessions, events and agent calls; its `read_key` always lists a prefix, accepts only UTF-8, and turns a
//! 404 into an error without the index that a blocking query needs; its `delete_key` deletes a whole prefix; its `Lock`
//! leaks sessions and blocks in `drop`; its calls have no time limit, do not escape keys, and can send neither basic
//! authentication nor an admin partition, nor a namespace or datacenter alone. So Cutover escapes keys and limits calls
//! itself, and clients with such settings send the same writes with Cutover's own call.
//!
//! # What callers must know
//!
//! 1. Every call has a time limit ([`CALL_LIMIT`](client::CALL_LIMIT) by default). No call is retried, except by [`Watch`].
//! 2. A write with [`Error::outcome_unknown`] may have taken effect, or may still do so: read again with
//!    [`Consistency::Consistent`] before anything else.
//! 3. Decisions need transactions or consistent reads; [`Consistency::Stale`] is only for waking up.
//! 4. If a token may not read some keys, lists are shorter; there is no error.

mod acl;
mod agent;
mod catalog;
mod client;
mod error;
mod event;
mod kv;
mod observer;
mod rs_client;
mod session;
mod settings;
mod tls;
mod txn;
mod watch;

pub(crate) use acl::{Permit, Resource, Right};
pub use agent::Check;
pub use agent::CheckStatus;
pub use agent::Service;
pub(crate) use catalog::Instance;
pub use client::Client;
pub use client::Consistency;
pub(crate) use client::TokenDigest;
pub use error::Class;
pub use error::Error;
pub(crate) use event::EVENT_LIMIT_BYTES;
pub(crate) use kv::Entry;
pub use kv::VALUE_LIMIT_BYTES;
pub use observer::Observer;
pub use observer::RequestReport;
pub(crate) use observer::{Reply, RequestKind};
pub use session::Behavior;
pub use session::SessionId;
pub use session::SessionSpec;
pub use settings::BasicAuth;
pub use settings::Secret;
pub use settings::Settings;
pub use txn::Read;
pub use txn::TxnOp;
pub use txn::TxnResult;
pub(crate) use txn::{Refusal, Snapshot, TXN_LIMIT_BYTES, TXN_LIMIT_OPERATIONS};
pub use watch::Change;
pub use watch::Subject;
pub use watch::Watch;
pub(crate) use watch::WatchWaker;
