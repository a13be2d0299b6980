//! The files that differ between two manifests.

use super::escape::escape;
use super::{Entry, Manifest};
use crate::protocol::record::{FileChanges, FileList};

/// Every difference, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Diff<'a> {
    pub(crate) added: Vec<Change<'a>>,
    pub(crate) removed: Vec<Change<'a>>,
    pub(crate) changed: Vec<Change<'a>>,
}

/// A path, and what is there afterwards; for a removed one, what was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) entry: &'a Entry,
}

/// What changes from `from` to `to`.
#[must_use]
pub(crate) fn diff<'a>(from: &'a Manifest, to: &'a Manifest) -> Diff<'a> {
    let mut diff = Diff::default();
    for (path, entry) in &to.entries {
        let change = Change { path, entry };
        match from.entries.get(path) {
            None => diff.added.push(change),
            Some(before) if before != entry => diff.changed.push(change),
            Some(_) => {}
        }
    }
    let removed = from.entries.iter().filter(|(path, _)| !to.entries.contains_key(*path));
    diff.removed = removed.map(|(path, entry)| Change { path, entry }).collect();
    diff
}

impl Diff<'_> {
    /// The differences for people: all counted, and of each kind the first `most` whose paths have at most `longest` bytes
    /// in total.
    #[must_use]
    pub(crate) fn shortened(&self, most: usize, longest: usize) -> FileChanges {
        let list = |changes: &[Change<'_>]| {
            let mut left = longest;
            let mut paths = Vec::new();
            for change in changes.iter().take(most) {
                let path = escape(change.path);
                let Some(rest) = left.checked_sub(path.len()) else { break };
                left = rest;
                paths.push(path);
            }
            FileList { count: changes.len() as u64, list: paths }
        };
        FileChanges { added: list(&self.added), removed: list(&self.removed), changed: list(&self.changed) }
    }
}
