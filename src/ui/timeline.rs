//! The phases of a deploy as a picture: all nodes prepare, then the barrier, then all nodes switch.
//!
//! Each phase has its own scale, because preparing takes seconds to minutes and switching milliseconds. A node's bar starts
//! where the phase starts; its length is the time that the node itself measured.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::text::duration;
use crate::document::{Usual, counted};
use crate::protocol::record::{Answer, History, Timings};

/// The width of a phase, in the units of its SVG.
const WIDTH: f64 = 1000.0;
/// The height of one node in a small fleet, in pixels.
const TALLEST_ROW: f64 = 10.0;
/// The height of all nodes together in a large fleet, in pixels.
const MOST_HEIGHT: f64 = 160.0;

/// The values of one node that the timeline shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) answer: Option<Answer>,
    pub(super) took: Timings,
    /// Whether the failure of this node caused the revert.
    pub(super) stopped: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panel {
    /// `Prepare`, `Switch` or `Revert`.
    pub(super) name: &'static str,
    /// The duration, so far if the phase is running, in milliseconds.
    pub(super) millis: u64,
    /// The usual duration of successful deploys.
    pub(super) usual_ms: Option<u64>,
    /// Whether the phase is still running.
    pub(super) is_open: bool,
    /// The number of nodes that finished the phase, of all nodes.
    pub(super) done: usize,
    pub(super) of: usize,
    /// The times of the fastest and of the slowest node, in milliseconds.
    pub(super) ends: Option<(u64, u64)>,
    /// The longest time from reading the commit to moving the link, in milliseconds; none while a node has not reported it.
    pub(super) linked_ms: Option<u64>,
    /// The bars of the nodes that finished, as an SVG path.
    pub(super) bars: String,
    /// The bars of the nodes that failed.
    pub(super) bad: String,
    /// The bars of the nodes that have not finished, as long as the phase has lasted.
    pub(super) open: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Timeline {
    pub(super) panels: Vec<Panel>,
    pub(super) height: f64,
    /// The thickness of a bar.
    pub(super) thick: f64,
    /// Whether the barrier, between the first phase and the second, was passed.
    pub(super) is_passed: bool,
}

/// Selects the time that a node measured for a phase, in milliseconds.
type Figure = fn(&Timings) -> Option<u64>;
/// The progress of a node in one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Failed,
    Finished,
    Pending,
}

/// Reads the progress of a node in a phase from its answer.
type ProgressOf = fn(&Bar) -> Progress;

struct Phase {
    name: &'static str,
    from: Timestamp,
    to: Option<Timestamp>,
    usual_ms: Option<u64>,
    figure: Figure,
    linked: Figure,
    progress: ProgressOf,
}

const fn prepare_progress(bar: &Bar) -> Progress {
    match bar.answer {
        Some(Answer::Refused) => Progress::Failed,
        Some(_) => Progress::Finished,
        None => Progress::Pending,
    }
}

const fn switch_progress(bar: &Bar) -> Progress {
    match bar.answer {
        Some(Answer::Reverted | Answer::Stuck) if bar.stopped => Progress::Failed,
        Some(Answer::Switched | Answer::Reverted | Answer::Stuck) => Progress::Finished,
        Some(Answer::Failed) => Progress::Failed,
        Some(Answer::Prepared | Answer::Refused) | None => Progress::Pending,
    }
}

const fn revert_progress(bar: &Bar) -> Progress {
    match bar.answer {
        Some(Answer::Reverted) => Progress::Finished,
        Some(Answer::Stuck) => Progress::Failed,
        Some(Answer::Prepared | Answer::Switched | Answer::Failed | Answer::Refused) | None => Progress::Pending,
    }
}

impl Timeline {
    /// The timeline of a deploy; none if no node took part.
    pub(super) fn of(record: &History, nodes: &[Bar], usual: Option<Usual>, now: Timestamp) -> Option<Self> {
        if nodes.is_empty() {
            return None;
        }
        let ended = record.ended_at;
        let mut phases = vec![Phase {
            name: "Prepare",
            from: record.started_at,
            to: record.committed_at.or(ended),
            usual_ms: usual.map(|usual| usual.prepare_ms),
            figure: |took| took.prepare_ms,
            linked: |_| None,
            progress: prepare_progress,
        }];
        if let Some(committed) = record.committed_at {
            let to = record.reverted_at.or(ended);
            phases.push(Phase {
                name: "Switch",
                from: committed,
                to,
                usual_ms: usual.map(|usual| usual.switch_ms),
                figure: |took| took.switch_ms,
                linked: |took| took.link_ms,
                progress: switch_progress,
            });
        }
        if let Some(reverted) = record.reverted_at {
            phases.push(Phase {
                name: "Revert",
                from: reverted,
                to: ended,
                usual_ms: None,
                figure: |took| took.revert_ms,
                linked: |_| None,
                progress: revert_progress,
            });
        }
        let count = precise(nodes.len());
        let row = (MOST_HEIGHT / count).min(TALLEST_ROW);
        Some(Self {
            panels: phases.iter().map(|phase| phase.panel(nodes, now, row)).collect(),
            height: row * count,
            thick: row * 0.7,
            is_passed: record.committed_at.is_some(),
        })
    }
}

