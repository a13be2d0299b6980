//! What was done besides deploys since the cursor: pure, from one read of the keys to the actions that it shows.
//!
//! Nothing is made up: without a cursor nothing is news, and what was overwritten before it was read is not there to be
//! told. An empty `freeze` is news only where the group was frozen before, since coordinators make the key empty.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::consul::{Entry, Snapshot};
use crate::protocol::ids::{ArtifactName, Epoch, ModifyIndex, Unit};
use crate::protocol::keys::{Keys, UnitKeys};
use crate::protocol::record::{
    Abort, Action, ActionKind, Ask, Author, BadMark, Build, FORMAT, Forgotten, Freeze, Question, Seen, Summary, decode,
};

/// The keys of one unit, as they stood at one moment.
pub(super) struct Standing<'a> {
    pub(super) unit: &'a Unit,
    pub(super) keys: &'a Keys,
    pub(super) at: &'a UnitKeys,
    /// Holds `freeze`, `abort`, `question`, `bad/` and `forgotten/`.
    pub(super) read: &'a Snapshot,
    /// The build records; none: nothing was published since the last look.
    pub(super) builds: Option<&'a [Entry]>,
    /// The era that `barrier` is of.
    pub(super) era: u32,
    /// Where `bad/` was changed last, deletions included.
    pub(super) marks_changed: ModifyIndex,
    pub(super) now: Timestamp,
}

/// One action, and the key and the bytes that show it: what an attestation vouches for.
#[derive(Debug)]
pub(super) struct News {
    pub(super) action: Action,
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    /// Where the key that shows it stands, which the cursor moves over; none: the key is gone.
    pub(super) index: Option<ModifyIndex>,
    /// Whether the cursor only moves over it: `actions/` has it already, from before a cursor that was lost, or has no
    /// number left for it.
    pub(super) is_passed_over: bool,
}

/// Who did something, and when.
struct Asked {
    author: Author,
    at: Option<Timestamp>,
}

