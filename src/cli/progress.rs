//! The progress of a running deploy, as text. Pure: turns records into lines, reads and prints nothing.
//!
//! The caller reads the keys and passes each change in. On a terminal it redraws [`Progress::screen`] in place; elsewhere
//! it prints [`Progress::take_lines`], one line per phase and per node that refuses or fails.

use std::collections::BTreeMap;

use super::output::{Tone, clean};
use super::view;
use crate::document::{Entries, fetching_words, step_words};
use crate::protocol::ids::{Epoch, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Ack, Answer, Barrier, Fetching, NodeRecord, Phase, decode};

/// How many nodes the screen lists. In a larger group, nodes that are not ready come first. A screen has about 24 lines.
const DRAWN_NODES: usize = 18;

/// A deploy, as far as the follower has seen it.
#[derive(Debug)]
pub(crate) struct Progress {
    unit: Unit,
    epoch: Epoch,
    phase: Option<Phase>,
    artifact: Option<String>,
    members: Vec<Node>,
    acks: BTreeMap<Node, Ack>,
    fetching: BTreeMap<Node, Fetching>,
    /// How many tenths of all downloads were printed.
    tenths: u64,
    lines: Vec<String>,
}

impl Progress {
    /// Nothing seen yet.
    #[must_use]
    pub(crate) const fn new(unit: Unit, epoch: Epoch) -> Self {
        Self {
            unit,
            epoch,
            phase: None,
            artifact: None,
            members: Vec::new(),
            acks: BTreeMap::new(),
            fetching: BTreeMap::new(),
            tenths: 0,
            lines: Vec::new(),
        }
    }

    /// Whether the coordinator has begun this deploy.
    #[must_use]
    pub(crate) const fn has_begun(&self) -> bool {
        self.phase.is_some()
    }

    /// Whether the members are known. They do not change during a deploy.
    #[must_use]
    pub(crate) const fn knows_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// The lines since the last call.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// The frozen members of this epoch.
    pub(crate) fn see_members(&mut self, members: Vec<Node>) {
        self.members = members;
    }

    /// Takes in the barrier. A record of another epoch is ignored.
    pub(crate) fn see_barrier(&mut self, barrier: &Barrier) {
        if barrier.epoch != self.epoch || self.phase == Some(barrier.phase) {
            return;
        }
        self.phase = Some(barrier.phase);
        self.artifact = barrier.target().map(|r| r.artifact.to_string());
        let what = self.artifact.clone().unwrap_or_default();
        let nodes = match self.members.len() {
            0 => "every node".to_owned(),
            1 => "1 node".to_owned(),
            count => format!("{count} nodes"),
        };
        let all = if self.members.len() > 1 { format!("all {nodes}") } else { nodes.clone() };
        let text = match barrier.phase {
            Phase::Prepare => format!("preparing {what} on {nodes}; no node switches yet"),
            Phase::Commit => format!("{all} prepared; switching to {what} now"),
            Phase::Revert => format!("a switch failed; reverting {nodes} to {}", before(barrier)),
            Phase::Done => format!("{what} runs on {nodes}"),
            Phase::Aborted => "no node has switched".to_owned(),
            Phase::Reverted => format!("reverted to {}", before(barrier)),
            Phase::Idle => return,
        };
        self.lines.push(format!("{}  deploy #{}  {}  {text}", self.unit, self.epoch, barrier.phase.as_str()));
    }

    /// Takes in the answers. Answers to other epochs are ignored.
    pub(crate) fn see_acks(&mut self, keys: &UnitKeys, entries: &Entries) {
        let prefix = keys.acks();
        for (key, entry) in entries {
            let Some(Ok(node)) = key.strip_prefix(&prefix).map(str::parse::<Node>) else { continue };
            // The coordinator reports an unreadable answer. Here the node simply shows no progress.
            let Ok(ack) = decode::<Ack>(key, &entry.value) else { continue };
            if ack.epoch != self.epoch || self.acks.get(&node) == Some(&ack) {
                continue;
            }
            if let Some(fault) = &ack.fault {
                self.lines.push(view::fault_lines(&node, fault).trim_end().to_owned());
            }
            self.acks.insert(node, ack);
        }
    }

