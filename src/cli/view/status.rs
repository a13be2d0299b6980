//! `cutover status` as text.
//!
//! Values from Consul are foreign text: each passes through [`clean`], which removes control characters, before it is printed
//! to a terminal.

use super::{line, moment, problems};
use crate::cli::output::{Table, Tone, clean, clean_lines};
use crate::document::{Drift, NodeStatus, Presence, StatusDocument, fetching_words, refusal_words, step_words};
use crate::protocol::record::{Answer, Last, Outcome};

/// One group with its nodes.
#[must_use]
pub(crate) fn status(document: &StatusDocument) -> String {
    let mut out = line("group", &Tone::Strong.paint(&document.unit.to_string()));
    let is_known = document.epoch.is_some() || !document.needs_recovery;
    let current = document.current.as_ref().map_or_else(
        || if is_known { "nothing deployed yet".to_owned() } else { "not known".to_owned() },
        |c| format!("{}  release {}  deploy #{}", c.artifact, c.release, c.epoch),
    );
    out += &line("current", &current);
    if let Some(running) = &document.running {
        let phase = Tone::Warn.paint(running.phase.as_str());
        let by = clean(&running.by);
        out += &line("running", &format!("{phase}  {}  deploy #{}  by {by}", running.artifact, running.epoch));
    }
    if let Some(waiting) = &document.waiting {
        let (wants, by) = (clean(&waiting.wants), clean(&waiting.by));
        out += &line("waiting", &format!("{wants}  deploy #{}  by {by}", waiting.epoch));
    }
    if let Some(last) = &document.last {
        out += &last_lines(last);
    }
    let nobody = || Tone::Bad.paint("none: no agent coordinates this group, so requests wait");
    out += &line("coordinator", &document.coordinator.as_ref().map_or_else(nobody, |name| clean(name)));
    for trouble in &document.troubles {
        out += &line("wrong", &Tone::Bad.paint(&clean(trouble.text())));
    }
    if document.needs_recovery {
        out +=
            &line("", &format!("every node keeps its release; to continue, run `cutover recover {}`", document.unit));
    }
    if let Some(freeze) = &document.freeze {
        let until = freeze.until.map_or_else(String::new, |until| format!("  until {}", moment(until)));
        let (by, reason) = (clean(&freeze.author.by), clean(&freeze.author.reason));
        out += &line("frozen", &Tone::Warn.paint(&format!("by {by}{until}  {reason}")));
    }
    out += &problems(&document.problems);
    if !document.nodes.is_empty() {
        out.push('\n');
        out += &node_table(&document.nodes);
    }
    out
}

/// The group in one line, for output that scrolls.
#[must_use]
pub(crate) fn status_line(document: &StatusDocument) -> String {
    let current = document.current.as_ref().map_or_else(|| "nothing".to_owned(), |c| c.artifact.to_string());
    let now = match (&document.running, &document.waiting) {
        (Some(running), _) => format!("{} of {} deploy #{}", running.phase.as_str(), running.artifact, running.epoch),
        (None, Some(waiting)) => format!("waiting: {}", waiting.wants),
        (None, None) => "idle".to_owned(),
    };
    let alive = document.nodes.iter().filter(|n| n.state == Presence::Alive).count();
    let then = match (&document.running, &document.last) {
        (Some(_), _) => answers(&document.nodes),
        (None, Some(last)) => format!("  last deploy #{} {}", last.epoch, last.outcome.as_str()),
        (None, None) => String::new(),
    };
    let count = document.nodes.len();
    let frozen = if document.freeze.is_some() { "  frozen" } else { "" };
    let coordinator = if document.coordinator.is_none() { "  no coordinator" } else { "" };
    let wrong = document.troubles.first().map_or_else(String::new, |trouble| format!("  wrong: {}", trouble.text()));
    clean(&format!(
        "{}  {now}  current {current}  nodes {alive}/{count}{frozen}{coordinator}{then}{wrong}",
        document.unit
    ))
}

/// `  web-1=prepared  web-2=refused  web-3: downloading, 12.0 MB of 40.0 MB`.
fn answers(nodes: &[NodeStatus]) -> String {
    let answer = |node: &NodeStatus| {
        let fetching = || Some(format!("  {}: {}", node.node, fetching_words(node.fetching.as_ref()?)));
        let answer = node.answer.as_ref().map(|it| format!("  {}={}", node.node, answer_word(it.answer)));
        answer.or_else(fetching)
    };
    nodes.iter().filter_map(answer).collect()
}