impl Standing<'_> {
    /// The cursor of a unit that has none: whatever stands now is no news.
    pub(super) fn cursor(&self) -> Seen {
        let freeze = self.read.key(&self.at.freeze());
        Seen {
            freeze: freeze.map(|entry| entry.modify_index).unwrap_or_default(),
            frozen: freeze.is_some_and(|entry| Freeze::parse(&entry.value).is_some()),
            abort: self.read.key(&self.at.abort()).map(|entry| entry.modify_index).unwrap_or_default(),
            builds: newest(self.builds.unwrap_or_default().iter()),
            bad: newest(self.read.under(&self.keys.bad_marks(&self.unit.app))),
            marked: self.marks().into_iter().filter(|(_, _, mark)| !mark.lifted).map(|(name, _, _)| name).collect(),
            forgotten: newest(self.read.under(&self.at.all_forgotten())),
            question: self.repair().map(|(entry, _)| entry.modify_index).unwrap_or_default(),
        }
    }

    /// Everything since `seen`, in the order in which it was done. Before it is recorded, it is [`numbered`].
    pub(super) fn since(&self, seen: &Seen) -> Vec<News> {
        let mut news: Vec<News> = Vec::new();
        news.extend(self.freeze(seen));
        news.extend(self.abort(seen));
        news.extend(self.repair_asked(seen));
        news.extend(self.marked(seen));
        news.extend(self.forgotten(seen));
        news.extend(self.published(seen));
        news.extend(self.unmarked(seen));
        news.sort_by_key(|news| news.action.epoch);
        news
    }

    fn news(&self, entry: &Entry, action: ActionKind, subject: String, asked: Asked) -> News {
        let Asked { author, at } = asked;
        let action = Action {
            format: FORMAT,
            epoch: Epoch { era: self.era, number: entry.modify_index.0 },
            unit: self.unit.clone(),
            action,
            subject,
            summary: Summary::default(),
            by: author.by,
            via: author.via,
            why: author.reason,
            verified: None,
            until: None,
            at: at.unwrap_or(self.now),
        };
        let index = Some(entry.modify_index);
        News { action, key: entry.key.clone(), value: entry.value.clone(), index, is_passed_over: false }
    }

    fn freeze(&self, seen: &Seen) -> Option<News> {
        let entry = self.read.key(&self.at.freeze()).filter(|entry| entry.modify_index != seen.freeze)?;
        match Freeze::read(&entry.value) {
            Some(freeze) => {
                let kind = if freeze.lifted { ActionKind::Unfreeze } else { ActionKind::Freeze };
                let Freeze { author, at, until, .. } = freeze;
                let mut news = self.news(entry, kind, String::new(), Asked { author, at });
                news.action.until = until;
                Some(news)
            }
            None => seen.frozen.then(|| self.news(entry, ActionKind::Unfreeze, String::new(), nobody())),
        }
    }

    fn abort(&self, seen: &Seen) -> Option<News> {
        let entry = self.read.key(&self.at.abort()).filter(|entry| entry.modify_index != seen.abort)?;
        let Abort { epoch, author } = Abort::parse(&entry.value)?;
        Some(self.news(entry, ActionKind::Abort, epoch.to_string(), Asked { author, at: None }))
    }

    /// The question that stands, where it changes something.
    fn repair(&self) -> Option<(&Entry, Question)> {
        let entry = self.read.key(&self.at.question())?;
        let question: Question = decode(&entry.key, &entry.value).ok()?;
        matches!(question.ask, Ask::Repair { .. }).then_some((entry, question))
    }

    fn repair_asked(&self, seen: &Seen) -> Option<News> {
        let (entry, question) = self.repair().filter(|(entry, _)| entry.modify_index != seen.question)?;
        let Question { ask: Ask::Repair { node }, by, via, at, .. } = question else { return None };
        let author = Author { by, via, ..Author::by_hand("") };
        let author = Asked { author, at: Some(at) };
        Some(self.news(entry, ActionKind::Repair, node.to_string(), author))
    }

    /// Every mark that was ever put and still has a key.
    fn marks(&self) -> Vec<(ArtifactName, &Entry, BadMark)> {
        let prefix = self.keys.bad_marks(&self.unit.app);
        let read = |entry: &'_ Entry| {
            let artifact = entry.key.strip_prefix(&prefix)?.parse().ok()?;
            Some((artifact, BadMark::read(&entry.value)?))
        };
        let entries = self.read.under(&prefix);
        entries.filter_map(|entry| read(entry).map(|(artifact, mark)| (artifact, entry, mark))).collect()
    }

    fn marked(&self, seen: &Seen) -> Vec<News> {
        let newer = self.marks().into_iter().filter(|(_, entry, _)| entry.modify_index > seen.bad);
        newer
            .map(|(artifact, entry, mark)| {
                let kind = if mark.lifted { ActionKind::MarkGood } else { ActionKind::MarkBad };
                let BadMark { author, at, .. } = mark;
                self.news(entry, kind, artifact.to_string(), Asked { author, at })
            })
            .collect()
    }

    /// Builds that were marked at the cursor, and whose mark is not there any more.
    pub(super) fn unmarked_builds(&self, seen: &Seen) -> Vec<ArtifactName> {
        let standing: BTreeSet<ArtifactName> = self.marks().into_iter().map(|(name, _, _)| name).collect();
        seen.marked.difference(&standing).cloned().collect()
    }

    /// Marks whose key was emptied or deleted by hand, which leaves no name, and no index: the last change of the prefix is
    /// the newest that it can be, and what was changed after the read is another's.
    fn unmarked(&self, seen: &Seen) -> Vec<News> {
        let latest = self.marks_changed.min(self.read.newest());
        let news = |artifact: &ArtifactName| {
            let gone = Entry {
                key: self.keys.bad(&self.unit.app, artifact),
                value: Vec::new(),
                flags: 0,
                modify_index: latest,
                create_index: latest,
                session: None,
            };
            News { index: None, ..self.news(&gone, ActionKind::MarkGood, artifact.to_string(), nobody()) }
        };
        self.unmarked_builds(seen).iter().map(news).collect()
    }

    fn forgotten(&self, seen: &Seen) -> Vec<News> {
        let prefix = self.at.all_forgotten();
        let newer = self.read.under(&prefix).filter(|entry| entry.modify_index > seen.forgotten);
        newer
            .filter_map(|entry| {
                let node = entry.key.strip_prefix(&prefix)?.to_owned();
                let Forgotten { author, at } = Forgotten::read(&entry.value);
                Some(self.news(entry, ActionKind::Forget, node, Asked { author, at }))
            })
            .collect()
    }

    fn published(&self, seen: &Seen) -> Vec<News> {
        // Listed after the rest was read. What was published since is for the next look: recorded now, it would stand before
        // actions that are still to be recorded, and whoever is told of it would not be told of them.
        let shown = self.read.newest();
        let is_newer = |entry: &&Entry| entry.modify_index > seen.builds && entry.modify_index <= shown;
        let newer = self.builds.unwrap_or_default().iter().filter(is_newer);
        newer
            .filter_map(|entry| {
                let Build { artifact, summary, by, at, .. } = decode::<Build>(&entry.key, &entry.value).ok()?;
                let author = Author { by, via: "publish".to_owned(), ..Author::by_hand("") };
                let author = Asked { author, at: Some(at) };
                let mut news = self.news(entry, ActionKind::Publish, artifact.to_string(), author);
                news.action.summary = summary;
                Some(news)
            })
            .collect()
    }
}

