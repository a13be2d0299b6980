//! Judges a fleet from outside: by its `current` links and by what lies in Consul, with nothing of the product.
//!
//! It reads every link once in [`LOOK`], follows every node's answer and the barrier by blocking queries, and reads
//! both again, consistently, right after a link has moved. Its verdict names each
//!
//! 1. member without a prepared answer older, in Raft's order, than the decision to switch;
//! 2. link that moved before a member had answered: by the answer's own time against the link's ctime, and by what
//!    Consul held after the link had moved;
//! 3. link that names a release which nobody decided on, which was aborted, or which is not there;
//! 4. epoch that was both committed and aborted, and request that has no end;
//! 5. node that, at rest, is not on what is committed.
//!
//! Only certain violations count: what the judge saw late, because the machine was busy or Consul did not answer, is no
//! fault of the fleet. Answers that it never saw, because the next one had replaced them, are counted as such.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::consul::{Consul, Entry};

/// Between two looks at all links.
const LOOK: Duration = Duration::from_micros(500);
/// The kernel stamps files with the time of its last tick; at 100 Hz, the slowest that is built, 10 ms ago.
const TICK_NANOS: i128 = 10_000_000;
/// How long one blocking query waits; the judge ends within it.
const WAIT: &str = "wait=1s";
/// The pause after a query that failed: a Consul without leader says so at once, again and again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the last read is tried before the judge says that it cannot judge.
const LAST_READS: usize = 500;

/// A node as the judge knows it.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) name: String,
    /// The `current` link.
    pub(crate) link: PathBuf,
}

/// A link seen with another target than before.
#[derive(Clone, Debug)]
struct Moved {
    node: String,
    /// None: no link.
    target: Option<String>,
    /// The link's ctime: when it was renamed into place, in nanoseconds since 1970.
    at: i128,
    is_complete: bool,
    /// What Consul held after that.
    barrier: Option<Entry>,
    /// None: Consul did not say.
    acks: Option<Vec<Entry>>,
}

#[derive(Debug, Default)]
struct Evidence {
    moved: Vec<Moved>,
    /// Every version of the barrier and of each answer that was seen, by ModifyIndex.
    barriers: BTreeMap<u64, Value>,
    acks: BTreeMap<(String, u64), Value>,
    /// The frozen members of each epoch; Consul holds only the latest ones.
    members: BTreeMap<String, BTreeSet<String>>,
    /// Every request's record, as it stands at the end.
    history: Vec<Value>,
    /// Barriers that the test itself has put.
    disowned: BTreeSet<u64>,
    trouble: Vec<String>,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<String>,
    /// Decisions to switch that were seen.
    pub(crate) commits: usize,
    /// Prepared answers that were seen before their decision, and those that were replaced too soon to be seen.
    pub(crate) acks_seen: usize,
    pub(crate) acks_unseen: usize,
    /// Links seen moving.
    pub(crate) moves: usize,
}

