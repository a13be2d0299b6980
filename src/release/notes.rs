//! What could not be removed, as `status` and `doctor` name it. In memory only: each start tries every removal again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::protocol::record::Unremovable;

/// Whether a note is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The same was noted before.
    Known,
    New,
}

/// Files and directories that could not be removed, by the paths of the trees that were to be removed.
#[derive(Debug, Default)]
pub(super) struct Notes(BTreeMap<PathBuf, Note>);

#[derive(Debug)]
struct Note {
    unremovable: Unremovable,
    /// Whether the removal is being tried again, and has not failed again yet.
    is_checked_again: bool,
}

impl Notes {
    pub(super) fn all(&self) -> Vec<Unremovable> {
        self.0.values().map(|note| note.unremovable.clone()).collect()
    }

    pub(super) fn add(&mut self, tree: &Path, unremovable: Unremovable) -> News {
        let is_known = self.0.get(tree).is_some_and(|before| before.unremovable == unremovable);
        self.0.insert(tree.to_owned(), Note { unremovable, is_checked_again: false });
        if is_known { News::Known } else { News::New }
    }

    pub(super) fn forget(&mut self, tree: &Path) {
        self.0.remove(tree);
    }

    /// The trees in `dir`.
    pub(super) fn trees_in(&self, dir: &Path) -> Vec<PathBuf> {
        self.0.keys().filter(|tree| tree.parent() == Some(dir)).cloned().collect()
    }

    /// Every removal in `dir` is tried again. Until [`Notes::end_of_check`], the notes stay.
    pub(super) fn begin_check(&mut self, dir: &Path) {
        for (_, note) in self.0.iter_mut().filter(|(tree, _)| tree.parent() == Some(dir)) {
            note.is_checked_again = true;
        }
    }

    /// Forgets what was not noted again in `dir`.
    pub(super) fn end_of_check(&mut self, dir: &Path) {
        self.0.retain(|tree, note| !note.is_checked_again || tree.parent() != Some(dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_stays_while_it_is_checked_and_goes_if_it_is_not_renewed() {
        let (dir, one, two) = (Path::new("/r"), Path::new("/r/1"), Path::new("/r/2"));
        let elsewhere = Path::new("/s/1");
        let mut notes = Notes::default();
        for tree in [one, two, elsewhere] {
            assert_eq!(notes.add(tree, Unremovable::new("/file", "busy")), News::New);
        }
        notes.begin_check(dir);
        assert_eq!(notes.all().len(), 3, "a reader sees no gap");
        assert_eq!(notes.add(one, Unremovable::new("/file", "busy")), News::Known);
        notes.end_of_check(dir);
        assert_eq!((notes.trees_in(dir), notes.all().len()), (vec![one.to_owned()], 2));
        assert_eq!(notes.add(one, Unremovable::new("/file", "denied")), News::New);
        notes.forget(one);
        assert_eq!(notes.add(one, Unremovable::new("/file", "denied")), News::New);
    }
}
