//! The simulator (`tests/protocol/src/simulator`) drives the agent's own shell, and has no second writing of it.
//!
//! A copy would be proven in place of what ships. So the simulator neither makes the records that the shell writes, nor
//! names the rules by which it does; only who judges a run afterwards may compare records.

use std::fs;
use std::path::Path;

use super::{without_comments, words};

/// Where the simulator is, from the root of the repository.
const SIMULATOR: &str = "tests/protocol/src/simulator";

/// What only the shell makes.
const MADE_BY_THE_SHELL: [&str; 4] = ["Ack", "NodeRecord", "Journal", "Snapshot"];

/// Rules of `src/protocol/shell`, by the names under which they, or a copy of them, would be called.
const RULES_OF_THE_SHELL: [&str; 12] = [
    "may_replace",
    "report_content",
    "RENEW_EVERY",
    "IN_DOUBT_AFTER",
    "JITTER",
    "newest_epoch",
    "Admission",
    "admit",
    "LOOK_EVERY",
    "LOOK_AGAIN",
    "decide",
    "is_busy",
];

/// Who looks at a run from outside, and compares records for that.
const JUDGES: [&str; 3] = ["judge.rs", "calm.rs", "faults.rs"];

#[test]
fn the_simulator_has_no_copy_of_the_agents_shell() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(SIMULATOR);
    let mut found = Vec::new();
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files += 1;
        found.extend(copies(&name, &fs::read_to_string(&path).unwrap()));
    }
    assert!(files > 10, "the simulator is where it is expected");
    assert!(found.is_empty(), "drive the machines of src/protocol/shell instead:\n{}", found.join("\n"));
}

/// What a file of the simulator makes or decides by itself.
fn copies(name: &str, text: &str) -> Vec<String> {
    let code = without_comments(text);
    let made = MADE_BY_THE_SHELL.iter().filter(|made| makes(&code, made)).map(|made| format!("{made} {{"));
    let rules = words(&code).filter(|word| RULES_OF_THE_SHELL.contains(word) && !JUDGES.contains(&name));
    made.chain(rules.map(str::to_owned)).map(|what| format!("{SIMULATOR}/{name}: {what}")).collect()
}

/// Whether `code` holds a value of the struct `name`, written out. `-> name {` is the body of a function, and `Write::name`
/// what the judge reads in the log.
fn makes(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name} {{")).any(|(at, _)| {
        let before = code[..at].trim_end();
        let is_whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        is_whole && !["->", "for", "impl", "Write::"].iter().any(|word| before.ends_with(word))
    })
}

#[test]
fn a_copy_of_a_rule_is_caught() {
    for (name, text) in [
        ("outbox.rs", "let ack = Ack { format: FORMAT, epoch };"),
        ("presence.rs", "record::NodeRecord { format: FORMAT }"),
        ("disk.rs", "let mut journal = Journal { runs, ..Journal::default() };"),
        ("outbox.rs", "if !letter.ack.may_replace(&former) {}"),
        ("presence.rs", "fn report_content(record: &NodeRecord) -> String { encode(record) }"),
        ("follow.rs", "admit(floor.as_ref(), record)"),
        ("lead.rs", "let decision = lead.coordinator.decide(now, &keys);"),
        ("reads.rs", "let mut snapshot = Snapshot { deploy, abort, ..Snapshot::default() };"),
    ] {
        assert_eq!(copies(name, text).len(), 1, "{name}: {text}");
    }
    for (name, text) in [
        ("publish.rs", "fn describe(&mut self) -> NodeRecord {"),
        ("disk.rs", "// Journal { is made by the shell }"),
        ("judge.rs", "admit(Some(&held), &now)"),
        ("judge.rs", "Write::Ack { node, epoch, answer }"),
    ] {
        assert_eq!(copies(name, text), Vec::<String>::new(), "{name}: {text}");
    }
}
