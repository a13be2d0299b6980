//! Operators and CI: they publish, deploy, force, roll back, abort, freeze and mark, and sometimes write unreadable
//! requests.

use super::Sim;
use super::agenda::Event;
use super::reads::artifact;
use crate::protocol::record::Phase;

/// Values for `deploy`; `%` is any build, `!` the committed one. An unreadable request must be refused once, and never
/// taken later.
const REQUESTS: [&str; 18] = [
    "master",
    "master",
    "master",
    "master",
    "hotfix",
    "hotfix",
    "%",
    r#"{"ref":"%","by":"ann","via":"cli","again":true}"#,
    r#"{"ref":"!","again":true}"#,
    r#"{"ref":"master","force":true}"#,
    r#"{"rollback":true,"by":"ann"}"#,
    r#"{"rollback":true,"by":"bob"}"#,
    r#"{"rollback":true,"ref":"%"}"#,
    r#"{"rollback":true,"ref":"!","again":true}"#,
    "missing",
    "{\"ref\":",
    "-rf /",
    "a b\u{7}",
];

impl Sim {
    /// A person acts; plans the next action.
    pub(crate) fn people(&mut self) {
        if self.is_calm {
            return;
        }
        let pause = self.mix.request_every;
        let pause = self.chance.span(pause / 4, pause * 2);
        self.later(pause, Event::People);
        if self.leader_back > self.now {
            return;
        }
        match self.chance.below(16) {
            0 => self.freezes(),
            1 => self.marks(),
            2..=3 => self.aborts(),
            4..=5 => self.publishes(),
            6..=9 => self.asks_with_care(),
            _ => self.asks(),
        }
        self.look_for_changes();
    }

    pub(crate) fn publishes(&mut self) {
        self.builds += 1;
        say!(self, "{} is published", artifact(self.builds - 1));
    }

    /// `consul kv put`, also over a waiting request.
    fn asks(&mut self) {
        if self.chance.one_in(2) {
            self.publishes();
        }
        let text = self.request();
        let key = self.kv.names.deploy();
        if self.kv.get(&key).is_some_and(|entry| !entry.value.is_empty()) {
            self.coverage.hit("request overtakes");
        }
        self.put_request(&text, None);
    }

    /// As the CLI does: only where no request waits, and `deploy` is as it was read.
    fn asks_with_care(&mut self) {
        let Some(entry) = self.kv.get(&self.kv.names.deploy()) else { return };
        let (index, is_empty) = (entry.modify_index, entry.value.is_empty());
        if is_empty {
            let (text, pause) = (self.request(), self.chance.within_ms(200));
            self.later(pause, Event::Request { text, index });
        }
    }

    fn request(&mut self) -> String {
        /// Of so many people who see that a deploy failed, one requests a rollback.
        const ROLLS_BACK: u64 = 2;
        if self.is_reverting() && self.chance.one_in(ROLLS_BACK) {
            return r#"{"rollback":true,"by":"ann"}"#.to_owned();
        }
        let any = artifact(u32::try_from(self.chance.below(u64::from(self.builds))).unwrap());
        let committed = match &self.newest().record {
            Some(Ok(record)) => record.committed.as_ref().map(|release| release.artifact.clone()),
            Some(Err(_)) | None => None,
        };
        let committed = committed.unwrap_or_else(|| any.clone());
        self.chance.pick(&REQUESTS).replace('%', any.as_str()).replace('!', committed.as_str())
    }

    fn is_reverting(&self) -> bool {
        matches!(&self.newest().record, Some(Ok(record)) if record.phase == Phase::Revert)
    }

    pub(crate) fn put_request(&mut self, text: &str, only_at: Option<u64>) {
        let key = self.kv.names.deploy();
        let before = self.kv.index_of(&key);
        let is_written = only_at.is_none_or(|index| self.kv.consul.cas(&key, text.as_bytes(), index));
        if only_at.is_none() {
            self.kv.put(&key, text.as_bytes());
        }
        let index = self.kv.index_of(&key);
        if is_written && index != before {
            say!(self, "request {index}: {text}");
            self.coverage.hit("request");
            self.judge.asked(index);
        }
        self.look_for_changes();
    }

    fn aborts(&mut self) {
        let key = self.kv.names.abort();
        let standing = match &self.newest().record {
            Some(Ok(record)) => record.epoch.to_string(),
            _ => return,
        };
        let text = if self.chance.one_in(8) { "no epoch at all".to_owned() } else { standing };
        say!(self, "abort {text}");
        self.coverage.hit("abort asked");
        self.kv.put(&key, text.as_bytes());
    }

    fn freezes(&mut self) {
        let key = self.kv.names.freeze();
        let until =
            super::START + jiff::SignedDuration::try_from(self.now).unwrap() + jiff::SignedDuration::from_secs(20);
        let timed = format!(r#"{{"by":"ann","reason":"holidays","until":"{until}"}}"#);
        let text = match self.chance.below(3) {
            0 => "",
            1 => "holidays",
            _ => timed.as_str(),
        };
        say!(self, "freeze {text:?}");
        self.coverage.hit(if text.is_empty() { "thaw" } else { "freeze" });
        self.kv.put(&key, text.as_bytes());
    }

    fn marks(&mut self) {
        let artifact = artifact(u32::try_from(self.chance.below(u64::from(self.builds))).unwrap());
        let is_bad = !self.bad.remove(&artifact);
        if is_bad {
            self.bad.insert(artifact.clone());
            self.coverage.hit("bad mark");
        }
        say!(self, "{artifact} is {}", if is_bad { "marked bad" } else { "good again" });
    }
}
