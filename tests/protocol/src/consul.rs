//! Consul's keys, sessions, and transactions, as one value without network, disk or clock.
//!
//! `tests/consul/fake.rs` proves that this behaves as Consul 1.8: it runs the same random operations here and on a real
//! agent, and compares every result and every key after each.
//!
//! Each command is one entry of the Raft log and takes one [`Index`], whether it applies or is refused; only a renewal
//! takes none. Non-goals: ACLs, lock-delay, flags, and the reaping of tombstones. Delays, lost answers and stale reads
//! between a client and the leader belong to the simulator.

#[path = "consul/sessions.rs"]
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

pub(crate) use self::sessions::Behavior;
use self::sessions::Lease;

/// A position in the Raft log.
pub(crate) type Index = u64;

/// A session's id. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Session(pub(crate) u64);

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Arc<[u8]>,
    pub(crate) create_index: Index,
    /// The last change. Writing the same bytes again changes nothing.
    pub(crate) modify_index: Index,
    /// The number of acquisitions. A plain write sets it to 0, even while a session holds the key, so it is no fencing token.
    pub(crate) lock_index: u64,
    pub(crate) holder: Option<Session>,
}

/// One operation, alone or in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Index 0: only where the key is absent.
    Cas {
        key: String,
        value: Arc<[u8]>,
        index: Index,
    },
    CheckIndex {
        key: String,
        index: Index,
    },
    CheckNotExists {
        key: String,
    },
    CheckSession {
        key: String,
        session: Session,
    },
    Delete {
        key: String,
    },
    /// An absent key passes.
    DeleteCas {
        key: String,
        index: Index,
    },
    DeleteTree {
        prefix: String,
    },
    Get {
        key: String,
    },
    GetTree {
        prefix: String,
    },
    Lock {
        key: String,
        value: Arc<[u8]>,
        session: Session,
    },
    Set {
        key: String,
        value: Arc<[u8]>,
    },
    Unlock {
        key: String,
        value: Arc<[u8]>,
        session: Session,
    },
}

/// Why an operation does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Absent,
    Exists,
    Held,
    IndexCheck,
    InvalidSession,
    NotHeld,
    SessionCheck,
    Stale,
}

impl Why {
    /// A part of Consul's own message.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Absent => "doesn't exist",
            Self::Exists => "exists",
            Self::Held => "lock is already held",
            Self::IndexCheck => "failed index check",
            Self::InvalidSession => "invalid session",
            Self::NotHeld => "lock isn't held, or is held by another session",
            Self::SessionCheck => "failed session check",
            Self::Stale => "index is stale",
        }
    }
}

/// One operation of a transaction that did not hold, by its position.
pub(crate) type Refusal = (usize, Why);

/// The entries that an operation read or wrote.
type Found = Vec<(String, Entry)>;

/// A change that a refused transaction takes back.
#[derive(Clone, Debug)]
enum Undo {
    Key(String, Option<Entry>),
    Tombstone(String, Option<Index>),
}

/// The store. A clone of it is a snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consul {
    index: Index,
    entries: BTreeMap<String, Entry>,
    /// The indexes at which keys and prefixes were last deleted.
    tombstones: BTreeMap<String, Index>,
    /// The index at which any key was last changed or deleted.
    table: Index,
    sessions: BTreeMap<Session, Lease>,
    /// The number of sessions that were ever created.
    made: u64,
    nodes: BTreeSet<String>,
    undo: Vec<Undo>,
    /// How much sooner than twice its TTL a session ends, in percent of one TTL.
    hurry: u32,
}

impl Consul {
    /// The newest index of the log.
    pub(crate) const fn index(&self) -> Index {
        self.index
    }

