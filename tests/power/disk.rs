//! What is on a disk, and what would be there after a loss of power.
//!
//! Every file and directory has two states: what programs see, and what is durable. A sync of a file makes its bytes, its length
//! and its mode durable; a sync of a directory its entries. Nothing else does: no time passes here. A rename is one change, and
//! durable with a sync of either of its directories. A name is not durable because the file was synced, and a file's bytes
//! are not because its name is.
//!
//! After a loss of power, [`Loss::All`] leaves what is durable. [`Loss::Some`] also keeps some of the rest, in any order: a rename without
//! the bytes of the file, the end of a file without its beginning, a removal but not the one before it. Each change is kept or
//! lost as a whole, and what was done to a file or directory before a kept change to its name is kept, too: a real file
//! system has one name for a directory at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fuser::Errno;

/// The number of the root directory, in every FUSE file system.
pub(crate) const ROOT: u64 = 1;
/// What is lost or kept of a file's bytes at once.
const BLOCK: usize = 4096;

/// What of all that was not synced is lost with the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All of it.
    All,
    /// What a seed says.
    Some(u64),
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<OsString, u64>),
    Link(PathBuf),
}

/// A file, directory or link.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
    pub(crate) modified: SystemTime,
    pub(crate) changed: SystemTime,
    pub(crate) names: u32,
}

/// Whose a file is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Who makes a file, and with which mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker {
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
}

/// New values of a node; none: as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewAttr {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) modified: Option<SystemTime>,
}

/// A place in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    dir: u64,
    name: OsString,
}

/// A change of names that is not durable.
#[derive(Clone, Debug)]
struct Change {
    number: u64,
    /// What each name leads to from then on.
    names: Vec<(Slot, Option<u64>)>,
    /// What got a name, or another one.
    moved: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Disk {
    live: BTreeMap<u64, Node>,
    durable: BTreeMap<u64, Node>,
    /// In their order.
    waiting: Vec<Change>,
    /// The newest durable change of each name, so that no older one follows it.
    newest: BTreeMap<Slot, u64>,
    next_node: u64,
    next_change: u64,
}

impl Node {
    fn new(content: Content, maker: Maker) -> Self {
        let now = SystemTime::now();
        Self { content, mode: maker.mode, owner: maker.owner, modified: now, changed: now, names: 1 }
    }

    pub(crate) fn entries(&self) -> Result<&BTreeMap<OsString, u64>, Errno> {
        match &self.content {
            Content::Directory(entries) => Ok(entries),
            Content::File(_) | Content::Link(_) => Err(Errno::ENOTDIR),
        }
    }

