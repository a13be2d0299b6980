//! The outcome of a request as text: the failing node and its reason first.

use super::line;
use crate::cli::output::{Tone, clean, clean_lines, duration};
use crate::document::{DeployDocument, DeployState, changes_sentence, counted, step_words};
use crate::protocol::ids::Node;
use crate::protocol::record::{Fault, History};

/// The outcome in one line, then the fault that stopped the request, then the faults of other nodes.
#[must_use]
pub(crate) fn deploy(document: &DeployDocument) -> String {
    let tone = match document.fate {
        DeployState::Done => Tone::Good,
        DeployState::Failed | DeployState::Reverted => Tone::Bad,
        DeployState::Requested | DeployState::Running => Tone::Plain,
        DeployState::Aborted | DeployState::Overtaken | DeployState::Refused | DeployState::Unknown => Tone::Warn,
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

/// A node's fault: one line, then the output of the hook.
#[must_use]
pub(crate) fn fault_lines(node: &Node, fault: &Fault) -> String {
    let head = format!("{} on {node}: {}\n", step_words(fault.step), clean(&fault.reason));
    format!("{}{}", Tone::Bad.paint(&head), clean_lines(&fault.output, "  | "))
}

fn facts(document: &DeployDocument, record: &History) -> String {
    let mut out = line("group", &record.unit.to_string());
    if let Some(artifact) = &record.artifact {
        let release = record.release.as_ref().map_or_else(String::new, |r| format!("  release {r}"));
        out += &line("artifact", &format!("{artifact}{release}"));
    }
    if !record.summary.is_empty() {
        out += &line("subject", &clean(&record.summary.to_string()));
    }
    if let Some(from) = &record.from {
        out += &line("previous", &format!("{}  release {}", from.artifact, from.release));
    }
    if let Some(before) = document.before.as_ref().filter(|before| !before.summary.is_empty()) {
        out += &line("its subject", &clean(&before.summary.to_string()));
    }
    if let Some(changes) = &record.changes {
        out += &line("ships", &clean(&changes_sentence(changes)));
    }
    let took = record.ended_at.map_or_else(String::new, |ended| {
        let millis = u64::try_from(ended.duration_since(record.started_at).as_millis()).unwrap_or(0);
        format!("  took {}  on {}", duration(millis), counted(record.nodes.len(), "node", "nodes"))
    });
    out += &line("deploy", &format!("#{}{took}", record.epoch));
    if let Some(usual) = document.usual.filter(|_| document.fate == DeployState::Done) {
        let [took, prepare, switch] = [usual.took_ms, usual.prepare_ms, usual.switch_ms].map(duration);
        out += &line(
            "usually",
            &format!("{took}  prepare {prepare}  switch {switch}  the median of {} earlier ones", usual.of),
        );
    }
    for note in &record.notes {
        out += &line("note", &clean(note));
    }
    for node in &record.left_out {
        out += &line("left out", node.as_str());
    }
    out
}