    /// Adds entries of the log that touch no key here: writes elsewhere.
    pub(crate) const fn pass(&mut self, entries: u64) {
        self.index += entries;
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Every entry under a prefix, by its whole key.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let from = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, entry)| (key.as_str(), entry))
    }

    /// `X-Consul-Index` of a key. A blocking query wakes when this rises; for an absent key it rises at every change of any
    /// key.
    pub(crate) fn index_of(&self, key: &str) -> Index {
        self.entries.get(key).map_or(self.table.max(1), |entry| entry.modify_index)
    }

    /// `X-Consul-Index` of a prefix: deletions under it count, and where nothing is under it, every change of any key.
    pub(crate) fn index_under(&self, prefix: &str) -> Index {
        if prefix.is_empty() {
            return self.table.max(1);
        }
        let deleted = self
            .tombstones
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let newest = self.under(prefix).map(|(_, entry)| entry.modify_index).chain(deleted.map(|(_, index)| *index));
        newest.max().unwrap_or(self.table.max(1))
    }

    pub(crate) fn put(&mut self, key: &str, value: impl Into<Arc<[u8]>>) {
        let applied = self.one(&Op::Set { key: key.to_owned(), value: value.into() });
        debug_assert!(applied.is_ok(), "nothing refuses a put");
    }

    /// Whether it applied.
    pub(crate) fn cas(&mut self, key: &str, value: impl Into<Arc<[u8]>>, index: Index) -> bool {
        self.one(&Op::Cas { key: key.to_owned(), value: value.into(), index }).is_ok()
    }

    /// Whether the session holds the key now.
    ///
    /// # Errors
    ///
    /// There is no such session: Consul answers that with an error, not with `false`.
    pub(crate) fn acquire(&mut self, key: &str, value: impl Into<Arc<[u8]>>, session: Session) -> Result<bool, Why> {
        match self.one(&Op::Lock { key: key.to_owned(), value: value.into(), session }) {
            Ok(_) => Ok(true),
            Err(Why::InvalidSession) => Err(Why::InvalidSession),
            Err(_) => Ok(false),
        }
    }

    /// Whether the session held the key.
    pub(crate) fn release(&mut self, key: &str, value: impl Into<Arc<[u8]>>, session: Session) -> bool {
        self.one(&Op::Unlock { key: key.to_owned(), value: value.into(), session }).is_ok()
    }

    pub(crate) fn delete(&mut self, key: &str) {
        let applied = self.one(&Op::Delete { key: key.to_owned() });
        debug_assert!(applied.is_ok(), "nothing refuses a delete");
    }

    /// Whether the key is gone, or was.
    pub(crate) fn delete_cas(&mut self, key: &str, index: Index) -> bool {
        self.one(&Op::DeleteCas { key: key.to_owned(), index }).is_ok()
    }

    pub(crate) fn delete_tree(&mut self, prefix: &str) {
        let applied = self.one(&Op::DeleteTree { prefix: prefix.to_owned() });
        debug_assert!(applied.is_ok(), "nothing refuses a delete");
    }

    fn one(&mut self, op: &Op) -> Result<Found, Why> {
        self.index += 1;
        let result = self.apply(op);
        self.undo.clear();
        result
    }

    /// Applies all operations at one index, or none.
    ///
    /// # Errors
    ///
    /// Every operation that does not hold. Operations after a refused one are tried as if it were not there.
    pub(crate) fn txn(&mut self, ops: &[Op]) -> Result<Found, Vec<Refusal>> {
        self.index += 1;
        let table = self.table;
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for (place, op) in ops.iter().enumerate() {
            match self.apply(op) {
                Ok(entries) => found.extend(entries),
                Err(why) => refused.push((place, why)),
            }
        }
        let undo = std::mem::take(&mut self.undo);
        if refused.is_empty() {
            return Ok(found);
        }
        for step in undo.into_iter().rev() {
            match step {
                Undo::Key(key, Some(entry)) => drop(self.entries.insert(key, entry)),
                Undo::Key(key, None) => drop(self.entries.remove(&key)),
                Undo::Tombstone(key, Some(index)) => drop(self.tombstones.insert(key, index)),
                Undo::Tombstone(key, None) => drop(self.tombstones.remove(&key)),
            }
        }
        self.table = table;
        Err(refused)
    }

    fn apply(&mut self, op: &Op) -> Result<Found, Why> {
        match op {
            Op::Set { key, value } => Ok(self.set(key, value, None)),
            Op::Cas { key, value, index } => {
                let stands = self.entries.get(key).map_or(0, |entry| entry.modify_index);
                if stands == *index { Ok(self.set(key, value, None)) } else { Err(Why::Stale) }
            }
            Op::Lock { key, value, session } => {
                if !self.sessions.contains_key(session) {
                    return Err(Why::InvalidSession);
                }
                let (holder, locks) = self.entries.get(key).map_or((None, 0), |e| (e.holder, e.lock_index));
                match holder {
                    Some(holder) if holder == *session => Ok(self.set(key, value, Some((Some(holder), locks)))),
                    Some(_) => Err(Why::Held),
                    None => Ok(self.set(key, value, Some((Some(*session), locks + 1)))),
                }
            }
            Op::Unlock { key, value, session } => match self.entries.get(key) {
                Some(entry) if entry.holder == Some(*session) => {
                    let locks = entry.lock_index;
                    Ok(self.set(key, value, Some((None, locks))))
                }
                Some(_) | None => Err(Why::NotHeld),
            },
            Op::Delete { key } => {
                self.remove(key);
                Ok(Vec::new())
            }
            Op::DeleteCas { key, index } => match self.entries.get(key) {
                Some(entry) if entry.modify_index != *index => Err(Why::Stale),
                Some(_) | None => {
                    self.remove(key);
                    Ok(Vec::new())
                }
            },
            Op::DeleteTree { prefix } => {
                self.remove_tree(prefix);
                Ok(Vec::new())
            }
            Op::Get { key } => self.entry(key).map(|entry| vec![(key.clone(), entry.clone())]),
            Op::GetTree { prefix } => Ok(self.under(prefix).map(|(key, e)| (key.to_owned(), e.clone())).collect()),
            Op::CheckIndex { key, index } => {
                let entry = self.entry(key)?;
                if entry.modify_index == *index { Ok(vec![blank(key, entry)]) } else { Err(Why::IndexCheck) }
            }
            Op::CheckSession { key, session } => {
                let entry = self.entry(key)?;
                if entry.holder == Some(*session) { Ok(vec![blank(key, entry)]) } else { Err(Why::SessionCheck) }
            }
            Op::CheckNotExists { key } if self.entries.contains_key(key) => Err(Why::Exists),
            Op::CheckNotExists { .. } => Ok(Vec::new()),
        }
    }

    fn entry(&self, key: &str) -> Result<&Entry, Why> {
        self.entries.get(key).ok_or(Why::Absent)
    }

    /// Writes a key; `lock` is its new holder and lock index where the write acquires or releases.
    fn set(&mut self, key: &str, value: &Arc<[u8]>, lock: Option<(Option<Session>, u64)>) -> Found {
        let before = self.entries.get(key);
        let (holder, lock_index) = lock.unwrap_or_else(|| (before.and_then(|entry| entry.holder), 0));
        let create_index = before.map_or(self.index, |entry| entry.create_index);
        let mut entry = Entry { value: Arc::clone(value), create_index, modify_index: self.index, lock_index, holder };
        if let Some(before) = before {
            let is_same =
                (&before.value, before.lock_index, before.holder) == (&entry.value, entry.lock_index, entry.holder);
            if is_same {
                entry.modify_index = before.modify_index;
                return vec![blank(key, &entry)];
            }
        }
        let written = blank(key, &entry);
        let before = self.entries.insert(key.to_owned(), entry);
        self.undo.push(Undo::Key(key.to_owned(), before));
        self.table = self.index;
        vec![written]
    }

    fn remove(&mut self, key: &str) {
        if let Some(before) = self.entries.remove(key) {
            self.undo.push(Undo::Key(key.to_owned(), Some(before)));
            self.bury(key);
        }
    }

    fn remove_tree(&mut self, prefix: &str) {
        let keys: Vec<String> = self.under(prefix).map(|(key, _)| key.to_owned()).collect();
        for key in &keys {
            let before = self.entries.remove(key);
            self.undo.push(Undo::Key(key.clone(), before));
        }
        if !keys.is_empty() {
            self.bury(prefix);
        }
    }

    fn bury(&mut self, key: &str) {
        let before = self.tombstones.insert(key.to_owned(), self.index);
        self.undo.push(Undo::Tombstone(key.to_owned(), before));
        self.table = self.index;
    }
}

fn blank(key: &str, entry: &Entry) -> (String, Entry) {
    (key.to_owned(), Entry { value: Arc::from([]), ..entry.clone() })
}
