//! Transactions: several operations as one entry of Consul's log, all or nothing; and consistent reads of several keys.
//!
//! Measured on 1.8.7, for transactions that only read (`?consistent` and `?stale` only affect these):
//!
//! - `get` of an absent key refuses the whole transaction (409, `key "…" doesn't exist`);
//! - `get-tree` of a prefix that matches nothing succeeds and adds nothing to the results;
//! - the results are one flat list without their operations, and contain a key twice if two operations match it.
//!
//! So [`Client::snapshot`] reads both keys and prefixes with `get-tree`, and sorts the entries by key.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Answer, Call, Client, Consistency};
use super::error::{Error, Operation, clip};
use super::kv::{Entry, RawEntry};
use super::session::SessionId;
use crate::protocol::ids::ModifyIndex;

/// The most operations in one transaction: the limit of Consul 1.8 (128 since 1.14).
pub(crate) const TXN_LIMIT_OPERATIONS: usize = 64;
/// The largest transaction, in bytes of its JSON, in which values are base64 (4 bytes for 3): Consul's
/// `txn_max_req_len`, 512 KiB unless configured.
pub(crate) const TXN_LIMIT_BYTES: usize = 512 * 1024;

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Writes the key if its index is `index`; with 0, if it does not exist.
    Cas {
        /// The key.
        key: String,
        /// The new value.
        value: Vec<u8>,
        /// The index that the key must have.
        index: ModifyIndex,
    },
    /// Succeeds if the key's index is `index`. Needs permission to read it.
    CheckIndex {
        /// The key.
        key: String,
        /// The index that the key must have.
        index: ModifyIndex,
    },
    /// Succeeds if the key does not exist. Needs permission to **write** it.
    CheckNotExists {
        /// The key.
        key: String,
    },
    /// Succeeds if `session` holds the key as a lock. Every write of a coordinator includes it.
    CheckSession {
        /// The key.
        key: String,
        /// The required holder.
        session: SessionId,
    },
    /// Deletes the key, if it exists.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes the key if its index is `index`. Succeeds if the key does not exist.
    DeleteCas {
        /// The key.
        key: String,
        /// The index that the key must have.
        index: ModifyIndex,
    },
    /// Reads the key; the transaction is refused if the key does not exist.
    Get {
        /// The key.
        key: String,
    },
    /// Reads all keys that start with the prefix; there may be none.
    GetTree {
        /// The prefix.
        prefix: String,
    },
    /// Locks the key, and writes it.
    Lock {
        /// The key.
        key: String,
        /// The new value.
        value: Vec<u8>,
        /// The session that gets the lock.
        session: SessionId,
    },
    /// Writes the key.
    Set {
        /// The key.
        key: String,
        /// The new value.
        value: Vec<u8>,
    },
    /// Releases the lock, and writes the key.
    Unlock {
        /// The key.
        key: String,
        /// The new value.
        value: Vec<u8>,
        /// The required holder.
        session: SessionId,
    },
}

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// All operations took effect, at one index. Contains the written (without values) or read entries.
    Applied(Vec<Entry>),
    /// No operation took effect.
    Refused(Vec<Refusal>),
}

/// One operation whose condition failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its position in the transaction, from 0.
    pub op_index: usize,
    /// Consul's message.
    pub what: String,
}

/// One part of a [`Client::snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Exactly this key, if it exists.
    Key(String),
    /// All keys that start with this.
    Prefix(String),
}

/// Keys at one position of Consul's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    entries: BTreeMap<String, Entry>,
}

/// For tests: keys and values with the indexes 1, 2, … in this order.
#[cfg(test)]
impl<'a> FromIterator<(&'a str, &'a str)> for Snapshot {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(entries: I) -> Self {
        let entry = |(index, (key, value)): (u64, (&str, &str))| {
            let (key, value, index) = (key.to_owned(), value.as_bytes().to_vec(), ModifyIndex(index));
            (key.clone(), Entry { key, value, flags: 0, modify_index: index, create_index: index, session: None })
        };
        Self { entries: (1..).zip(entries).map(entry).collect() }
    }
}

