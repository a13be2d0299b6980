//! Finds the actions besides deploys that are not recorded yet. Pure: compares one read of the keys with the cursor.
//!
//! Without a cursor, every existing key counts as recorded. A value that was overwritten before the coordinator read it is
//! lost. An empty `freeze` counts as an unfreeze only if the group was frozen before, because coordinators create the key
//! empty.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::consul::{Entry, Snapshot};
use crate::protocol::ids::{ArtifactName, Epoch, ModifyIndex, Unit};
use crate::protocol::keys::{Keys, UnitKeys};
use crate::protocol::record::{
    Abort, Action, ActionCursor, ActionKind, Ask, Author, BadMark, Build, FORMAT, Forgotten, Freeze, Question, Summary,
    decode,
};

/// The keys of one unit that show actions, read at one moment.
pub(super) struct ActionKeys<'a> {
    pub(super) unit: &'a Unit,
    pub(super) keys: &'a Keys,
    pub(super) at: &'a UnitKeys,
    /// Holds `freeze`, `abort`, `question`, `bad/` and `forgotten/`.
    pub(super) read: &'a Snapshot,
    /// The build records. None: nothing was published since the last round.
    pub(super) builds: Option<&'a [Entry]>,
    /// The era of the barrier.
    pub(super) era: u32,
    /// The index of the last change under `bad/`, including deletions.
    pub(super) marks_changed: ModifyIndex,
    pub(super) now: Timestamp,
}

/// An action that is not recorded yet, with the key and value that show it. Attestations are compared with both.
#[derive(Debug)]
pub(super) struct NewAction {
    pub(super) action: Action,
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    /// The index of the key, to which the cursor advances. None: the key was deleted.
    pub(super) index: Option<ModifyIndex>,
    /// Whether the cursor advances without recording the action: it was recorded before the cursor was lost, or no number
    /// is free for it.
    pub(super) is_skipped: bool,
}

/// The author of an action, and its time. None: the record names no time, so the time of the read is used.
struct Authored {
    author: Author,
    at: Option<Timestamp>,
}

