//! `cutover recover` as text: the damage, what each node runs, and the state to be written.

use super::line;
use crate::cli::output::{Table, Tone, clean};
use crate::document::{AgentState, RecoverDocument, RecoverNode, Recovery};
use crate::protocol::ids::Node;

/// The outcome first, then the plan.
#[must_use]
pub(crate) fn recover(document: &RecoverDocument) -> String {
    let tone = match document.fate {
        Recovery::Done | Recovery::Nothing => Tone::Good,
        Recovery::Planned => Tone::Strong,
        Recovery::Busy | Recovery::Refused | Recovery::Unfinished => Tone::Warn,
    };
    format!("{}\n{}", tone.paint(&clean(&document.headline)), plan(document))
}

/// The damage, what each node runs, and the state that is or would be written.
#[must_use]
pub(crate) fn plan(document: &RecoverDocument) -> String {
    let mut out = line("group", &Tone::Strong.paint(&document.unit.to_string()));
    for trouble in &document.troubles {
        out += &line("wrong", &Tone::Bad.paint(&clean(trouble)));
    }
    if let Some(epoch) = document.epoch {
        let what = document.committed.as_ref().map_or_else(
            || "nothing deployed".to_owned(),
            |release| format!("{}  release {}", release.artifact, release.release),
        );
        out += &line("start", &format!("deploy #{epoch}  with {what}"));
    }
    for choice in &document.choices {
        let names = |nodes: &[Node]| nodes.iter().map(Node::as_str).collect::<Vec<_>>().join(", ");
        let on = if choice.nodes.is_empty() { "no live node".to_owned() } else { names(&choice.nodes) };
        let away = if choice.away.is_empty() { String::new() } else { format!("; away: {}", names(&choice.away)) };
        out += &line("choice", &format!("--to {}  artifact {}  on {on}{away}", choice.release, choice.artifact));
    }
    if !document.nodes.is_empty() {
        out.push('\n');
        out += &table(document);
    }
    out
}

fn table(document: &RecoverDocument) -> String {
    let mut table = Table::with_heading(&["NODE", "STATE", "RUNS", "RELEASE", "FOLLOWED", "ACTION", "NOTES"]);
    for node in &document.nodes {
        let state = match node.state {
            AgentState::Alive => ("alive", Tone::Good),
            AgentState::Absent => ("absent", Tone::Bad),
            AgentState::Silent => ("silent", Tone::Bad),
        };
        let plain = |text: Option<String>| (text.unwrap_or_default(), Tone::Plain);
        let then = then(document, node);
        table.row([
            plain(Some(node.node.clone())),
            (state.0.to_owned(), state.1),
            plain(node.runs.as_ref().map(|r| r.artifact.to_string())),
            plain(node.runs.as_ref().map(|r| r.release.to_string())),
            plain(node.floor.map(|floor| floor.to_string())),
            (then.0.to_owned(), then.1),
            (node.alarm.clone().unwrap_or_default(), Tone::Bad),
        ]);
    }
    table.render()
}

fn then(document: &RecoverDocument, node: &RecoverNode) -> (&'static str, Tone) {
    match (document.epoch, node.state) {
        (None, _) | (_, AgentState::Silent) => ("", Tone::Plain),
        (Some(_), _) if node.follows => ("follows", Tone::Good),
        (Some(_), _) if node.will_switch => ("switches", Tone::Warn),
        (Some(_), _) => ("none", Tone::Plain),
    }
}

/// A line of progress: one node follows now.
#[must_use]
pub(crate) fn followed(document: &RecoverDocument, node: &RecoverNode) -> String {
    let runs = node.runs.as_ref().map_or("no release of Cutover".to_owned(), |runs| runs.artifact.to_string());
    clean(&format!("{}  {} follows and runs {runs}", document.unit, node.node))
}
