//! `.cutover/state.json` and `.cutover/origin.json`: the agent's state, which must be durable before anything is published.
//!
//! Each file contains one value, which is always replaced as a whole: write a temporary file, sync it, rename it over the old
//! one, sync the directory. A checksum detects bit rot and manual edits. There is deliberately no older copy to fall back to:
//! with an older floor the node could break a promise, so damage is reported and the agent rebuilds the state from Consul.

use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files;
use crate::kind::HasKind;
use crate::protocol::journal::Journal;
use crate::protocol::participant::Receipt;
use crate::protocol::record::{RecordError, check_format};

/// The only format that this program reads and writes.
const FORMAT: u32 = 1;

/// One durable value of a deploy directory. See [`super::Site::ledger`] and [`super::Site::origin_ledger`].
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
    scratch: PathBuf,
    name: &'static str,
}

/// The content of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loaded<T> {
    /// No value was ever stored.
    Absent,
    /// The file was changed after it was stored; the text explains how. A copy of the file is kept.
    Damaged(String),
    /// The value stored last.
    Intact(T),
}

/// Proof that a state is on disk. Only [`Ledger::store`] creates one; functions that publish the state require it.
#[derive(Debug)]
#[must_use = "what was persisted may now be published"]
pub(crate) struct Persisted<T>(PhantomData<T>);

/// No other type of the product is a receipt, so nothing that follows from a journal is published before the journal is on
/// disk.
impl Receipt for Persisted<Journal> {}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// A newer agent wrote the file. The file is not damaged, and is never overwritten.
    #[error(transparent)]
    Newer(RecordError),
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file cannot be written. After a crash it contains the old or the new state.
    #[error("{} cannot be written durably", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The state cannot be written as JSON: a bug.
    #[error("the state cannot be written as JSON")]
    State(#[source] serde_json::Error),
}

impl HasKind for LedgerError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Newer(_) => "newer",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::State(_) => "state",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: u32,
    sha256: String,
    state: serde_json::Value,
}

fn checksum(state: &serde_json::Value) -> String {
    hex::encode(Sha256::digest(state.to_string().as_bytes()))
}

impl Ledger {
    pub(super) fn new(dir: PathBuf, scratch: PathBuf, name: &'static str) -> Self {
        Self { dir, scratch, name }
    }

    /// Reads the last stored value.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] if the disk returns an error, [`LedgerError::Newer`] for a file of a newer agent,
    /// [`LedgerError::Write`] if the copy of a damaged file cannot be written. A damaged file itself gives
    /// [`Loaded::Damaged`].
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Result<Loaded<T>, LedgerError> {
        let path = self.dir.join(self.name);
        let Some(bytes) = self.bytes()? else { return Ok(Loaded::Absent) };
        match open(&bytes) {
            Ok(state) => Ok(Loaded::Intact(state)),
            Err(problem) => {
                // Before anything else: the caller overwrites the file as soon as it has rebuilt the state.
                self.keep_damaged(&bytes)?;
                tracing::warn!(file = %path.display(), kind = problem.kind(), "{} is damaged: {problem}; a copy is kept as {}.damaged", path.display(), self.name);
                Ok(Loaded::Damaged(format!("{}: {problem}", path.display())))
            }
        }
    }

    /// The bytes of the file; an error if a newer agent wrote it.
    fn bytes(&self) -> Result<Option<Vec<u8>>, LedgerError> {
        let path = self.dir.join(self.name);
        let bytes = files::read_if_there(&path).map_err(|source| LedgerError::Read { path: path.clone(), source })?;
        if let Some(bytes) = &bytes {
            check_format(&path.display().to_string(), bytes, FORMAT).map_err(LedgerError::Newer)?;
        }
        Ok(bytes)
    }

    /// Keeps a copy of the damaged file for analysis.
    fn keep_damaged(&self, bytes: &[u8]) -> Result<(), LedgerError> {
        let name = format!("{}.damaged", self.name);
        files::write_durably(&self.scratch, &self.dir, &name, bytes)
            .map_err(|source| LedgerError::Write { path: self.dir.join(name), source })
    }

