//! Consul as whoever asks sees it: consistent reads, the one conditional write, and failures with a code.

use super::code::{Code, Failure};
use crate::consul::{self, Class, Client, Consistency, Read, TxnOp, TxnResult};
use crate::document::{Entries, Entry};
use crate::protocol::ids::ModifyIndex;

/// Consul's KV store.
#[derive(Clone, Debug)]
pub struct Kv {
    client: Client,
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The key holds the value, written at this index.
    At(ModifyIndex),
    /// The key was written since; nothing was changed.
    Lost,
}

impl From<consul::Error> for Failure {
    fn from(error: consul::Error) -> Self {
        let unknown = error.outcome_unknown();
        let (code, hint) = match error.class() {
            Class::Forbidden => (
                Code::NotAllowed,
                "CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE or --token-file give a token with that right",
            ),
            Class::Transient if unknown => {
                (Code::Unknown, "the write may have happened, or happen yet: look again before asking again")
            }
            Class::Transient => (Code::Unreachable, "CONSUL_HTTP_ADDR or --http-addr say where Consul's agent listens"),
            Class::Permanent if matches!(error, consul::Error::Settings(_)) => {
                (Code::Usage, "see the CONSUL_* variables, and the flags under \"Consul\" in --help")
            }
            Class::Fenced | Class::Permanent => {
                return Self::new(Code::Failed, "Consul refuses").caused_by(error);
            }
        };
        Self::new(code, "Consul cannot be used").caused_by(error).hint(hint)
    }
}

impl From<consul::Entry> for Entry {
    fn from(entry: consul::Entry) -> Self {
        Self {
            value: entry.value,
            modify_index: entry.modify_index,
            session: entry.session.map(|session| session.as_str().to_owned()),
        }
    }
}

/// Entries by key.
pub(super) fn by_key(entries: impl IntoIterator<Item = consul::Entry>) -> Entries {
    entries.into_iter().map(|entry| (entry.key.clone(), Entry::from(entry))).collect()
}

impl Kv {
    /// Over this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client itself, for what is no key.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// One key, read consistently.
    ///
    /// # Errors
    ///
    /// Exit code 7 without the right, 8 without an answer.
    pub async fn entry(&self, key: &str) -> Result<Option<Entry>, Failure> {
        Ok(self.client.kv_get(key, Consistency::Consistent).await?.map(Entry::from))
    }

    /// Every key under `prefix`, read consistently. What the token may not read is missing without a word.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub async fn entries(&self, prefix: &str) -> Result<Entries, Failure> {
        Ok(by_key(self.client.kv_list(prefix, Consistency::Consistent).await?))
    }

    /// The names of the keys under `prefix`. What the token may not read is missing without a word.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub async fn names(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        Ok(self.client.kv_keys(prefix, Consistency::Consistent).await?)
    }

    /// The names right below `prefix`, which ends in `/`: of keys, and of folders with a `/` at their end. What the token
    /// may not read is missing without a word.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub async fn names_in(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        Ok(self.client.kv_names_in(prefix, Consistency::Consistent).await?)
    }

    /// Keys and prefixes (those that end in `/`) as they stood at one moment.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub async fn at_one_moment(&self, keys: &[String]) -> Result<Entries, Failure> {
        let reads: Vec<Read> = keys
            .iter()
            .map(|key| if key.ends_with('/') { Read::Prefix(key.clone()) } else { Read::Key(key.clone()) })
            .collect();
        let snapshot = self.client.snapshot(&reads, Consistency::Consistent).await?;
        let mut entries = Entries::new();
        for key in keys {
            if key.ends_with('/') {
                entries.extend(by_key(snapshot.under(key).cloned()));
            } else if let Some(entry) = snapshot.key(key) {
                entries.insert(key.clone(), entry.clone().into());
            }
        }
        Ok(entries)
    }

    /// The first of `keys` that the token may not write and remove; none: it may all of them. To ask that a key is not
    /// there takes the same right, and changes nothing. One by one, so that the key can be named.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`], but for exit code 7.
    pub async fn unwritable(&self, keys: impl IntoIterator<Item = String>) -> Result<Option<String>, Failure> {
        for key in keys {
            match self.client.txn(&[TxnOp::CheckNotExists { key: key.clone() }], Consistency::Consistent).await {
                Ok(_) => {}
                Err(error) if error.class() == Class::Forbidden => return Ok(Some(key)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Writes `key` if it still stands at `index`; 0: if it does not exist.
    ///
    /// By a transaction, whose answer carries the index of the write: a plain check-and-set would need a second read,
    /// and the key may be another's by then.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`]; exit code 5 where it cannot be told whether the write happened.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may have happened, or happen yet.
    pub async fn replace(&self, key: &str, value: &str, index: ModifyIndex) -> Result<Replaced, Failure> {
        let write = TxnOp::Cas { key: key.to_owned(), value: value.as_bytes().to_vec(), index };
        match self.client.txn(&[write], Consistency::Default).await {
            Ok(TxnResult::Applied(entries)) => match entries.first() {
                Some(entry) => Ok(Replaced::At(entry.modify_index)),
                None => self.find_written(key, value).await?.ok_or_else(|| unknown(key)),
            },
            Ok(TxnResult::Refused(_)) => Ok(Replaced::Lost),
            Err(error) if error.outcome_unknown() => match self.find_written(key, value).await {
                Ok(Some(replaced)) => Ok(replaced),
                Ok(None) | Err(_) => Err(unknown(key).caused_by(error)),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The write whose answer was lost, if it stands: values of ours carry an id or an epoch, so equal is the same.
    async fn find_written(&self, key: &str, value: &str) -> Result<Option<Replaced>, Failure> {
        let entry = self.entry(key).await?.filter(|entry| entry.value == value.as_bytes());
        Ok(entry.map(|entry| Replaced::At(entry.modify_index)))
    }
}

fn unknown(key: &str) -> Failure {
    Failure::new(Code::Unknown, format!("it is not known whether {key} was written"))
        .hint("`cutover status` and `cutover history` tell; look before asking again")
}