const fn outcome_tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Done => Tone::Good,
        Outcome::Aborted | Outcome::Refused | Outcome::Superseded => Tone::Warn,
        Outcome::Failed | Outcome::Reverted => Tone::Bad,
    }
}

fn last_lines(last: &Last) -> String {
    let outcome = outcome_tone(last.outcome).paint(last.outcome.as_str());
    let artifact = last.artifact.as_ref().map_or("-", |a| a.as_str());
    let (by, at) = (clean(&last.by), moment(last.at));
    let mut out = line("last", &format!("{outcome}  {artifact}  deploy #{}  by {by}  {at}", last.epoch));
    if let Some(reason) = &last.reason {
        let place = match (&last.node, last.step) {
            (Some(node), Some(step)) => format!("{} on {node}: ", step_words(step)),
            (Some(node), None) => format!("{node}: "),
            (None, Some(step)) => format!("{}: ", step_words(step)),
            (None, None) => String::new(),
        };
        out += &line("", &format!("{place}{}", clean(reason)));
    }
    if let Some(output) = &last.output {
        out += &clean_lines(output, "             | ");
    }
    out
}

fn node_table(nodes: &[NodeStatus]) -> String {
    let heading = ["NODE", "STATE", "RUNS", "RELEASE", "PREVIOUS", "STAGED", "ANSWER", "VERSION", "NOTES"];
    let mut table = Table::with_heading(&heading);
    for node in nodes {
        let state = match node.state {
            Presence::Alive => ("alive", Tone::Good),
            Presence::Absent => ("absent", Tone::Bad),
        };
        let answer = node.answer.as_ref().map_or(("", Tone::Plain), |a| (answer_word(a.answer), tone(a.answer)));
        let (text, notes_tone) = notes(node);
        let plain = |text: Option<String>| (text.unwrap_or_default(), Tone::Plain);
        table.row([
            plain(Some(node.node.to_string())),
            (state.0.to_owned(), state.1),
            plain(node.runs.as_ref().map(|r| r.artifact.to_string())),
            plain(node.runs.as_ref().map(|r| r.release.to_string())),
            plain(node.previous.as_ref().map(ToString::to_string)),
            plain(Some(node.staged.len().to_string())),
            (answer.0.to_owned(), answer.1),
            plain(node.version.clone()),
            (text, notes_tone),
        ]);
    }
    table.render()
}

/// The answer's word, the same as in JSON.
#[must_use]
pub(crate) const fn answer_word(answer: Answer) -> &'static str {
    match answer {
        Answer::Prepared => "prepared",
        Answer::Refused => "refused",
        Answer::Switched => "switched",
        Answer::Failed => "failed",
        Answer::Reverted => "reverted",
        Answer::Stuck => "stuck",
    }
}

const fn tone(answer: Answer) -> Tone {
    if answer.is_no() { Tone::Bad } else { Tone::Good }
}

fn notes(node: &NodeStatus) -> (String, Tone) {
    let mut notes: Vec<String> = Vec::new();
    let mut tone = Tone::Plain;
    for drift in &node.drift {
        tone = Tone::Warn;
        notes.push(match drift {
            Drift::Config => "config differs from most other nodes".to_owned(),
            Drift::Current => format!("current was moved to {}", node.current.as_deref().unwrap_or("nothing")),
            Drift::Release => "does not run the current release".to_owned(),
        });
    }
    notes.extend(node.fetching.as_ref().map(fetching_words));
    for build in &node.refused {
        tone = Tone::Warn;
        notes.push(format!("cannot prefetch {}: {}", build.artifact, refusal_words(&build.why)));
    }
    for stays in &node.unremovable {
        tone = Tone::Warn;
        notes.push(stays.sentence());
    }
    let fault = node.answer.as_ref().and_then(|a| a.fault.as_ref());
    let fault = fault.map(|f| format!("{}: {}", step_words(f.step), f.reason));
    for problem in node.alarm.iter().cloned().chain(fault) {
        tone = Tone::Bad;
        notes.push(problem);
    }
    (notes.join("; "), tone)
}