impl ActionKeys<'_> {
    /// The cursor for a unit without one: every existing key counts as recorded.
    pub(super) fn initial_cursor(&self) -> ActionCursor {
        let freeze = self.read.key(&self.at.freeze());
        ActionCursor {
            freeze: freeze.map(|entry| entry.modify_index).unwrap_or_default(),
            frozen: freeze.is_some_and(|entry| Freeze::parse(&entry.value).is_some()),
            abort: self.read.key(&self.at.abort()).map(|entry| entry.modify_index).unwrap_or_default(),
            builds: newest(self.builds.unwrap_or_default().iter()),
            bad: newest(self.read.under(&self.keys.bad_marks(&self.unit.app))),
            marked: self.marks().into_iter().filter(|(_, _, mark)| !mark.lifted).map(|(name, _, _)| name).collect(),
            forgotten: newest(self.read.under(&self.at.all_forgotten())),
            question: self.repair_question().map(|(entry, _)| entry.modify_index).unwrap_or_default(),
        }
    }

    /// The actions since `seen`, oldest first. Pass them through [`assign_numbers`] before recording them.
    pub(super) fn since(&self, seen: &ActionCursor) -> Vec<NewAction> {
        let mut found: Vec<NewAction> = Vec::new();
        found.extend(self.freeze(seen));
        found.extend(self.abort(seen));
        found.extend(self.repair_requested(seen));
        found.extend(self.marked(seen));
        found.extend(self.forgotten(seen));
        found.extend(self.published(seen));
        found.extend(self.unmarked(seen));
        found.sort_by_key(|new| new.action.epoch);
        found
    }

    fn new_action(&self, entry: &Entry, action: ActionKind, subject: String, asked: Authored) -> NewAction {
        let Authored { author, at } = asked;
        let action = Action {
            format: FORMAT,
            epoch: Epoch { era: self.era, number: entry.modify_index.0 },
            unit: self.unit.clone(),
            action,
            subject,
            summary: Summary::default(),
            changes: None,
            // The record of an action has no `id`: its key names it.
            author: Author { id: String::new(), ..author },
            verified: None,
            until: None,
            at: at.unwrap_or(self.now),
        };
        let index = Some(entry.modify_index);
        NewAction { action, key: entry.key.clone(), value: entry.value.clone(), index, is_skipped: false }
    }

    fn freeze(&self, seen: &ActionCursor) -> Option<NewAction> {
        let entry = self.read.key(&self.at.freeze()).filter(|entry| entry.modify_index != seen.freeze)?;
        match Freeze::read(&entry.value) {
            Some(freeze) => {
                let kind = if freeze.lifted { ActionKind::Unfreeze } else { ActionKind::Freeze };
                let Freeze { author, at, until, .. } = freeze;
                let mut new = self.new_action(entry, kind, String::new(), Authored { author, at });
                new.action.until = until;
                Some(new)
            }
            None => seen.frozen.then(|| self.new_action(entry, ActionKind::Unfreeze, String::new(), unknown_author())),
        }
    }

    fn abort(&self, seen: &ActionCursor) -> Option<NewAction> {
        let entry = self.read.key(&self.at.abort()).filter(|entry| entry.modify_index != seen.abort)?;
        let Abort { epoch, author } = Abort::parse(&entry.value)?;
        Some(self.new_action(entry, ActionKind::Abort, epoch.to_string(), Authored { author, at: None }))
    }

    /// The current question, if it is a repair. Other questions change nothing, so they are not actions.
    fn repair_question(&self) -> Option<(&Entry, Question)> {
        let entry = self.read.key(&self.at.question())?;
        let question: Question = decode(&entry.key, &entry.value).ok()?;
        matches!(question.ask, Ask::Repair { .. }).then_some((entry, question))
    }

    fn repair_requested(&self, seen: &ActionCursor) -> Option<NewAction> {
        let (entry, question) = self.repair_question().filter(|(entry, _)| entry.modify_index != seen.question)?;
        let Question { ask: Ask::Repair { node }, by, via, at, .. } = question else { return None };
        let author = Author { by, via, ..Author::by_hand("") };
        let author = Authored { author, at: Some(at) };
        Some(self.new_action(entry, ActionKind::Repair, node.to_string(), author))
    }

    /// Every bad mark that has a key, lifted or not.
    fn marks(&self) -> Vec<(ArtifactName, &Entry, BadMark)> {
        let prefix = self.keys.bad_marks(&self.unit.app);
        let read = |entry: &'_ Entry| {
            let artifact = entry.key.strip_prefix(&prefix)?.parse().ok()?;
            Some((artifact, BadMark::read(&entry.value)?))
        };
        let entries = self.read.under(&prefix);
        entries.filter_map(|entry| read(entry).map(|(artifact, mark)| (artifact, entry, mark))).collect()
    }

    fn marked(&self, seen: &ActionCursor) -> Vec<NewAction> {
        let newer = self.marks().into_iter().filter(|(_, entry, _)| entry.modify_index > seen.bad);
        newer
            .map(|(artifact, entry, mark)| {
                let kind = if mark.lifted { ActionKind::MarkGood } else { ActionKind::MarkBad };
                let BadMark { author, at, .. } = mark;
                self.new_action(entry, kind, artifact.to_string(), Authored { author, at })
            })
            .collect()
    }

    /// Builds that were marked bad at the cursor, and whose mark has no key now.
    pub(super) fn unmarked_builds(&self, seen: &ActionCursor) -> Vec<ArtifactName> {
        let marked: BTreeSet<ArtifactName> = self.marks().into_iter().map(|(name, _, _)| name).collect();
        seen.marked.difference(&marked).cloned().collect()
    }

    /// Bad marks whose key was emptied or deleted by hand. A deletion leaves no author and no index, so the index of the
    /// last change under the prefix is used, but none above the read: a later change belongs to another action.
    fn unmarked(&self, seen: &ActionCursor) -> Vec<NewAction> {
        let latest = self.marks_changed.min(self.read.newest());
        let new = |artifact: &ArtifactName| {
            let gone = Entry {
                key: self.keys.bad(&self.unit.app, artifact),
                value: Vec::new(),
                flags: 0,
                modify_index: latest,
                create_index: latest,
                session: None,
            };
            NewAction {
                index: None,
                ..self.new_action(&gone, ActionKind::MarkGood, artifact.to_string(), unknown_author())
            }
        };
        self.unmarked_builds(seen).iter().map(new).collect()
    }

    fn forgotten(&self, seen: &ActionCursor) -> Vec<NewAction> {
        let prefix = self.at.all_forgotten();
        let newer = self.read.under(&prefix).filter(|entry| entry.modify_index > seen.forgotten);
        newer
            .filter_map(|entry| {
                let node = entry.key.strip_prefix(&prefix)?.to_owned();
                let Forgotten { author, at } = Forgotten::read(&entry.value);
                Some(self.new_action(entry, ActionKind::Forget, node, Authored { author, at }))
            })
            .collect()
    }

    fn published(&self, seen: &ActionCursor) -> Vec<NewAction> {
        // The builds are listed after the other keys. A build published in between waits for the next round: recorded now,
        // its higher number would advance the receivers' cursors past actions that are recorded later.
        let shown = self.read.newest();
        // By the index at which the record was created: a signature that is added later publishes nothing.
        let is_newer = |entry: &&Entry| entry.create_index > seen.builds && entry.create_index <= shown;
        let newer = self.builds.unwrap_or_default().iter().filter(is_newer);
        newer
            .filter_map(|entry| {
                let Build { artifact, summary, since, by, at, .. } = decode::<Build>(&entry.key, &entry.value).ok()?;
                let author = Author { by, via: "publish".to_owned(), ..Author::by_hand("") };
                let author = Authored { author, at: Some(at) };
                let mut new = self.new_action(entry, ActionKind::Publish, artifact.to_string(), author);
                new.action.epoch.number = entry.create_index.0;
                new.index = Some(entry.create_index);
                new.action.summary = summary;
                new.action.changes = since.map(|since| since.changes.shortened());
                Some(new)
            })
            .collect()
    }
}