    fn entries_mut(&mut self) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match &mut self.content {
            Content::Directory(entries) => Ok(entries),
            Content::File(_) | Content::Link(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn bytes(&self) -> Result<&Vec<u8>, Errno> {
        match &self.content {
            Content::File(bytes) => Ok(bytes),
            Content::Directory(_) => Err(Errno::EISDIR),
            Content::Link(_) => Err(Errno::EINVAL),
        }
    }

    fn bytes_mut(&mut self) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.content {
            Content::File(bytes) => Ok(bytes),
            Content::Directory(_) => Err(Errno::EISDIR),
            Content::Link(_) => Err(Errno::EINVAL),
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        let root = Node::new(Content::Directory(BTreeMap::new()), Maker { mode: 0o755, owner: Owner::default() });
        let live = BTreeMap::from([(ROOT, root)]);
        let (waiting, newest) = (Vec::new(), BTreeMap::new());
        Self { durable: live.clone(), live, waiting, newest, next_node: ROOT + 1, next_change: 1 }
    }

    pub(crate) fn node(&self, node: u64) -> Result<&Node, Errno> {
        self.live.get(&node).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, node: u64) -> Result<&mut Node, Errno> {
        self.live.get_mut(&node).ok_or(Errno::ENOENT)
    }

    pub(crate) fn find(&self, dir: u64, name: &OsStr) -> Result<u64, Errno> {
        self.node(dir)?.entries()?.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(crate) fn entries(&self, dir: u64) -> Result<&BTreeMap<OsString, u64>, Errno> {
        self.node(dir)?.entries()
    }

    /// Makes a file, directory or link. Of a file only its name and mode can be durable before it is synced.
    pub(crate) fn make(&mut self, dir: u64, name: &OsStr, content: Content, maker: Maker) -> Result<u64, Errno> {
        if self.node(dir)?.entries()?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let number = self.next_node;
        self.next_node += 1;
        let node = Node::new(content, maker);
        self.durable.insert(number, node.clone());
        self.live.insert(number, node);
        self.change(vec![(slot(dir, name), Some(number))], Some(number))?;
        Ok(number)
    }

    pub(crate) fn link(&mut self, node: u64, dir: u64, name: &OsStr) -> Result<u64, Errno> {
        if self.node(dir)?.entries()?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.node_mut(node)?.names += 1;
        self.change(vec![(slot(dir, name), Some(node))], Some(node))?;
        Ok(node)
    }

    pub(crate) fn remove(&mut self, dir: u64, name: &OsStr) -> Result<(), Errno> {
        let gone = self.find(dir, name)?;
        self.unname(gone)?;
        self.change(vec![(slot(dir, name), None)], None)
    }

    /// Counts one name less of a file, or of an empty directory.
    fn unname(&mut self, node: u64) -> Result<(), Errno> {
        let node = self.node_mut(node)?;
        if node.is_dir() && !node.entries()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        node.names = node.names.saturating_sub(1);
        node.changed = SystemTime::now();
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: Slot, to: Slot, over: Replaces) -> Result<(), Errno> {
        let moved = self.find(from.dir, &from.name)?;
        match self.find(to.dir, &to.name) {
            Ok(_) if over == Replaces::Nothing => return Err(Errno::EEXIST),
            Ok(replaced) if replaced == moved => return Ok(()),
            Ok(replaced) => self.unname(replaced)?,
            Err(_) => {}
        }
        self.node_mut(moved)?.changed = SystemTime::now();
        self.change(vec![(from, None), (to, Some(moved))], Some(moved))
    }

    fn change(&mut self, names: Vec<(Slot, Option<u64>)>, moved: Option<u64>) -> Result<(), Errno> {
        for (Slot { dir, name }, node) in &names {
            let dir = self.node_mut(*dir)?;
            set(dir.entries_mut()?, name, *node);
            (dir.modified, dir.changed) = (SystemTime::now(), SystemTime::now());
        }
        self.waiting.push(Change { number: self.next_change, names, moved });
        self.next_change += 1;
        Ok(())
    }

    pub(crate) fn write(&mut self, node: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let node = self.node_mut(node)?;
        let bytes = node.bytes_mut()?;
        let start = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        bytes.resize(bytes.len().max(start + data.len()), 0);
        bytes[start..start + data.len()].copy_from_slice(data);
        (node.modified, node.changed) = (SystemTime::now(), SystemTime::now());
        Ok(())
    }

    pub(crate) fn set(&mut self, node: u64, new: NewAttr) -> Result<(), Errno> {
        let node = self.node_mut(node)?;
        let now = SystemTime::now();
        if let Some(size) = new.size {
            node.bytes_mut()?.resize(usize::try_from(size).map_err(|_| Errno::EFBIG)?, 0);
            node.modified = now;
        }
        node.mode = new.mode.map_or(node.mode, |mode| mode & 0o7777);
        node.owner.uid = new.uid.unwrap_or(node.owner.uid);
        node.owner.gid = new.gid.unwrap_or(node.owner.gid);
        node.modified = new.modified.unwrap_or(node.modified);
        node.changed = now;
        Ok(())
    }

    /// Makes a file, or the entries of a directory, durable.
    pub(crate) fn sync(&mut self, node: u64) -> Result<(), Errno> {
        let live = self.node(node)?.clone();
        let durable = self.durable.get_mut(&node).ok_or(Errno::EIO)?;
        let content = if live.is_dir() { durable.content.clone() } else { live.content.clone() };
        let is_dir = live.is_dir();
        *durable = Node { content, ..live };
        if is_dir {
            self.keep(|change| change.names.iter().any(|(slot, _)| slot.dir == node));
        }
        Ok(())
    }

    /// Makes some changes of names durable, and those before them of the same files.
    fn keep(&mut self, mut is_wanted: impl FnMut(&Change) -> bool) {
        let mut moved = BTreeSet::new();
        let mut kept = Vec::new();
        for change in std::mem::take(&mut self.waiting).into_iter().rev() {
            if is_wanted(&change) || change.moved.is_some_and(|node| moved.contains(&node)) {
                moved.extend(change.moved);
                kept.push(change);
            } else {
                self.waiting.push(change);
            }
        }
        self.waiting.reverse();
        for change in kept.into_iter().rev() {
            for (slot, node) in change.names {
                let newest = self.newest.entry(slot.clone()).or_default();
                if *newest < change.number {
                    *newest = change.number;
                    let dir = self.durable.get_mut(&slot.dir).and_then(|dir| dir.entries_mut().ok());
                    if let Some(entries) = dir {
                        set(entries, &slot.name, node);
                    }
                }
            }
        }
    }

    /// The power goes, and comes again.
    pub(crate) fn lose(&mut self, loss: Loss) {
        if let Loss::Some(seed) = loss {
            let mut chance = fastrand::Rng::with_seed(seed);
            self.keep(|_| chance.bool());
            for (number, durable) in &mut self.durable {
                if let Some(live) = self.live.get(number) {
                    keep_part(durable, live, &mut chance);
                }
            }
        }
        let mut counts = BTreeMap::from([(ROOT, 1)]);
        let mut open = vec![ROOT];
        while let Some(dir) = open.pop() {
            let entries = self.durable.get(&dir).and_then(|dir| dir.entries().ok());
            for node in entries.into_iter().flat_map(BTreeMap::values) {
                let count: &mut u32 = counts.entry(*node).or_default();
                *count += 1;
                if *count == 1 {
                    open.push(*node);
                }
            }
        }
        self.durable.retain(|number, node| {
            node.names = counts.get(number).copied().unwrap_or_default();
            node.names > 0
        });
        self.live = self.durable.clone();
        self.waiting.clear();
        self.newest.clear();
    }

    /// What a path leads to, without links.
    pub(crate) fn at(&self, path: &Path) -> Option<&Node> {
        let number = path.iter().try_fold(ROOT, |dir, name| self.find(dir, name).ok())?;
        self.live.get(&number)
    }
}

/// Whether a rename may replace a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaces {
    Anything,
    Nothing,
}

pub(crate) fn slot(dir: u64, name: &OsStr) -> Slot {
    Slot { dir, name: name.to_owned() }
}

fn set(entries: &mut BTreeMap<OsString, u64>, name: &OsStr, node: Option<u64>) {
    match node {
        Some(node) => drop(entries.insert(name.to_owned(), node)),
        None => drop(entries.remove(name)),
    }
}

/// Keeps some blocks of a file, its length or the former one, and its mode and times or the former ones.
fn keep_part(durable: &mut Node, live: &Node, chance: &mut fastrand::Rng) {
    if let (Content::File(old), Content::File(new)) = (&mut durable.content, &live.content)
        && old != new
    {
        let length = if chance.bool() { new.len() } else { old.len() };
        let longest = old.len().max(new.len());
        old.resize(longest, 0);
        for start in (0..longest).step_by(BLOCK).filter(|_| chance.bool()) {
            let end = longest.min(start + BLOCK);
            for (at, byte) in old.iter_mut().enumerate().take(end).skip(start) {
                *byte = new.get(at).copied().unwrap_or_default();
            }
        }
        old.truncate(length);
    }
    if chance.bool() {
        (durable.mode, durable.owner) = (live.mode, live.owner);
        (durable.modified, durable.changed) = (live.modified, live.changed);
    }
}