    /// Stores a state; when this returns, it survives a loss of power.
    ///
    /// # Errors
    ///
    /// Any [`LedgerError`]: the state counts as not stored, and nothing that depends on it may be published.
    pub(crate) fn store<T: Serialize>(&self, state: &T) -> Result<Persisted<T>, LedgerError> {
        // A newer agent may have written the file in the meantime.
        let _readable = self.bytes()?;
        let state = serde_json::to_value(state).map_err(LedgerError::State)?;
        let envelope = Envelope { format: FORMAT, sha256: checksum(&state), state };
        let mut text = serde_json::to_string(&envelope).map_err(LedgerError::State)?;
        text.push('\n');
        files::write_durably(&self.scratch, &self.dir, self.name, text.as_bytes())
            .map_err(|source| LedgerError::Write { path: self.dir.join(self.name), source })?;
        Ok(Persisted(PhantomData))
    }
}

/// How a file is damaged.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("its checksum does not match its content")]
    Checksum,
    #[error("it has format {0}, which no agent writes")]
    Format(u32),
    #[error("it is not a ledger: {0}")]
    NotALedger(serde_json::Error),
    #[error("it contains a different kind of state: {0}")]
    OtherState(serde_json::Error),
}

impl HasKind for Damage {
    fn kind(&self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::Format(_) => "format",
            Self::NotALedger(_) => "not_a_ledger",
            Self::OtherState(_) => "other_state",
        }
    }
}

fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(Damage::NotALedger)?;
    if envelope.format != FORMAT {
        return Err(Damage::Format(envelope.format));
    }
    if checksum(&envelope.state) != envelope.sha256 {
        return Err(Damage::Checksum);
    }
    serde_json::from_value(envelope.state).map_err(Damage::OtherState)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    type State = BTreeMap<String, u64>;
    const NAME: &str = "state.json";

    fn ledger(dir: &tempfile::TempDir) -> Ledger {
        let scratch = dir.path().join("tmp");
        fs::create_dir_all(&scratch).unwrap();
        Ledger::new(dir.path().to_owned(), scratch, NAME)
    }

    #[test]
    fn the_last_stored_value_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(&dir);
        assert_eq!(ledger.load::<State>().unwrap(), Loaded::Absent);
        for n in 0..3 {
            let state = State::from([("b".to_owned(), n), ("a".to_owned(), u64::MAX)]);
            let _receipt = ledger.store(&state).unwrap();
            assert_eq!(ledger.load::<State>().unwrap(), Loaded::Intact(state));
        }
    }

    #[test]
    fn a_truncated_or_corrupted_ledger_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(&dir);
        let state = State::from([("epoch".to_owned(), 512)]);
        let _receipt = ledger.store(&state).unwrap();
        let path = dir.path().join(NAME);
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() - 2 {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(matches!(ledger.load::<State>().unwrap(), Loaded::Damaged(_)), "cut at {cut}");
        }
        for bit in 0..(good.len() - 1) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            // A flip within the format's digit can only look like the file of a newer agent, which is left alone.
            match ledger.load::<State>() {
                Ok(Loaded::Damaged(_)) => {}
                Err(LedgerError::Newer(_)) if good[..=bit / 8].ends_with(b"{\"format\":1") => {}
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_damaged_ledger_is_kept_beside_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(&dir);
        fs::write(dir.path().join(NAME), b"{\"format\":1,").unwrap();
        assert!(matches!(ledger.load::<State>().unwrap(), Loaded::Damaged(_)));
        let _receipt = ledger.store(&State::default()).unwrap();
        assert_eq!(fs::read(dir.path().join("state.json.damaged")).unwrap(), b"{\"format\":1,");
        assert_eq!(ledger.load::<State>().unwrap(), Loaded::Intact(State::default()));
    }

    #[test]
    fn a_newer_ledger_is_not_damaged_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(&dir);
        let newer: &[u8] = br#"{"format":2,"state":["an","other","shape"],"signed":{"by":"x"}}"#;
        let path = dir.path().join(NAME);
        fs::write(&path, newer).unwrap();
        let is_newer = |error: LedgerError| match error {
            LedgerError::Newer(RecordError::Newer { key, found: 2, readable: 1 }) => key.ends_with(NAME),
            other => panic!("{other:?}"),
        };
        assert!(is_newer(ledger.load::<State>().unwrap_err()));
        assert!(is_newer(ledger.store(&State::default()).unwrap_err()));
        assert_eq!(fs::read(&path).unwrap(), newer);
        assert!(!dir.path().join("state.json.damaged").exists());
    }
}