    /// Takes in the nodes' records, while nodes prepare. Prints a line for each tenth of what all members download.
    pub(crate) fn see_nodes(&mut self, keys: &UnitKeys, entries: &Entries) {
        if self.phase != Some(Phase::Prepare) {
            return;
        }
        let prefix = keys.nodes();
        let fetching = entries.iter().filter_map(|(key, entry)| {
            let node: Node = key.strip_prefix(&prefix)?.parse().ok()?;
            let is_awaited = self.members.contains(&node) && !self.acks.contains_key(&node);
            let lives = entry.session.is_some();
            // An unreadable record shows no progress, nothing else.
            let record = decode::<NodeRecord>(key, &entry.value).ok().filter(|_| is_awaited && lives)?;
            Some((node, record.fetching?))
        });
        self.fetching = fetching.collect();
        let Some(packed_bytes) = self.fetching.values().map(|it| it.packed_bytes).max() else { return };
        let received: u64 = self.fetching.values().map(|it| it.received_bytes).sum();
        let answered = self.members.iter().filter(|node| self.acks.contains_key(node)).count() as u64;
        let all = packed_bytes.saturating_mul(self.members.len() as u64).max(1);
        let tenths = received.saturating_add(answered.saturating_mul(packed_bytes)).saturating_mul(10) / all;
        if tenths > self.tenths {
            self.tenths = tenths;
            self.lines.push(format!("{}  deploy #{}  prepare  {}", self.unit, self.epoch, self.downloads()));
        }
    }

    /// `web-1 downloading, 12.0 MB of 40.0 MB; web-2 unpacking, all 40.0 MB downloaded; and 7 more`: those that are behind first.
    fn downloads(&self) -> String {
        const SHOWN: usize = 4;
        let mut behind: Vec<_> = self.fetching.iter().collect();
        behind.sort_by_key(|(_, fetching)| fetching.received_bytes);
        let shown = behind.iter().take(SHOWN).map(|(node, fetching)| format!("{node} {}", fetching_words(fetching)));
        let more = behind.len().saturating_sub(SHOWN);
        shown.chain((more > 0).then(|| format!("and {more} more"))).collect::<Vec<_>>().join("; ")
    }

    /// The current state of the deploy, for a terminal: a headline, then nodes.
    #[must_use]
    pub(crate) fn screen(&self) -> String {
        let Some(phase) = self.phase else {
            return format!("{}  deploy #{}  waiting for the coordinator", self.unit, self.epoch);
        };
        let answered = self.members.iter().filter(|node| self.is_ready(node)).count();
        let artifact = self.artifact.as_deref().unwrap_or_default();
        let mut out = format!(
            "{}  {artifact}  deploy #{}  {}  {answered}/{}",
            self.unit,
            self.epoch,
            Tone::Strong.paint(phase.as_str()),
            self.members.len()
        );
        let mut shown: Vec<&Node> = self.members.iter().collect();
        // If not all nodes fit, those still waited for come first. The sort is stable, so names stay in order.
        if shown.len() > DRAWN_NODES {
            shown.sort_by_key(|node| self.is_ready(node));
        }
        let width = shown.iter().take(DRAWN_NODES).map(|node| node.as_str().len()).max().unwrap_or(0);
        let lines = shown.iter().take(DRAWN_NODES).map(|node| format!("\n  {node:<width$}  {}", self.state(node)));
        let rest = shown.len().saturating_sub(DRAWN_NODES);
        let more = (rest > 0).then(|| format!("\n  and {rest} more"));
        out.extend(lines.chain(more));
        out
    }

