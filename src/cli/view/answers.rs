//! The answers of nodes as text: a table of nodes, then every problem with its fix.

use super::{changes, line};
use crate::cli::output::{Table, Tone, clean};
use crate::document::{AnswerState, DoctorDocument, DryRunDocument, NodeReply, RepairDocument, bytes};
use crate::protocol::record::{Finding, Mark};

/// `--dry-run`: the result first.
#[must_use]
pub(crate) fn dry_run(document: &DryRunDocument) -> String {
    let tone = if document.would_go { Tone::Good } else { Tone::Bad };
    let mut out = format!("{}\n", tone.paint(&clean(&document.headline)));
    let from = document
        .from
        .as_ref()
        .map_or("nothing".to_owned(), |from| format!("{}  release {}", from.artifact, from.release));
    out += &line("from", &from);
    if let Some(before) = document.before.as_ref().filter(|before| !before.summary.is_empty()) {
        out += &line("from commit", &clean(&before.summary.to_string()));
    }
    if let Some(to) = &document.to {
        let release = to.release.as_ref().map_or("a new release".to_owned(), |release| format!("release {release}"));
        out += &line("to", &format!("{}  {release}", to.build.artifact));
        out += &line("commit", &format!("{} of {}", to.build.commit, clean(to.build.branch.as_str())));
        if !to.build.summary.is_empty() {
            out += &line("subject", &clean(&to.build.summary.to_string()));
        }
    }
    if let Some(ships) = &document.ships {
        out += &changes::commits(&ships.commits);
        out += &changes::files(&ships.files);
    }
    for note in &document.notes {
        out += &line("note", &clean(note));
    }
    if document.nodes.is_empty() {
        return out;
    }
    out += "\n";
    let mut table = Table::with_heading(&["NODE", "RESULT", "FETCH", "UNPACK", "FREE", "RUNS"]);
    for node in &document.nodes {
        let figure = |name: &str| node.figures.get(name).map_or_else(String::new, |count| bytes(*count));
        let runs = node.runs.as_ref().map_or_else(String::new, |runs| runs.artifact.to_string());
        let (result, tone) = result(node, "ready");
        table.row([
            (node.node.to_string(), Tone::Plain),
            (result, tone),
            (figure("fetch_bytes"), Tone::Plain),
            (figure("unpack_bytes"), Tone::Plain),
            (figure("free_bytes"), Tone::Plain),
            (runs, Tone::Plain),
        ]);
    }
    out += &table.render();
    for node in &document.nodes {
        out += &problems(node.node.as_str(), &node.findings);
    }
    out
}

/// `cutover doctor`: the result first, then every finding.
#[must_use]
pub(crate) fn doctor(document: &DoctorDocument) -> String {
    let tone = if document.well { Tone::Good } else { Tone::Bad };
    let mut out = format!("{}\n\n{}\n", tone.paint(&document.headline), Tone::Strong.paint("here"));
    out += &findings(&document.here);
    for unit in &document.units {
        out += &heading(&Tone::Strong.paint(&unit.unit.to_string()));
        out += &findings(&unit.here);
        for node in &unit.nodes {
            let (result, tone) = result(node, "healthy");
            let name = Tone::Strong.paint(&format!("{}  {}", unit.unit, node.node));
            out += &heading(&format!("{name}  {}", tone.paint(&result)));
            out += &findings(&node.findings);
        }
    }
    out
}

/// The first line of a section.
fn heading(text: &str) -> String {
    format!("\n{text}\n")
}

/// `cutover node repair`.
#[must_use]
pub(crate) fn repair(document: &RepairDocument) -> String {
    let tone = if document.well { Tone::Good } else { Tone::Bad };
    let mut out = format!("{}\n", tone.paint(&clean(&document.headline)));
    for (unit, answer) in &document.units {
        out += &problems(&unit.to_string(), &answer.findings);
    }
    out
}

/// The result of one node in a few words. A node that does not answer is never `healthy`.
fn result(node: &NodeReply, healthy: &str) -> (String, Tone) {
    match (node.heard, node.first_bad()) {
        (AnswerState::Answered, None) => (healthy.to_owned(), Tone::Good),
        (AnswerState::Answered, Some(finding)) => (format!("problem: {}", finding.about), Tone::Bad),
        (AnswerState::Away, _) => ("no answer (agent away)".to_owned(), Tone::Bad),
        (AnswerState::NoAnswer, _) => ("no answer".to_owned(), Tone::Bad),
    }
}

/// One line per finding; below a problem, its fix.
fn findings(found: &[Finding]) -> String {
    found.iter().map(|finding| finding_lines("", finding)).collect()
}

fn problems(who: &str, found: &[Finding]) -> String {
    let bad = found.iter().filter(|finding| matches!(finding.mark, Mark::Bad | Mark::Warn));
    bad.map(|finding| finding_lines(&format!("{who}  "), finding)).collect()
}

fn finding_lines(who: &str, finding: &Finding) -> String {
    let (word, tone) = match finding.mark {
        Mark::Bad => ("bad", Tone::Bad),
        Mark::Good => ("ok", Tone::Good),
        Mark::Note => ("note", Tone::Plain),
        Mark::Warn => ("warning", Tone::Warn),
    };
    let head = format!("{}{:<7} {:<12} {}\n", clean(who), word, clean(&finding.about), clean(&finding.says));
    let head = if finding.mark == Mark::Good { head } else { tone.paint(head.trim_end()) + "\n" };
    match finding.remedy.as_str() {
        "" => head,
        fix => format!("{head}        {:<12} fix: {}\n", "", clean(fix)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::Node;

    fn node(name: &str) -> Node {
        name.parse().unwrap()
    }

    #[test]
    fn a_node_without_an_answer_is_not_shown_as_healthy() {
        let silent = NodeReply::without_answer(node("web-2"), AnswerState::NoAnswer);
        assert_eq!(result(&silent, "healthy").0, "no answer");
        let findings = vec![Finding::new("disk", Mark::Bad, "full\u{1b}[2J").remedy("make room")];
        let bad = NodeReply { heard: AnswerState::Answered, findings, ..silent };
        assert_eq!(result(&bad, "healthy").0, "problem: disk");
        let text = anstream::adapter::strip_str(&problems("web-2", &bad.findings)).to_string();
        assert_eq!(text, "web-2  bad     disk         full[2J\n                     fix: make room\n");
    }
}
