//! Consul's KV store with the caller's rights: consistent reads, one conditional write, and failures with an exit code.

use super::code::{Code, Failure};
use crate::consul::{self, Class, Client, Consistency, Read, TxnOp, TxnResult};
use crate::document::{Entries, Entry, units_in};
use crate::protocol::ids::{ModifyIndex, Unit};
use crate::protocol::keys::Keys;
use crate::protocol::record::{FORMAT, RecordError, check_format, newer_agents, upgrade_hint};

/// Consul's KV store with the caller's token.
#[derive(Clone, Debug)]
pub(crate) struct Kv {
    client: Client,
    keys: Keys,
}

/// The outcome of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// The key holds the value, written at this index.
    At(ModifyIndex),
    /// Nothing was written: the key changed since it was read.
    Lost,
}

impl From<consul::Error> for Failure {
    fn from(error: consul::Error) -> Self {
        let unknown = error.outcome_unknown();
        let (code, hint) = match error.class() {
            Class::Forbidden => (
                Code::NotAllowed,
                "set a token with that right, with CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE or --token-file",
            ),
            Class::Transient if unknown => {
                (Code::Unknown, "the write may or may not have happened: check `cutover status` before you retry")
            }
            Class::Transient => {
                (Code::Unreachable, "is Consul's agent running? CONSUL_HTTP_ADDR or --http-addr sets its address")
            }
            Class::Permanent if matches!(error, consul::Error::Settings(_)) => {
                (Code::Usage, "check the CONSUL_* variables, and the flags under \"Consul\" in --help")
            }
            Class::Fenced | Class::Permanent => {
                return Self::new(Code::Failed, "Consul refused the call").caused_by(error);
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

/// The error for the first entry that a newer program wrote.
fn first_newer(entries: &Entries) -> Option<RecordError> {
    entries.iter().find_map(|(key, entry)| check_format(key, &entry.value, FORMAT).err())
}

pub(super) fn by_key(entries: impl IntoIterator<Item = consul::Entry>) -> Entries {
    entries.into_iter().map(|entry| (entry.key.clone(), Entry::from(entry))).collect()
}

impl Kv {
    #[must_use]
    pub(crate) const fn new(client: Client, keys: Keys) -> Self {
        Self { client, keys }
    }

    /// The client, for sessions, the catalog and transactions.
    #[must_use]
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// One key, read consistently.
    ///
    /// # Errors
    ///
    /// Exit code 7 without the right, 8 without an answer, 1 if a newer program wrote the record.
    pub(crate) async fn entry(&self, key: &str) -> Result<Option<Entry>, Failure> {
        let entry = self.client.kv_get(key, Consistency::Consistent).await?.map(Entry::from);
        match entry.as_ref().map(|entry| check_format(key, &entry.value, FORMAT)) {
            Some(Err(newer)) => Err(self.newer(newer).await),
            Some(Ok(())) | None => Ok(entry),
        }
    }

    /// Refuses records that a newer program wrote, because a command would omit or overwrite them.
    ///
    /// # Errors
    ///
    /// Exit code 1, with the names of nodes whose agents are newer.
    pub(crate) async fn readable(&self, entries: &Entries) -> Result<(), Failure> {
        match first_newer(entries) {
            Some(newer) => Err(self.newer(newer).await),
            None => Ok(()),
        }
    }

    /// The failure for a record that a newer program wrote. If the nodes cannot be read, the hint does not name them.
    async fn newer(&self, error: RecordError) -> Failure {
        let agents = self.newer_agents(error.key()).await.unwrap_or_default();
        let hint = format!("nothing was changed; {}", upgrade_hint(&agents));
        Failure::new(Code::Failed, "a newer Cutover wrote this record").caused_by(error).hint(hint)
    }

    /// The unit of a key, or every unit of the app if the key belongs to the app.
    fn units_of(&self, key: &str, names: &[String]) -> Vec<Unit> {
        let units = units_in(self.keys.prefix(), names.iter().map(String::as_str));
        let (own, of_app): (Vec<Unit>, Vec<Unit>) = units
            .into_iter()
            .filter(|unit| key.starts_with(&format!("{}{}/", self.keys.prefix(), unit.app)))
            .partition(|unit| key.starts_with(self.keys.unit(unit).prefix()));
        if own.is_empty() { of_app } else { own }
    }

    /// The nodes with newer agents in the units of a key.
    async fn newer_agents(&self, key: &str) -> Result<Vec<String>, consul::Error> {
        let known = self.client.kv_keys(self.keys.prefix(), Consistency::Consistent).await?;
        let mut agents = Vec::new();
        for unit in self.units_of(key, &known) {
            let prefix = self.keys.unit(&unit).nodes();
            let nodes = self.client.kv_list(&prefix, Consistency::Consistent).await?;
            let entries = nodes.iter().filter_map(|it| Some((it.key.strip_prefix(&prefix)?, it.value.as_slice())));
            agents.extend(newer_agents(entries));
        }
        agents.sort();
        agents.dedup();
        Ok(agents)
    }

    /// Every key under `prefix`, read consistently. Keys the token may not read are silently left out.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub(crate) async fn entries(&self, prefix: &str) -> Result<Entries, Failure> {
        let entries = by_key(self.client.kv_list(prefix, Consistency::Consistent).await?);
        self.readable(&entries).await?;
        Ok(entries)
    }

    /// The names of the keys under `prefix`. Keys the token may not read are silently left out.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub(crate) async fn names(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        Ok(self.client.kv_keys(prefix, Consistency::Consistent).await?)
    }

    /// The names directly under `prefix`, which ends in `/`: keys, and folders, which end in `/`. Keys the token may
    /// not read are silently left out.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub(crate) async fn names_in(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        Ok(self.client.kv_names_in(prefix, Consistency::Consistent).await?)
    }

    /// Reads keys, and prefixes (those that end in `/`), at one index of Consul's log.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`].
    pub(crate) async fn at_one_moment(&self, keys: &[String]) -> Result<Entries, Failure> {
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
        self.readable(&entries).await?;
        Ok(entries)
    }

    /// The first of `keys` that the token may not write or remove; none if it may write all of them. Uses a transaction
    /// that checks that the key does not exist: it needs the write right and changes nothing. One call per key, so that
    /// the key can be named.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`], without exit code 7.
    pub(crate) async fn unwritable(&self, keys: impl IntoIterator<Item = String>) -> Result<Option<String>, Failure> {
        for key in keys {
            match self.client.txn(&[TxnOp::CheckNotExists { key: key.clone() }], Consistency::Consistent).await {
                Ok(_) => {}
                Err(error) if error.class() == Class::Forbidden => return Ok(Some(key)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Writes `key` if its index is still `index`; 0: if it does not exist.
    ///
    /// Uses a transaction, because its answer contains the index of the write. A plain check-and-set would need a second
    /// read, and another client may have written the key by then.
    ///
    /// # Errors
    ///
    /// As [`Kv::entry`]; exit code 5 if it is unknown whether the write happened.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may have happened, or may still happen.
    pub(crate) async fn replace(&self, key: &str, value: &str, index: ModifyIndex) -> Result<Replaced, Failure> {
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

    /// Finds the write after its answer was lost. Values contain an id or an epoch, so an equal value is this write.
    async fn find_written(&self, key: &str, value: &str) -> Result<Option<Replaced>, Failure> {
        let entry = self.entry(key).await?.filter(|entry| entry.value == value.as_bytes());
        Ok(entry.map(|entry| Replaced::At(entry.modify_index)))
    }
}

fn unknown(key: &str) -> Failure {
    Failure::new(Code::Unknown, format!("it is not known whether {key} was written"))
        .hint("check `cutover status` and `cutover history` before you retry")
}