/// Gives each action a number of its own; `recorded` are the numbers in use. Keys written in one transaction share an
/// index, and a deleted key has none: their actions take the next lower free number. Without one, the action is skipped.
pub(super) fn assign_numbers(actions: Vec<NewAction>, recorded: &BTreeSet<Epoch>) -> Vec<NewAction> {
    let mut taken: BTreeSet<Epoch> = recorded.clone();
    // Existing keys first, so that each gets its own index as its number where possible.
    let (keys, gone): (Vec<NewAction>, Vec<NewAction>) = actions.into_iter().partition(|new| new.index.is_some());
    let mut numbered = Vec::new();
    for mut new in keys.into_iter().chain(gone) {
        let epoch = &mut new.action.epoch;
        new.is_skipped = new.index.is_some() && recorded.contains(epoch);
        if !new.is_skipped {
            while epoch.number > 0 && taken.contains(epoch) {
                epoch.number -= 1;
            }
            new.is_skipped = epoch.number == 0;
            taken.insert(*epoch);
        }
        numbered.push(new);
    }
    numbered.sort_by_key(|new| new.action.epoch);
    numbered
}

/// Advances the cursor past an action whose key has this index. None: the key was deleted.
pub(super) fn advance(seen: &mut ActionCursor, action: &Action, index: Option<ModifyIndex>) {
    let index = index.unwrap_or_default();
    match action.action {
        ActionKind::Freeze | ActionKind::Unfreeze => {
            seen.freeze = index;
            seen.frozen = action.action == ActionKind::Freeze;
        }
        ActionKind::Abort => seen.abort = index,
        ActionKind::Repair => seen.question = index,
        ActionKind::Publish => seen.builds = index.max(seen.builds),
        ActionKind::Forget => seen.forgotten = index.max(seen.forgotten),
        ActionKind::MarkBad => {
            seen.bad = index.max(seen.bad);
            seen.marked.extend(action.subject.parse());
        }
        ActionKind::MarkGood => {
            seen.bad = index.max(seen.bad);
            seen.marked.retain(|artifact| artifact.as_str() != action.subject);
        }
    }
}

fn newest<'a>(entries: impl Iterator<Item = &'a Entry>) -> ModifyIndex {
    entries.map(|entry| entry.modify_index).max().unwrap_or_default()
}