    /// Whether a node has answered what the phase asks for.
    fn is_ready(&self, node: &Node) -> bool {
        let answer = self.acks.get(node).map(|ack| ack.answer);
        match self.phase {
            Some(Phase::Prepare | Phase::Aborted) => answer.is_some(),
            Some(Phase::Commit | Phase::Done) => matches!(answer, Some(Answer::Switched | Answer::Failed)),
            Some(Phase::Revert | Phase::Reverted) => matches!(answer, Some(Answer::Reverted | Answer::Stuck)),
            Some(Phase::Idle) | None => false,
        }
    }

    fn state(&self, node: &Node) -> String {
        let Some(ack) = self.acks.get(node) else {
            let preparing = || "preparing".to_owned();
            return Tone::Warn.paint(&self.fetching.get(node).map_or_else(preparing, fetching_words));
        };
        let doing = match (self.phase, ack.answer) {
            (Some(Phase::Commit), Answer::Prepared) => Some("switching"),
            (Some(Phase::Revert), Answer::Prepared | Answer::Switched | Answer::Failed) => Some("reverting"),
            _ => None,
        };
        if let Some(doing) = doing {
            return Tone::Warn.paint(doing);
        }
        match &ack.fault {
            None => Tone::Good.paint(view::answer_word(ack.answer)),
            Some(fault) => {
                let word = view::answer_word(ack.answer);
                Tone::Bad.paint(&format!("{word}: {}: {}", step_words(fault.step), clean(&fault.reason)))
            }
        }
    }
}

