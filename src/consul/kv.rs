//! Keys and values: read, list, put, check-and-set, lock, delete.
//!
//! Values are bytes; Consul accepts up to 512 KiB. Simple writes use `rs-consul` (exceptions are in the module's documentation),
//! reads and deletes use our own calls.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use serde::Deserialize;

use super::client::{Call, Client, Consistency, escape, key_path};
use super::error::{Error, Operation};
use super::rs_client::RsWrite;
use super::session::SessionId;
use crate::protocol::ids::ModifyIndex;

/// The largest value that Consul accepts, in bytes (default of `kv_max_value_size`; measured: one more byte gives a 413).
pub const VALUE_LIMIT_BYTES: usize = 512 * 1024;

/// One key with its value, at one position of Consul's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key, without a leading slash.
    pub key: String,
    /// The value; empty in the results of a transaction's writes.
    pub value: Vec<u8>,
    /// The position of the last write.
    pub modify_index: ModifyIndex,
    /// The position of the creation.
    pub create_index: ModifyIndex,
    /// A number for the use of the writer.
    pub(crate) flags: u64,
    /// The session that holds the key as a lock; none if the key is not locked.
    pub session: Option<SessionId>,
}

/// An entry as Consul writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawEntry {
    key: String,
    value: Option<String>,
    modify_index: u64,
    create_index: u64,
    flags: u64,
    session: Option<String>,
}

impl RawEntry {
    pub(super) fn decode(self, operation: &Operation) -> Result<Entry, Error> {
        let value = BASE64.decode(self.value.unwrap_or_default()).map_err(|e| Error::Malformed {
            operation: operation.clone(),
            problem: format!("the value of {} is not base64: {e}", self.key),
        })?;
        Ok(Entry {
            key: self.key,
            value,
            modify_index: ModifyIndex(self.modify_index),
            create_index: ModifyIndex(self.create_index),
            flags: self.flags,
            session: self.session.filter(|id| !id.is_empty()).map(SessionId::new),
        })
    }
}

