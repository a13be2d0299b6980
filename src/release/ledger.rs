//! `.cutover/state.json` and `.cutover/origin.json`: what the agent must not forget, durable before anything is said in public.
//!
//! One value, replaced whole: written beside, synced, renamed over, the directory synced. A checksum tells rot and a
//! hand's edits apart from what was stored. There is no second, older copy to fall back to: an older floor would let
//! the node break a promise that it has given, so damage is reported, and the agent rebuilds what it can from Consul.

use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files;

/// The form of the file.
const FORMAT: u32 = 1;

/// One value of a deploy directory. Made by [`super::Site::ledger`] and [`super::Site::origin_ledger`].
#[derive(Clone, Debug)]
pub struct Ledger {
    dir: PathBuf,
    scratch: PathBuf,
    name: &'static str,
}

/// What the ledger holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// Nothing was ever stored here.
    Absent,
    /// The file is there, and is not what was stored; the text says why.
    Damaged(String),
    /// What was stored last.
    Intact(T),
}

/// Proof that a state is on disk. Only [`Ledger::store`] makes one; whoever publishes asks for it.
#[derive(Debug)]
#[must_use = "what was persisted may now be published"]
pub struct Persisted(());

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written; what it holds after a crash is the old or the new state.
    #[error("{} cannot be written durably", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state cannot be written as JSON: a fault of the program.
    #[error("the state cannot be written as JSON")]
    State(#[source] serde_json::Error),
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

    /// Reads what was stored last.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] when the disk does not answer. A file that is not what was stored is no error but
    /// [`Loaded::Damaged`].
    pub fn load<T: DeserializeOwned>(&self) -> Result<Loaded<T>, LedgerError> {
        let path = self.dir.join(self.name);
        let bytes = match files::read_if_there(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Loaded::Absent),
            Err(source) => return Err(LedgerError::Read { path, source }),
        };
        Ok(match open(&bytes) {
            Ok(state) => Loaded::Intact(state),
            Err(problem) => Loaded::Damaged(format!("{}: {problem}", path.display())),
        })
    }

    /// Stores a state; when this returns, it survives a loss of power.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Write`]: the state must be taken as not stored, and nothing that rests on it may be published.
    pub fn store<T: Serialize>(&self, state: &T) -> Result<Persisted, LedgerError> {
        let state = serde_json::to_value(state).map_err(LedgerError::State)?;
        let envelope = Envelope { format: FORMAT, sha256: checksum(&state), state };
        let mut text = serde_json::to_string(&envelope).map_err(LedgerError::State)?;
        text.push('\n');
        files::write_durably(&self.scratch, &self.dir, self.name, text.as_bytes())
            .map_err(|source| LedgerError::Write { path: self.dir.join(self.name), source })?;
        Ok(Persisted(()))
    }
}

fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| format!("is not a ledger: {e}"))?;
    if envelope.format != FORMAT {
        return Err(format!("has format {}, this agent reads {FORMAT}", envelope.format));
    }
    if checksum(&envelope.state) != envelope.sha256 {
        return Err("its checksum does not match its content".to_owned());
    }
    serde_json::from_value(envelope.state).map_err(|e| format!("holds another state than this agent's: {e}"))
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
    fn what_was_stored_last_is_loaded() {
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
    fn a_torn_or_flipped_ledger_is_never_taken_for_intact() {
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
            match ledger.load::<State>().unwrap() {
                Loaded::Damaged(_) => {}
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }
}
