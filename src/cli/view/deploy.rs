//! How a request ended, as text: the failing node and its reason first.

use super::line;
use crate::cli::output::{Tone, clean, clean_lines, duration};
use crate::document::{DeployDocument, Fate};
use crate::protocol::ids::Node;
use crate::protocol::record::{Fault, History};

/// The outcome in a line, then what stopped it, then every other node that said no.
#[must_use]
pub fn deploy(document: &DeployDocument) -> String {
    let tone = match document.fate {
        Fate::Done => Tone::Good,
        Fate::Failed | Fate::Reverted => Tone::Bad,
        Fate::Requested | Fate::Running => Tone::Plain,
        Fate::Aborted | Fate::Overtaken | Fate::Refused | Fate::Unknown => Tone::Warn,
    };
    let mut out = format!("{}\n", tone.paint(&clean(&document.headline)));
    let Some(record) = &document.record else { return out };
    if let Some(fault) = record.fault.as_ref().filter(|f| !f.output.is_empty()) {
        out += &clean_lines(&fault.output, "  | ");
    }
    for (node, outcome) in &record.nodes {
        let Some(fault) = &outcome.fault else { continue };
        if record.node.as_ref() != Some(node) {
            out += &fault_lines(node, fault);
        }
    }
    out += &facts(document, record);
    out
}

/// A node's fault: a line, and the hook's output below it.
#[must_use]
pub fn fault_lines(node: &Node, fault: &Fault) -> String {
    let head = format!("{node} at {}: {}\n", fault.step.as_str(), clean(&fault.reason));
    format!("{}{}", Tone::Bad.paint(&head), clean_lines(&fault.output, "  | "))
}

fn facts(document: &DeployDocument, record: &History) -> String {
    let mut out = line("unit", &record.unit.to_string());
    if let Some(artifact) = &record.artifact {
        let release = record.release.as_ref().map_or_else(String::new, |r| format!("  release {r}"));
        out += &line("artifact", &format!("{artifact}{release}"));
    }
    if !record.summary.is_empty() {
        out += &line("says", &clean(&record.summary.to_string()));
    }
    if let Some(from) = &record.from {
        out += &line("before", &format!("{}  release {}", from.artifact, from.release));
    }
    if let Some(before) = document.before.as_ref().filter(|before| !before.summary.is_empty()) {
        out += &line("said", &clean(&before.summary.to_string()));
    }
    let took = record.ended_at.map_or_else(String::new, |ended| {
        let millis = u64::try_from(ended.duration_since(record.started_at).as_millis()).unwrap_or(0);
        format!("  took {}  on {} nodes", duration(millis), record.nodes.len())
    });
    out += &line("deploy", &format!("epoch {}{took}", record.epoch));
    if let Some(usual) = document.usual.filter(|_| document.fate == Fate::Done) {
        let [took, prepare, switch] = [usual.took_ms, usual.prepare_ms, usual.switch_ms].map(duration);
        out +=
            &line("usually", &format!("{took}  prepare {prepare}  switch {switch}  the median of {} before", usual.of));
    }
    for note in &record.notes {
        out += &line("note", &clean(note));
    }
    for node in &record.left_out {
        out += &line("left out", node.as_str());
    }
    out
}