/// The condition of a write.
#[derive(Clone, Copy)]
enum Condition<'a> {
    None,
    Index(ModifyIndex),
    Acquire(&'a SessionId),
    Release(&'a SessionId),
}

impl Client {
    /// Reads one key.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] without permission to read it; else the errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn kv_get(&self, key: &str, consistency: Consistency) -> Result<Option<Entry>, Error> {
        let operation = Operation::read("kv get", key);
        let call = Call::get(operation.clone(), kv_path(&operation, key)?).consistency(consistency).also(&[404]);
        let answer = self.send(call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(decode_all(&operation, answer.parse(&operation)?)?.into_iter().find(|entry| entry.key == key))
    }

    /// Reads every key under a prefix, sorted by key. A prefix without a trailing `/` also matches its siblings.
    ///
    /// Consul silently leaves out keys that the token may not read, so the list can even be empty.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn kv_list(&self, prefix: &str, consistency: Consistency) -> Result<Vec<Entry>, Error> {
        let operation = Operation::read("kv list", prefix);
        let path = format!("/v1/kv/{}", key_path(prefix));
        let call = Call::get(operation.clone(), path).flag("recurse").consistency(consistency).also(&[404]);
        let answer = self.send(call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        decode_all(&operation, answer.parse(&operation)?)
    }

    /// The names of the keys under a prefix, sorted, as [`Client::kv_list`] finds them.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn kv_keys(&self, prefix: &str, consistency: Consistency) -> Result<Vec<String>, Error> {
        self.names(prefix, |call| call, consistency).await
    }

    /// Like [`Client::kv_keys`], but only down to the next `/`: everything below that is one name with a trailing `/`.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub(crate) async fn kv_names_in(&self, prefix: &str, consistency: Consistency) -> Result<Vec<String>, Error> {
        self.names(prefix, |call| call.param("separator", "/"), consistency).await
    }

    async fn names(
        &self,
        prefix: &str,
        cut: impl FnOnce(Call) -> Call + Send,
        consistency: Consistency,
    ) -> Result<Vec<String>, Error> {
        let operation = Operation::read("kv keys", prefix);
        let path = format!("/v1/kv/{}", key_path(prefix));
        let call = cut(Call::get(operation.clone(), path).flag("keys")).consistency(consistency).also(&[404]);
        let answer = self.send(call).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(Vec::new()) } else { answer.parse(&operation) }
    }

    /// The index of the last change under a prefix. Includes deletions as long as Consul remembers them, 15 minutes. After that
    /// it is the newest change of the remaining keys, which may be older than the deletion. Without any key it is an index of
    /// the whole store, which is higher.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub(crate) async fn kv_changed(&self, prefix: &str, consistency: Consistency) -> Result<ModifyIndex, Error> {
        let operation = Operation::read("kv changed", prefix);
        let path = format!("/v1/kv/{}", key_path(prefix));
        let call = Call::get(operation.clone(), path).flag("keys").consistency(consistency).also(&[404]);
        let answer = self.send(call).await?;
        Ok(ModifyIndex(answer.index.unwrap_or_default()))
    }

    /// Writes a key unconditionally. Writing the same bytes again does not change the index.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`], [`Error::TooLarge`]; for the others see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may still take effect. Read again, consistently.
    pub async fn kv_put(&self, key: &str, value: impl AsRef<[u8]> + Send) -> Result<(), Error> {
        let operation = Operation::write("kv put", key);
        if self.write(operation.clone(), key, value.as_ref(), Condition::None).await? {
            return Ok(());
        }
        let problem = "it reports that an unconditional write failed".to_owned();
        Err(Error::Malformed { operation, problem })
    }

    /// Writes a key if its index is still `index`; with index 0, if it does not exist. `false` if not: nothing was written.
    ///
    /// Writing the value that is already there succeeds without changing the index, so a repeat succeeds again.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`], [`Error::TooLarge`]; for the others see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may still take effect. Read again, consistently.
    pub async fn kv_cas(&self, key: &str, value: impl AsRef<[u8]> + Send, index: ModifyIndex) -> Result<bool, Error> {
        self.write(Operation::write("kv cas", key), key, value.as_ref(), Condition::Index(index)).await
    }

    /// Locks a key for a session and writes it; for the holder it only writes. `false` if another session holds it. A failed
    /// attempt costs a write in Consul's log, so read the key first.
    ///
    /// The lock is advisory: anyone can still write the key. Writes that depend on the lock must be in a transaction with
    /// [`super::TxnOp::CheckSession`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSession`] if the session has ended, [`Error::Forbidden`], [`Error::TooLarge`]; for the others see
    /// [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled acquire may still take effect. Read again, consistently.
    pub async fn kv_acquire(
        &self,
        key: &str,
        value: impl AsRef<[u8]> + Send,
        session: &SessionId,
    ) -> Result<bool, Error> {
        self.write(Operation::write("kv acquire", key), key, value.as_ref(), Condition::Acquire(session)).await
    }

    /// Releases a lock and writes `value`. Others can acquire it at once (unlike after the end of a session, there is no
    /// lock-delay). `false` if this session does not hold it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`], [`Error::TooLarge`]; for the others see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled release may still take effect. Read again, consistently.
    pub async fn kv_release(
        &self,
        key: &str,
        value: impl AsRef<[u8]> + Send,
        session: &SessionId,
    ) -> Result<bool, Error> {
        self.write(Operation::write("kv release", key), key, value.as_ref(), Condition::Release(session)).await
    }

    /// Deletes exactly this key if its index is still `index`. `false` if it was written since.
    ///
    /// Avoids two pitfalls of Consul: the parameter `recurse`, even `recurse=false`, deletes the whole prefix (`rs-consul` always
    /// sends it), and index 0 never deletes anything. A third one remains: a key that is already gone counts as deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for index 0, [`Error::Forbidden`]; for the others see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled delete may still take effect. Read again, consistently.
    pub async fn kv_delete_cas(&self, key: &str, index: ModifyIndex) -> Result<bool, Error> {
        let operation = Operation::write("kv delete", key);
        if index.0 == 0 {
            return Err(Error::Refused { operation, problem: "a delete needs the key's index; 0 deletes nothing" });
        }
        let path = kv_path(&operation, key)?;
        self.fetch(Call::delete(operation, path).param("cas", &index.to_string())).await
    }

    async fn write(
        &self,
        operation: Operation,
        key: &str,
        value: &[u8],
        condition: Condition<'_>,
    ) -> Result<bool, Error> {
        let path = kv_path(&operation, key)?;
        if value.len() > VALUE_LIMIT_BYTES {
            let (size, limit) = (value.len(), VALUE_LIMIT_BYTES);
            return Err(Error::TooLarge { operation, size, unit: "bytes", limit });
        }
        let Some(rs) = self.rs() else {
            let call = Call::put(operation, path).bytes(value.to_vec());
            let call = match condition {
                Condition::None => call,
                Condition::Index(index) => call.param("cas", &index.to_string()),
                Condition::Acquire(session) => call.param("acquire", session.as_str()),
                Condition::Release(session) => call.param("release", session.as_str()),
            };
            return self.fetch(call).await;
        };
        let path = key_path(key);
        let write = RsWrite { path: &path, value: value.to_vec(), ..RsWrite::default() };
        let write = match condition {
            Condition::None => write,
            Condition::Index(index) => RsWrite { index: Some(index), ..write },
            Condition::Acquire(session) => RsWrite { acquire: escape(session.as_str()), ..write },
            Condition::Release(session) => RsWrite { release: escape(session.as_str()), ..write },
        };
        self.within_limit(operation.clone(), rs.write(operation, write)).await
    }
}

/// The path of one key. An empty key is refused, because it would mean the whole store.
pub(super) fn kv_path(operation: &Operation, key: &str) -> Result<String, Error> {
    if key.is_empty() || key.starts_with('/') {
        let operation = operation.clone();
        return Err(Error::Refused { operation, problem: "a key must not be empty or start with a slash" });
    }
    Ok(format!("/v1/kv/{}", key_path(key)))
}

pub(super) fn decode_all(operation: &Operation, raw: Vec<RawEntry>) -> Result<Vec<Entry>, Error> {
    raw.into_iter().map(|entry| entry.decode(operation)).collect()
}