/// Watches until it is asked.
#[derive(Debug)]
pub(crate) struct Judge {
    consul: Consul,
    prefix: String,
    nodes: Vec<Watched>,
    evidence: Arc<Mutex<Evidence>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Judge {
    /// Begins to watch the unit whose keys lie under `prefix` (with a `/` at its end).
    pub(crate) fn watch(consul: &Consul, prefix: &str, nodes: &[Watched]) -> Self {
        let mut judge = Self {
            consul: consul.clone(),
            prefix: prefix.to_owned(),
            nodes: nodes.to_vec(),
            evidence: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let mut keys = vec!["barrier".to_owned(), "members/".to_owned()];
        keys.extend(nodes.iter().map(|node| format!("acks/{}", node.name)));
        for key in keys {
            judge.spawn(move |judge| judge.follow(&key));
        }
        for node in nodes {
            let node = node.clone();
            judge.spawn(move |judge| judge.look(&node));
        }
        judge
    }

    fn spawn(&mut self, work: impl FnOnce(&Self) + Send + 'static) {
        let view = Self {
            consul: self.consul.clone(),
            prefix: self.prefix.clone(),
            nodes: Vec::new(),
            evidence: Arc::clone(&self.evidence),
            stop: Arc::clone(&self.stop),
            threads: Vec::new(),
        };
        self.threads.push(std::thread::spawn(move || work(&view)));
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A key's versions, or those of all keys under it, as they come.
    fn follow(&self, key: &str) {
        let path = format!("{}{key}", self.prefix);
        let mut index = 0;
        while !self.is_stopped() {
            let recurse = if key.ends_with('/') { "&recurse" } else { "" };
            let Ok((next, entries)) = self.consul.keys(&path, &format!("index={index}&{WAIT}{recurse}")) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            index = if next < index { 0 } else { next };
            let mut evidence = self.evidence.lock().unwrap();
            for entry in &entries {
                evidence.note(&self.prefix, entry);
            }
        }
    }

    /// One node's link, all the time.
    fn look(&self, node: &Watched) {
        let mut last = None;
        while !self.is_stopped() {
            let seen = sight(&node.link);
            if last.as_ref() != Some(&seen) {
                let is_first = last.is_none();
                let (target, at, is_complete) = seen.clone();
                last = Some(seen);
                // Where it stood when the judge came was decided before.
                if !is_first {
                    let barrier = self.consul.key(&format!("{}barrier", self.prefix)).ok().flatten();
                    let acks = self.consul.keys(&format!("{}acks/", self.prefix), "recurse&consistent");
                    let mut evidence = self.evidence.lock().unwrap();
                    let acks = acks.map(|(_, acks)| acks).ok();
                    for entry in acks.iter().flatten().chain(&barrier) {
                        evidence.note(&self.prefix, entry);
                    }
                    evidence.moved.push(Moved { node: node.name.clone(), target, at, is_complete, barrier, acks });
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What stands as the barrier under this index was put there by the test, and decides nothing.
    pub(crate) fn disown(&self, index: u64) {
        self.evidence.lock().unwrap().disowned.insert(index);
    }

    /// What nobody followed in time still stands: the newest answers, and every request's record.
    fn last_read(&self) {
        for key in ["barrier", "members/", "acks/", "history/"] {
            let path = format!("{}{key}", self.prefix);
            let read = (0..LAST_READS).find_map(|_| {
                let read = self.consul.keys(&path, "recurse&consistent").ok();
                read.or_else(|| {
                    std::thread::sleep(PAUSE);
                    None
                })
            });
            let mut evidence = self.evidence.lock().unwrap();
            let Some((_, entries)) = read else {
                evidence.trouble.push(format!("{key} could not be read at the end"));
                continue;
            };
            for entry in &entries {
                evidence.note(&self.prefix, entry);
            }
            if key == "history/" {
                evidence.history = entries.iter().filter_map(Entry::json).collect();
            }
        }
    }

    /// Ends the watch and judges; the fleet must be at rest.
    pub(crate) fn verdict(mut self) -> Verdict {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread of the judge has panicked");
        }
        self.last_read();
        let mut evidence = std::mem::take(&mut *self.evidence.lock().unwrap());
        for index in std::mem::take(&mut evidence.disowned) {
            evidence.barriers.remove(&index);
        }
        let mut verdict = Verdict { violations: evidence.trouble.clone(), ..Verdict::default() };
        verdict.moves = evidence.moved.len();
        Self::judge_decisions(&evidence, &mut verdict);
        Self::judge_ends(&evidence, &mut verdict);
        self.judge_moves(&evidence, &mut verdict);
        self.judge_rest(&mut verdict);
        verdict
    }

    /// In Raft's order: every member's yes, then the decision.
    fn judge_decisions(evidence: &Evidence, verdict: &mut Verdict) {
        for (commit_index, record) in evidence.barriers.iter().filter(|(_, record)| record["phase"] == "commit") {
            verdict.commits += 1;
            let epoch = epoch_of(record);
            let name = shown(epoch);
            let members = evidence.members.get(&name).cloned().unwrap_or_default();
            if members.is_empty() {
                verdict.violations.push(format!("epoch {name} was committed without members"));
            }
            for member in members {
                let answers = evidence.acks.iter().filter(|((node, _), ack)| *node == member && epoch_of(ack) == epoch);
                let mut is_early = false;
                let mut later = Vec::new();
                for ((_, index), ack) in answers {
                    is_early |= index < commit_index && ack["answer"] == "prepared";
                    if index > commit_index {
                        later.push((*index, ack["answer"].as_str().unwrap_or_default().to_owned()));
                    }
                }
                if is_early {
                    verdict.acks_seen += 1;
                } else if later.iter().any(|(_, answer)| answer == "prepared") || later.is_empty() {
                    verdict.violations.push(format!(
                        "epoch {name} was committed at {commit_index}, and {member} had not answered prepared before \
                         that (later: {later:?})"
                    ));
                } else {
                    verdict.acks_unseen += 1;
                }
            }
        }
    }

    /// Every request has one end, and what was aborted ran nowhere.
    fn judge_ends(evidence: &Evidence, verdict: &mut Verdict) {
        let of = |phase: &str| -> BTreeSet<Epoch> {
            evidence.barriers.values().filter(|record| record["phase"] == phase).map(epoch_of).collect()
        };
        for epoch in of("commit").intersection(&of("aborted")) {
            verdict.violations.push(format!("epoch {} was both committed and aborted", shown(*epoch)));
        }
        for record in &evidence.history {
            let epoch = shown(epoch_of(record));
            let Some(outcome) = record["outcome"].as_str() else {
                verdict.violations.push(format!("epoch {epoch} has no end"));
                continue;
            };
            // A rollback names a release that ran before.
            let is_new = record["rollback"] != true;
            let Some(release) = record["release"].as_str().filter(|_| is_new && outcome == "aborted") else { continue };
            let target = format!("releases/{release}");
            for moved in evidence.moved.iter().filter(|moved| moved.target.as_ref() == Some(&target)) {
                verdict.violations.push(format!("{} ran {release}, and epoch {epoch} was aborted", moved.node));
            }
        }
    }

    /// By time: every member's yes, then any link.
    fn judge_moves(&self, evidence: &Evidence, verdict: &mut Verdict) {
        let committed = evidence.barriers.values().map(|record| &record["committed"]);
        // The barrier of a moment without Consul is seen by nobody; the request's record keeps the decision.
        let recorded = evidence.history.iter().filter(|record| record["committed_at"].is_string());
        let decided: BTreeSet<&str> = committed.chain(recorded).filter_map(|it| it["release"].as_str()).collect();
        for moved in &evidence.moved {
            let Some(target) = &moved.target else { continue };
            let release = Path::new(target).file_name().unwrap_or_default().to_string_lossy().into_owned();
            let node = &moved.node;
            if !moved.is_complete {
                verdict.violations.push(format!("{node} points to {target}, which is no complete release"));
            }
            if !decided.contains(release.as_str()) {
                verdict.violations.push(format!("{node} points to {target}, which nobody has decided on"));
            }
            let Some(record) = moved.barrier.as_ref().and_then(Entry::json) else { continue };
            // On the way back, and after the next deploy has begun, the record is about another release.
            if record["release"] != release.as_str() {
                continue;
            }
            let epoch = epoch_of(&record);
            if record["phase"] == "prepare" {
                verdict
                    .violations
                    .push(format!("{node} points to {target} while epoch {} is in prepare", shown(epoch)));
            }
            for member in evidence.members.get(&shown(epoch)).into_iter().flatten() {
                self.judge_move(evidence, moved, (epoch, member), verdict);
            }
        }
    }

    /// One link against one member's answer.
    fn judge_move(&self, evidence: &Evidence, moved: &Moved, (epoch, member): (Epoch, &str), verdict: &mut Verdict) {
        let (node, target) = (&moved.node, moved.target.as_deref().unwrap_or_default());
        let key = format!("{}acks/{member}", self.prefix);
        let Some(acks) = &moved.acks else { return };
        let held = acks.iter().find(|entry| entry.key == key).and_then(Entry::json);
        // The answers are read after the barrier, and may be about a later epoch already.
        let is_yes =
            held.is_some_and(|ack| epoch_of(&ack) > epoch || epoch_of(&ack) == epoch && ack["answer"] != "refused");
        if !is_yes {
            let epoch = shown(epoch);
            verdict
                .violations
                .push(format!("{node} points to {target}, and {member} has not answered epoch {epoch} yet"));
        }
        // A restarted agent answers again; the first answer is the promise.
        let answers = evidence.acks.iter().filter(|((who, _), _)| who == member).map(|(_, ack)| ack);
        let promised = answers
            .filter(|ack| epoch_of(ack) == epoch && ack["answer"] == "prepared")
            .filter_map(|ack| ack["at"].as_str()?.parse::<jiff::Timestamp>().ok())
            .min();
        if let Some(at) = promised.filter(|at| at.as_nanosecond() > moved.at + TICK_NANOS) {
            let early = (at.as_nanosecond() - moved.at) / 1000;
            verdict.violations.push(format!("{node} switched to {target} {early} us before {member} answered at {at}"));
        }
    }

    fn judge_rest(&self, verdict: &mut Verdict) {
        let barrier = self.consul.key(&format!("{}barrier", self.prefix)).ok().flatten().and_then(|entry| entry.json());
        let Some(barrier) = barrier else {
            verdict.violations.push("the barrier is gone".to_owned());
            return;
        };
        let committed = barrier["committed"]["release"].as_str().map(|release| format!("releases/{release}"));
        for node in &self.nodes {
            let (target, _, _) = sight(&node.link);
            if committed.is_some() && target != committed {
                verdict
                    .violations
                    .push(format!("at rest {} is on {target:?}, and {committed:?} is committed", node.name));
            }
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Evidence {
    fn note(&mut self, prefix: &str, entry: &Entry) {
        let Some(record) = entry.json() else { return };
        let name = entry.key.strip_prefix(prefix).unwrap_or_default();
        if let Some(epoch) = name.strip_prefix("members/") {
            let names = record.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            if let Some(known) = self.members.insert(epoch.to_owned(), names).filter(|it| *it != self.members[epoch]) {
                self.trouble.push(format!("epoch {epoch} had other members before: {known:?}"));
            }
        } else if let Some(node) = name.strip_prefix("acks/") {
            self.acks.insert((node.to_owned(), entry.modify_index), record);
        } else if name == "barrier"
            && let Some(known) = self.barriers.insert(entry.modify_index, record.clone()).filter(|it| *it != record)
        {
            self.trouble.push(format!("index {} had two barriers: {known} and {record}", entry.modify_index));
        }
    }
}

/// Era and number, in the order of time.
type Epoch = (u64, u64);

fn epoch_of(record: &Value) -> Epoch {
    (record["era"].as_u64().unwrap_or(0), record["epoch"].as_u64().unwrap_or(0))
}

/// As in key names: the era stands before the number only where keys were once recovered.
fn shown((era, number): Epoch) -> String {
    if era == 0 { number.to_string() } else { format!("{era}.{number}") }
}

/// Where the link points to, since when, and whether there is a whole release.
fn sight(link: &Path) -> (Option<String>, i128, bool) {
    // The link may be replaced in between: only two equal looks around the ctime are one.
    loop {
        let before = std::fs::read_link(link).ok();
        let meta = std::fs::symlink_metadata(link).ok();
        if before != std::fs::read_link(link).ok() {
            continue;
        }
        let at = meta.map_or_else(now, |meta| i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()));
        let Some(target) = before else { return (None, 0, false) };
        let is_complete = link.join("REVISION").is_file();
        return (Some(target.to_string_lossy().into_owned()), at, is_complete);
    }
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}
