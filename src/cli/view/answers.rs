//! What nodes answer, as text: a table of who says what, then each thing that is not in order with how to mend it.

use super::line;
use crate::cli::output::{Table, Tone, clean};
use crate::document::{AskedNode, DoctorDocument, DryRunDocument, Heard, RepairDocument, bytes};
use crate::protocol::record::{Finding, Mark};

/// `--dry-run`: the verdict first.
#[must_use]
pub fn dry_run(document: &DryRunDocument) -> String {
    let tone = if document.would_go { Tone::Good } else { Tone::Bad };
    let mut out = format!("{}\n", tone.paint(&clean(&document.headline)));
    let from = document
        .from
        .as_ref()
        .map_or("nothing".to_owned(), |from| format!("{}  release {}", from.artifact, from.release));
    out += &line("from", &from);
    if let Some(before) = document.before.as_ref().filter(|before| !before.summary.is_empty()) {
        out += &line("said", &clean(&before.summary.to_string()));
    }
    if let Some(to) = &document.to {
        let release = to.release.as_ref().map_or("a new release".to_owned(), |release| format!("release {release}"));
        out += &line("to", &format!("{}  {release}", to.artifact));
        out += &line("commit", &format!("{} of {}", to.commit, clean(to.branch.as_str())));
        if !to.summary.is_empty() {
            out += &line("says", &clean(&to.summary.to_string()));
        }
    }
    for note in &document.notes {
        out += &line("note", &clean(note));
    }
    if document.nodes.is_empty() {
        return out;
    }
    out += "\n";
    let mut table = Table::with_heading(&["NODE", "SAYS", "FETCH", "UNPACK", "FREE", "RUNS"]);
    for node in &document.nodes {
        let figure = |name: &str| node.figures.get(name).map_or_else(String::new, |count| bytes(*count));
        let runs = node.runs.as_ref().map_or_else(String::new, |runs| runs.artifact.to_string());
        let (says, tone) = verdict(node, "would go");
        table.row([
            (node.node.to_string(), Tone::Plain),
            (says, tone),
            (figure("fetch_bytes"), Tone::Plain),
            (figure("unpack_bytes"), Tone::Plain),
            (figure("free_bytes"), Tone::Plain),
            (runs, Tone::Plain),
        ]);
    }
    out += &table.render();
    for node in &document.nodes {
        out += &not_in_order(node.node.as_str(), &node.findings);
    }
    out
}

/// `cutover doctor`: everything that was looked at, the verdict first.
#[must_use]
pub fn doctor(document: &DoctorDocument) -> String {
    let tone = if document.well { Tone::Good } else { Tone::Bad };
    let mut out = format!("{}\n\n{}\n", tone.paint(&document.headline), Tone::Strong.paint("here"));
    out += &findings(&document.here);
    for unit in &document.units {
        out += &heading(&Tone::Strong.paint(&unit.unit.to_string()));
        out += &findings(&unit.here);
        for node in &unit.nodes {
            let (says, tone) = verdict(node, "all is well");
            let name = Tone::Strong.paint(&format!("{}  {}", unit.unit, node.node));
            out += &heading(&format!("{name}  {}", tone.paint(&says)));
            out += &findings(&node.findings);
        }
    }
    out
}

/// A line that begins a part.
fn heading(text: &str) -> String {
    format!("\n{text}\n")
}

/// `cutover node repair`.
#[must_use]
pub fn repair(document: &RepairDocument) -> String {
    let tone = if document.well { Tone::Good } else { Tone::Bad };
    let mut out = format!("{}\n", tone.paint(&clean(&document.headline)));
    for (unit, answer) in &document.units {
        out += &not_in_order(&unit.to_string(), &answer.findings);
    }
    out
}

/// What a node says in a few words. One that says nothing is never well.
fn verdict(node: &AskedNode, well: &str) -> (String, Tone) {
    match (node.heard, node.first_bad()) {
        (Heard::Answered, None) => (well.to_owned(), Tone::Good),
        (Heard::Answered, Some(finding)) => (format!("no: {}", finding.about), Tone::Bad),
        (Heard::Away, _) => ("no answer (away)".to_owned(), Tone::Bad),
        (Heard::NoAnswer, _) => ("no answer".to_owned(), Tone::Bad),
    }
}

/// Every finding, a line each, and how to mend what is not in order below it.
fn findings(found: &[Finding]) -> String {
    found.iter().map(|finding| finding_lines("", finding)).collect()
}

fn not_in_order(who: &str, found: &[Finding]) -> String {
    let bad = found.iter().filter(|finding| matches!(finding.mark, Mark::Bad | Mark::Warn));
    bad.map(|finding| finding_lines(&format!("{who}  "), finding)).collect()
}

fn finding_lines(who: &str, finding: &Finding) -> String {
    let (word, tone) = match finding.mark {
        Mark::Bad => ("bad", Tone::Bad),
        Mark::Good => ("ok", Tone::Good),
        Mark::Note => ("note", Tone::Plain),
        Mark::Warn => ("look", Tone::Warn),
    };
    let head = format!("{}{:<5} {:<12} {}\n", clean(who), word, clean(&finding.about), clean(&finding.says));
    let head = if finding.mark == Mark::Good { head } else { tone.paint(head.trim_end()) + "\n" };
    match finding.mend.as_str() {
        "" => head,
        mend => format!("{head}      {:<12} to mend it: {}\n", "", clean(mend)),
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
    fn a_node_without_an_answer_is_shown_as_that_and_not_as_ok() {
        let silent = AskedNode::without_answer(node("web-2"), Heard::NoAnswer);
        assert_eq!(verdict(&silent, "all is well").0, "no answer");
        let findings = vec![Finding::new("disk", Mark::Bad, "full\u{1b}[2J").mend("make room")];
        let bad = AskedNode { heard: Heard::Answered, findings, ..silent };
        assert_eq!(verdict(&bad, "all is well").0, "no: disk");
        let text = anstream::adapter::strip_str(&not_in_order("web-2", &bad.findings)).to_string();
        assert_eq!(text, "web-2  bad   disk         full[2J\n                   to mend it: make room\n");
    }
}