impl Snapshot {
    /// One key, if it was read and exists.
    #[must_use]
    pub fn key(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The index of the newest entry.
    #[must_use]
    pub(crate) fn newest(&self) -> ModifyIndex {
        self.entries.values().map(|entry| entry.modify_index).max().unwrap_or_default()
    }

    /// All entries that start with `prefix`, sorted by key.
    pub fn under<'a, 'p>(&'a self, prefix: &'p str) -> impl Iterator<Item = &'a Entry> + use<'a, 'p> {
        self.entries.range(prefix.to_owned()..).map(|(_, entry)| entry).take_while(move |e| e.key.starts_with(prefix))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawResults {
    results: Option<Vec<RawResult>>,
    errors: Option<Vec<RawRefusal>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct RawResult {
    kv: Option<RawEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRefusal {
    op_index: usize,
    what: String,
}

impl TxnOp {
    /// Whether the operation only reads or checks.
    #[must_use]
    pub(crate) fn is_read(&self) -> bool {
        match self {
            Self::CheckIndex { .. }
            | Self::CheckNotExists { .. }
            | Self::CheckSession { .. }
            | Self::Get { .. }
            | Self::GetTree { .. } => true,
            Self::Cas { .. }
            | Self::Delete { .. }
            | Self::DeleteCas { .. }
            | Self::Lock { .. }
            | Self::Set { .. }
            | Self::Unlock { .. } => false,
        }
    }

    fn to_json(&self) -> Value {
        let operation = match self {
            Self::Cas { key, value, index } => {
                json!({"Verb": "cas", "Key": key, "Value": BASE64.encode(value), "Index": index})
            }
            Self::CheckIndex { key, index } => json!({"Verb": "check-index", "Key": key, "Index": index}),
            Self::CheckNotExists { key } => json!({"Verb": "check-not-exists", "Key": key}),
            Self::CheckSession { key, session } => {
                json!({"Verb": "check-session", "Key": key, "Session": session.as_str()})
            }
            Self::Delete { key } => json!({"Verb": "delete", "Key": key}),
            Self::DeleteCas { key, index } => json!({"Verb": "delete-cas", "Key": key, "Index": index}),
            Self::Get { key } => json!({"Verb": "get", "Key": key}),
            Self::GetTree { prefix } => json!({"Verb": "get-tree", "Key": prefix}),
            Self::Lock { key, value, session } => {
                json!({"Verb": "lock", "Key": key, "Value": BASE64.encode(value), "Session": session.as_str()})
            }
            Self::Set { key, value } => json!({"Verb": "set", "Key": key, "Value": BASE64.encode(value)}),
            Self::Unlock { key, value, session } => {
                json!({"Verb": "unlock", "Key": key, "Value": BASE64.encode(value), "Session": session.as_str()})
            }
        };
        json!({"KV": operation})
    }

    fn key(&self) -> &str {
        match self {
            Self::Cas { key, .. }
            | Self::CheckIndex { key, .. }
            | Self::CheckNotExists { key }
            | Self::CheckSession { key, .. }
            | Self::Delete { key }
            | Self::DeleteCas { key, .. }
            | Self::Get { key }
            | Self::Lock { key, .. }
            | Self::Set { key, .. }
            | Self::Unlock { key, .. } => key,
            Self::GetTree { prefix } => prefix,
        }
    }
}

impl Client {
    /// Runs a transaction: all operations take effect at one position of the log, or none.
    ///
    /// `consistency` only affects transactions that only read; a transaction that writes is always decided in the log. A
    /// missing permission is [`Error::Forbidden`], so [`TxnResult::Refused`] always means that the state differs from what
    /// the caller assumed.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] beyond [`TXN_LIMIT_OPERATIONS`] or [`TXN_LIMIT_BYTES`], before anything is sent;
    /// [`Error::Forbidden`]; for the others see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe if it writes: a cancelled transaction may still take effect. Read again, consistently.
    pub async fn txn(&self, operations: &[TxnOp], consistency: Consistency) -> Result<TxnResult, Error> {
        let read_only = operations.iter().all(TxnOp::is_read);
        let target = operations.first().map_or_else(String::new, |first| match operations.len() {
            1 => first.key().to_owned(),
            several => format!("{} and {} more", first.key(), several - 1),
        });
        let operation = if read_only { Operation::read("txn", target) } else { Operation::write("txn", target) };
        let (size, limit) = (operations.len(), TXN_LIMIT_OPERATIONS);
        if size > limit {
            return Err(Error::TooLarge { operation, size, unit: "operations", limit });
        }
        let body = Value::Array(operations.iter().map(TxnOp::to_json).collect()).to_string();
        let (size, limit) = (body.len(), TXN_LIMIT_BYTES);
        if size > limit {
            return Err(Error::TooLarge { operation, size, unit: "bytes (encoded)", limit });
        }
        let call = Call::put(operation.clone(), "/v1/txn").bytes(body).also(&[409]);
        let answer = self.send(if read_only { call.consistency(consistency) } else { call }).await?;
        decide(&operation, &answer)
    }

    /// Reads keys and prefixes at one position of the log.
    ///
    /// Reading a key also reads all keys that start with it, and drops them here: read keys that are the prefix of few others.
    /// Consul silently leaves out keys that the token may not read.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] beyond [`TXN_LIMIT_OPERATIONS`] reads; else the errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn snapshot(&self, reads: &[Read], consistency: Consistency) -> Result<Snapshot, Error> {
        let operations: Vec<TxnOp> = reads
            .iter()
            .map(|read| match read {
                Read::Key(prefix) | Read::Prefix(prefix) => TxnOp::GetTree { prefix: prefix.clone() },
            })
            .collect();
        let found = match self.txn(&operations, consistency).await? {
            TxnResult::Applied(entries) => entries,
            TxnResult::Refused(refusals) => {
                let what = refusals.first().map_or("", |refusal| refusal.what.as_str());
                let operation = Operation::read("txn", operations.first().map_or("", TxnOp::key));
                return Err(Error::Malformed { operation, problem: format!("a read was refused: {what}") });
            }
        };
        let is_wanted = |key: &str| {
            reads.iter().any(|read| match read {
                Read::Key(wanted) => wanted == key,
                Read::Prefix(prefix) => key.starts_with(prefix.as_str()),
            })
        };
        let entries = found.into_iter().filter(|entry| is_wanted(&entry.key)).map(|entry| (entry.key.clone(), entry));
        Ok(Snapshot { entries: entries.collect() })
    }
}

fn decide(operation: &Operation, answer: &Answer) -> Result<TxnResult, Error> {
    let raw: RawResults = answer.parse(operation)?;
    if answer.status == StatusCode::OK {
        let entries = raw.results.unwrap_or_default().into_iter().filter_map(|result| result.kv);
        return Ok(TxnResult::Applied(entries.map(|entry| entry.decode(operation)).collect::<Result<_, _>>()?));
    }
    let refusals: Vec<Refusal> = raw
        .errors
        .unwrap_or_default()
        .into_iter()
        .map(|RawRefusal { op_index, what }| Refusal { op_index, what: clip(&what) })
        .collect();
    match refusals.iter().find(|refusal| refusal.what.contains("Permission denied")) {
        Some(denied) => Err(Error::Forbidden {
            operation: operation.clone(),
            message: format!("operation {}: {}", denied.op_index, denied.what),
        }),
        None => Ok(TxnResult::Refused(refusals)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_finds_keys_by_prefix_in_order() {
        let snapshot: Snapshot = ["a", "b/1", "b/2", "b0", "c"].map(|key| (key, "")).into_iter().collect();
        assert_eq!(snapshot.under("b/").map(|e| e.key.as_str()).collect::<Vec<_>>(), ["b/1", "b/2"]);
        assert!(snapshot.key("b").is_none());
        assert!(snapshot.key("b0").is_some());
    }
}