/// The same news with a number of its own for each, `recorded` being those that have an action already. What was written
/// in one transaction stands at one index, and a key that is gone at none: these take the next lower number that is free.
/// Where none is, it is passed over.
pub(super) fn numbered(news: Vec<News>, recorded: &BTreeSet<Epoch>) -> Vec<News> {
    let mut taken: BTreeSet<Epoch> = recorded.clone();
    // Keys before what is gone: a key's own index is its number wherever that can be.
    let (keys, gone): (Vec<News>, Vec<News>) = news.into_iter().partition(|news| news.index.is_some());
    let mut numbered = Vec::new();
    for mut news in keys.into_iter().chain(gone) {
        let epoch = &mut news.action.epoch;
        news.is_passed_over = news.index.is_some() && recorded.contains(epoch);
        if !news.is_passed_over {
            while epoch.number > 0 && taken.contains(epoch) {
                epoch.number -= 1;
            }
            news.is_passed_over = epoch.number == 0;
            taken.insert(*epoch);
        }
        numbered.push(news);
    }
    numbered.sort_by_key(|news| news.action.epoch);
    numbered
}

/// Moves the cursor over an action that is recorded, and shown by a key at `index`; none: the key is gone.
pub(super) fn move_over(seen: &mut Seen, action: &Action, index: Option<ModifyIndex>) {
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

fn nobody() -> Asked {
    Asked { author: Author::by_hand(""), at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = r#"{"by":"ann","reason":"leaks"}"#;

    /// What is news in `read`, as `kind subject number`.
    fn told(read: &Snapshot, builds: &[Entry], marks_changed: u64, seen: &Seen, recorded: &[u64]) -> Vec<String> {
        let (unit, keys): (Unit, Keys) = ("shop/production".parse().unwrap(), Keys::new("cutover"));
        let (at, marks_changed, now) = (keys.unit(&unit), ModifyIndex(marks_changed), Timestamp::UNIX_EPOCH);
        let standing =
            Standing { unit: &unit, keys: &keys, at: &at, read, builds: Some(builds), era: 0, marks_changed, now };
        let recorded = recorded.iter().map(|number| Epoch { era: 0, number: *number }).collect();
        let news = numbered(standing.since(seen), &recorded);
        let word = |it: &News| if it.is_passed_over { "passed over" } else { it.action.action.as_str() };
        news.iter().map(|it| format!("{} {} {}", word(it), it.action.subject, it.action.epoch)).collect()
    }

    #[test]
    fn a_mark_that_was_deleted_takes_no_number_that_another_action_has() {
        let read: Snapshot =
            [("x1", ""), ("x2", ""), ("x3", ""), ("cutover/shop/bad/b", MARK), ("x5", "")].into_iter().collect();
        let seen = Seen {
            bad: ModifyIndex(4),
            marked: ["a", "b"].map(|name| name.parse().unwrap()).into(),
            ..Seen::default()
        };
        assert_eq!(told(&read, &[], 5, &seen, &[4]), ["mark_good a 5"]);
        // Consul has forgotten the deletion, and names the mark that is left; or somebody has marked another since.
        assert_eq!(told(&read, &[], 4, &seen, &[4, 3]), ["mark_good a 2"]);
        assert_eq!(told(&read, &[], 9, &seen, &[4]), ["mark_good a 5"]);
        assert_eq!(told(&read, &[], 4, &seen, &[4, 3, 2, 1]), ["passed over a 0"], "it ends");
        let mut moved = seen.clone();
        move_over(&mut moved, &acted(&read, &seen), None);
        assert_eq!((moved.bad, moved.marked.len()), (ModifyIndex(4), 1), "a mark that comes meanwhile is still news");
    }

    fn acted(read: &Snapshot, seen: &Seen) -> Action {
        let (unit, keys): (Unit, Keys) = ("shop/production".parse().unwrap(), Keys::new("cutover"));
        let (at, marks_changed, now) = (keys.unit(&unit), ModifyIndex(5), Timestamp::UNIX_EPOCH);
        let standing = Standing { unit: &unit, keys: &keys, at: &at, read, builds: None, era: 0, marks_changed, now };
        standing.since(seen).remove(0).action
    }

    #[test]
    fn what_was_published_after_the_read_is_for_the_next_look() {
        let read: Snapshot = [("cutover/shop/latest", ""), ("x2", "")].into_iter().collect();
        let build = |index, artifact: &str| {
            let value = serde_json::json!({"artifact": artifact, "branch": "master", "commit": "0".repeat(40),
                "sha256": "0".repeat(64), "packed_bytes": 1, "unpacked_bytes": 1, "entries": 1, "format": "tar.gz",
                "by": "ci", "at": "2026-01-01T00:00:00Z"});
            let (key, index) = (format!("cutover/shop/builds/{artifact}"), ModifyIndex(index));
            let value = value.to_string().into_bytes();
            Entry { key, value, flags: 0, modify_index: index, create_index: index, session: None }
        };
        let builds = [build(1, "master-00000001"), build(3, "master-00000003")];
        assert_eq!(told(&read, &builds, 0, &Seen::default(), &[]), ["publish master-00000001 1"]);
    }

    #[test]
    fn what_was_recorded_before_the_cursor_was_lost_is_not_recorded_again() {
        let read: Snapshot = [("x1", ""), ("cutover/shop/bad/b", MARK), ("x3", "")].into_iter().collect();
        assert_eq!(told(&read, &[], 2, &Seen::default(), &[2]), ["passed over b 2"]);
    }
}