/// A count as a length.
fn precise(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn length(millis: u64) -> f64 {
    f64::from(u32::try_from(millis).unwrap_or(u32::MAX))
}

impl Phase {
    fn panel(&self, nodes: &[Bar], now: Timestamp, row: f64) -> Panel {
        let span = self.to.unwrap_or(now).duration_since(self.from);
        let millis = u64::try_from(span.as_millis()).unwrap_or(0);
        let ready = || nodes.iter().filter(|bar| (self.progress)(bar) == Progress::Finished);
        let figures: Vec<u64> = ready().filter_map(|bar| (self.figure)(&bar.took)).collect();
        let linked: Option<Vec<u64>> = ready().map(|bar| (self.linked)(&bar.took)).collect();
        let slowest = nodes.iter().filter_map(|bar| (self.figure)(&bar.took)).max().unwrap_or(0);
        // Each node measures by its own clock, so a node can report more than the phase took. No bar leaves its panel.
        let scale = length(millis.max(slowest).max(1));
        let (mut bars, mut bad, mut open) = (String::new(), String::new(), String::new());
        for (index, bar) in nodes.iter().enumerate() {
            let (path, took) = match ((self.progress)(bar), (self.figure)(&bar.took)) {
                (Progress::Pending, _) if self.to.is_none() => (&mut open, millis),
                (Progress::Finished, Some(took)) => (&mut bars, took),
                (Progress::Failed, Some(took)) => (&mut bad, took),
                (Progress::Pending, _) | (Progress::Finished | Progress::Failed, None) => continue,
            };
            let y = row * (precise(index) + 0.5);
            // At least two units long: a shorter bar would be invisible.
            let long = (length(took) / scale * WIDTH).max(2.0);
            // Writing into a String cannot fail.
            _ = write!(path, "M0 {y:.2}h{long:.1}");
        }
        let done = ready().count();
        let linked_ms = linked.and_then(|linked| linked.into_iter().max());
        let ends = figures.iter().min().copied().zip(figures.iter().max().copied());
        let (name, usual_ms, is_open, of) = (self.name, self.usual_ms, self.to.is_none(), nodes.len());
        Panel { name, millis, usual_ms, is_open, done, of, ends, linked_ms, bars, bad, open }
    }
}

impl Panel {
    /// The text above the bars.
    pub(super) fn text(&self) -> String {
        let took = duration(self.millis);
        let of = counted(self.of, "node", "nodes");
        let so_far = if self.is_open { "so far" } else { "total" };
        let usual = self.usual_ms.map_or_else(String::new, |usual| format!(", usually {}", duration(usual)));
        let ends = match self.ends {
            Some((fastest, slowest)) if self.done > 1 => {
                format!("; fastest {}, slowest {}", duration(fastest), duration(slowest))
            }
            Some((_, slowest)) => format!("; took {}", duration(slowest)),
            None => String::new(),
        };
        // Each node measures from its own read of the commit, because the clocks of nodes differ.
        let linked = self.linked_ms.map_or_else(String::new, |within| {
            format!("; every node switched its symlink within {} of reading the commit", duration(within))
        });
        format!("{} of {of}, {took} {so_far}{usual}{ends}{linked}", self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bar_leaves_its_phase_and_a_node_without_an_answer_has_none() {
        let mut record = History { reverted_at: None, ..crate::ui::tests::record() };
        record.committed_at = Some("2026-11-23T09:00:01Z".parse().unwrap());
        record.ended_at = Some("2026-11-23T09:00:02Z".parse().unwrap());
        let bar = |answer, prepare, link, switch| Bar {
            answer,
            took: Timings { prepare_ms: prepare, link_ms: link, switch_ms: switch, revert_ms: None },
            stopped: false,
        };
        let nodes = [
            bar(Some(Answer::Switched), Some(800), Some(6), Some(20)),
            bar(Some(Answer::Switched), Some(4_000), Some(9), Some(5_000)),
            bar(None, None, None, None),
        ];
        let now = "2026-11-23T09:00:09Z".parse().unwrap();
        let usual = Some(Usual { of: 3, took_ms: 1_900, prepare_ms: 1_500, switch_ms: 400 });
        let line = Timeline::of(&record, &nodes, usual, now).unwrap();
        let said: Vec<String> = line.panels.iter().map(Panel::text).collect();
        assert_eq!(
            said,
            [
                "2 of 3 nodes, 1.0 s total, usually 1.5 s; fastest 800 ms, slowest 4.0 s",
                "2 of 3 nodes, 1.0 s total, usually 400 ms; fastest 20 ms, slowest 5.0 s; every node switched its symlink within 9 ms of reading the commit"
            ]
        );
        assert!(line.is_passed);
        assert_eq!(line.panels[0].bars, "M0 5.00h200.0M0 15.00h1000.0");
        assert_eq!((line.panels[0].bad.as_str(), line.panels[1].open.as_str()), ("", ""));
        // In a running phase, the bar of a node without an answer is as long as the phase so far.
        record.ended_at = None;
        let line = Timeline::of(&record, &nodes, None, now).unwrap();
        assert_eq!(line.panels[1].open, "M0 25.00h1000.0");
        assert_eq!(Timeline::of(&record, &[], None, now), None);
    }
}