fn before(barrier: &Barrier) -> String {
    barrier.from.as_ref().map_or_else(|| "the previous release".to_owned(), |r| r.artifact.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Entry;
    use crate::protocol::keys::Keys;
    use crate::protocol::record::{AbsentNodes, FORMAT, Fault, Policy, Release, Step, Timings, encode};

    const EPOCH: Epoch = Epoch { era: 0, number: 100 };

    fn barrier() -> Barrier {
        let policy = Policy {
            prepare_timeout_secs: 1,
            switch_timeout_secs: 1,
            revert_timeout_secs: 1,
            absence_grace_secs: 1,
            absent_nodes: AbsentNodes::Fail,
            min_nodes: 1,
        };
        let release = Release {
            epoch: EPOCH,
            artifact: "master-00000002".parse().unwrap(),
            sha256: "0".repeat(64).parse().unwrap(),
            release: "20261123091500".parse().unwrap(),
        };
        let (phase, deploy) = (Phase::Prepare, Some((release, policy)));
        Barrier { epoch: EPOCH, phase, deploy, from: None, committed: None }
    }

    fn answers(keys: &UnitKeys, node: &str, answer: Answer, fault: Option<Fault>) -> Entries {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let ack = Ack { format: FORMAT, epoch: EPOCH, answer, fault, took: Timings::default(), at };
        let entry = Entry { value: encode(&ack).into_bytes(), ..Entry::default() };
        Entries::from([(format!("{}{node}", keys.acks()), entry)])
    }

    /// The records of nodes that are alive, with what each has of 40 MB.
    fn downloads(keys: &UnitKeys, received: &[(&str, u64)]) -> Entries {
        let entry = |(name, received_bytes): &(&str, u64)| {
            let value = serde_json::json!({
                "format": 1, "node": name, "consul_node": name, "version": "1", "config_digest": "", "staged": [],
                "fetching": {"artifact": "master-00000002", "received_bytes": received_bytes, "packed_bytes": 40_000_000},
                "free_bytes": 0, "at": "2026-11-23T09:15:00Z",
            });
            let value = value.to_string().into_bytes();
            (format!("{}{name}", keys.nodes()), Entry { value, session: Some("s".to_owned()), ..Entry::default() })
        };
        received.iter().map(entry).collect()
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn each_phase_and_each_refusal_is_printed_once() {
        let unit: Unit = "shop/production".parse().unwrap();
        let keys = Keys::default().unit(&unit);
        let mut progress = Progress::new(unit, EPOCH);
        progress.see_members(vec!["web-1".parse().unwrap(), "web-2".parse().unwrap()]);
        progress.see_barrier(&barrier());
        progress.see_barrier(&barrier());
        let fault = Fault { output: "tail\n".to_owned(), ..Fault::new(Step::PrepareHook, "exit status 3") };
        let acks = answers(&keys, "web-2", Answer::Refused, Some(fault));
        progress.see_acks(&keys, &acks);
        progress.see_acks(&keys, &acks);
        progress.see_barrier(&barrier().in_phase(Phase::Aborted));
        let lines: Vec<String> = progress.take_lines().iter().map(|l| plain(l)).collect();
        assert_eq!(
            lines,
            [
                "shop/production  deploy #100  prepare  preparing master-00000002 on 2 nodes; no node switches yet",
                "prepare hook on web-2: exit status 3\n  | tail",
                "shop/production  deploy #100  aborted  no node has switched",
            ]
        );
    }

    #[test]
    fn a_record_of_another_deploy_is_ignored() {
        let mut progress = Progress::new("shop/production".parse().unwrap(), Epoch { era: 0, number: 101 });
        progress.see_barrier(&barrier());
        assert!(!progress.has_begun() && progress.take_lines().is_empty());
        assert!(progress.screen().ends_with("waiting for the coordinator"));
    }

    #[test]
    fn a_large_group_shows_unanswered_nodes_first() {
        let unit: Unit = "shop/production".parse().unwrap();
        let keys = Keys::default().unit(&unit);
        let mut progress = Progress::new(unit, EPOCH);
        progress.see_members((0..30).map(|n| format!("web-{n:02}").parse().unwrap()).collect());
        progress.see_barrier(&barrier());
        progress.see_acks(&keys, &answers(&keys, "web-00", Answer::Prepared, None));
        let screen = plain(&progress.screen());
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!(lines[0], "shop/production  master-00000002  deploy #100  prepare  1/30");
        assert_eq!((lines[1], lines.last().copied()), ("  web-01  preparing", Some("  and 12 more")));
    }

    #[test]
    fn downloads_are_drawn_at_each_change_and_printed_at_each_tenth() {
        let unit: Unit = "shop/production".parse().unwrap();
        let keys = Keys::default().unit(&unit);
        let mut progress = Progress::new(unit, EPOCH);
        progress.see_members(vec!["web-1".parse().unwrap(), "web-2".parse().unwrap()]);
        let see = |progress: &mut Progress, received: &[(&str, u64)]| {
            progress.see_nodes(&keys, &downloads(&keys, received));
            progress.take_lines().concat()
        };
        assert_eq!(see(&mut progress, &[("web-1", 20_000_000)]), "", "nothing has begun");
        progress.see_barrier(&barrier());
        progress.take_lines();
        assert_eq!(see(&mut progress, &[("web-1", 4_000_000), ("web-9", 40_000_000)]), "");
        assert!(plain(&progress.screen()).contains("web-1  downloading, 4.00 MB of 40.00 MB\n  web-2  preparing"));
        assert_eq!(
            see(&mut progress, &[("web-1", 12_000_000), ("web-2", 10_000_000)]),
            "shop/production  deploy #100  prepare  web-2 downloading, 10.00 MB of 40.00 MB; web-1 downloading, \
             12.00 MB of 40.00 MB"
        );
        assert_eq!(see(&mut progress, &[("web-1", 12_500_000), ("web-2", 10_000_000)]), "");
        // A node that has answered has everything.
        progress.see_acks(&keys, &answers(&keys, "web-1", Answer::Prepared, None));
        assert_eq!(
            see(&mut progress, &[("web-1", 12_500_000), ("web-2", 40_000_000)]),
            "shop/production  deploy #100  prepare  web-2 unpacking, all 40.00 MB downloaded"
        );
        assert!(plain(&progress.screen()).contains("web-1  prepared\n  web-2  unpacking"));
    }
}