fn unknown_author() -> Authored {
    Authored { author: Author::by_hand(""), at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = r#"{"by":"ann","reason":"leaks"}"#;

    /// The new actions in `read`, as `kind subject number`.
    fn new_actions(
        read: &Snapshot,
        builds: &[Entry],
        marks_changed: u64,
        seen: &ActionCursor,
        recorded: &[u64],
    ) -> Vec<String> {
        let (unit, keys): (Unit, Keys) = ("shop/production".parse().unwrap(), Keys::new("cutover"));
        let (at, marks_changed, now) = (keys.unit(&unit), ModifyIndex(marks_changed), Timestamp::UNIX_EPOCH);
        let action_keys =
            ActionKeys { unit: &unit, keys: &keys, at: &at, read, builds: Some(builds), era: 0, marks_changed, now };
        let recorded = recorded.iter().map(|number| Epoch { era: 0, number: *number }).collect();
        let actions = assign_numbers(action_keys.since(seen), &recorded);
        let word = |it: &NewAction| if it.is_skipped { "skipped" } else { it.action.action.as_str() };
        actions.iter().map(|it| format!("{} {} {}", word(it), it.action.subject, it.action.epoch)).collect()
    }

    #[test]
    fn a_deleted_mark_never_takes_the_number_of_another_action() {
        let read: Snapshot =
            [("x1", ""), ("x2", ""), ("x3", ""), ("cutover/shop/bad/b", MARK), ("x5", "")].into_iter().collect();
        let seen = ActionCursor {
            bad: ModifyIndex(4),
            marked: ["a", "b"].map(|name| name.parse().unwrap()).into(),
            ..ActionCursor::default()
        };
        assert_eq!(new_actions(&read, &[], 5, &seen, &[4]), ["mark_good a 5"]);
        // Consul no longer knows the deletion and reports the remaining mark, or another build was marked since.
        assert_eq!(new_actions(&read, &[], 4, &seen, &[4, 3]), ["mark_good a 2"]);
        assert_eq!(new_actions(&read, &[], 9, &seen, &[4]), ["mark_good a 5"]);
        assert_eq!(
            new_actions(&read, &[], 4, &seen, &[4, 3, 2, 1]),
            ["skipped a 0"],
            "without a free number it is skipped"
        );
        let mut moved = seen.clone();
        advance(&mut moved, &acted(&read, &seen), None);
        assert_eq!((moved.bad, moved.marked.len()), (ModifyIndex(4), 1), "a mark set meanwhile is still new");
    }

    fn acted(read: &Snapshot, seen: &ActionCursor) -> Action {
        let (unit, keys): (Unit, Keys) = ("shop/production".parse().unwrap(), Keys::new("cutover"));
        let (at, marks_changed, now) = (keys.unit(&unit), ModifyIndex(5), Timestamp::UNIX_EPOCH);
        let action_keys =
            ActionKeys { unit: &unit, keys: &keys, at: &at, read, builds: None, era: 0, marks_changed, now };
        action_keys.since(seen).remove(0).action
    }

    /// The record of a build that was published at this index.
    fn published(index: u64) -> Entry {
        let artifact = format!("master-{index:08}");
        let value = serde_json::json!({"artifact": artifact, "branch": "master", "commit": "0".repeat(40),
            "sha256": "0".repeat(64), "packed_bytes": 1, "unpacked_bytes": 1, "entries": 1, "format": "tar.gz",
            "by": "ci", "at": "2026-01-01T00:00:00Z"});
        let (key, index) = (format!("cutover/shop/builds/{artifact}"), ModifyIndex(index));
        let value = value.to_string().into_bytes();
        Entry { key, value, flags: 0, modify_index: index, create_index: index, session: None }
    }

    #[test]
    fn a_build_published_after_the_read_is_recorded_next_time() {
        let read: Snapshot = [("cutover/shop/latest", ""), ("x2", "")].into_iter().collect();
        let builds = [published(1), published(3)];
        assert_eq!(new_actions(&read, &builds, 0, &ActionCursor::default(), &[]), ["publish master-00000001 1"]);
    }

    #[test]
    fn a_build_that_is_signed_later_is_published_once() {
        let read: Snapshot = [("cutover/shop/latest", ""), ("x2", ""), ("x3", "")].into_iter().collect();
        let signed = |index, at| Entry { modify_index: ModifyIndex(at), ..published(index) };
        let seen = ActionCursor { builds: ModifyIndex(1), ..ActionCursor::default() };
        let builds = [signed(1, 3), published(2)];
        assert_eq!(new_actions(&read, &builds, 0, &seen, &[]), ["publish master-00000002 2"]);
        // Before the coordinator has seen it, and while it reads.
        assert_eq!(new_actions(&read, &[signed(2, 4)], 0, &seen, &[]), ["publish master-00000002 2"]);
    }

    #[test]
    fn after_a_lost_cursor_no_action_is_recorded_twice() {
        let read: Snapshot = [("x1", ""), ("cutover/shop/bad/b", MARK), ("x3", "")].into_iter().collect();
        assert_eq!(new_actions(&read, &[], 2, &ActionCursor::default(), &[2]), ["skipped b 2"]);
    }
}
