//! Who may import whom, which files import each other, what the pure modules may not name, and how long a file may be.
//!
//! Reads the sources as text. Code below `#[cfg(test)] mod …` and files named `tests.rs` are free to import what they
//! like: a test of the disk may pack an archive.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod circles;
mod errors;
mod logs;
mod simulator;

use std::fs;
use std::path::{Path, PathBuf};

/// What of the crate each module may import besides itself: a module, or a part of one.
///
/// "*" is everything. `protocol::record` goes wherever `protocol::ids` goes: plain data, with no more to import.
const MAY_IMPORT: [(&str, &[&str]); 20] = [
    ("backoff", &[]),
    ("kind", &[]),
    ("protocol", &["kind", "backoff"]),
    ("plan", &["kind", "protocol::git_ref", "protocol::ids", "protocol::newest", "protocol::record"]),
    ("archive", &["kind", "plan"]),
    ("telemetry", &[]),
    ("document", &["protocol"]),
    ("consul", &["kind", "protocol", "backoff"]),
    ("control", &["protocol", "plan", "consul", "document", "artifact", "signing", "telemetry"]),
    (
        "artifact",
        &["kind", "protocol::git_ref", "protocol::ids", "protocol::record", "backoff", "archive", "plan", "telemetry"],
    ),
    (
        "release",
        &["kind", "protocol::ids", "protocol::record", "protocol::journal", "protocol::participant", "archive", "plan"],
    ),
    ("notify", &["kind", "protocol", "config", "consul::Secret", "document", "telemetry"]),
    ("chat", &["kind", "control", "consul", "config", "protocol", "document", "notify", "telemetry"]),
    ("config", &["kind", "protocol::ids", "protocol::record", "plan::unpack", "plan::verify", "signing"]),
    (
        "agent",
        &[
            "kind",
            "backoff",
            "protocol",
            "plan",
            "consul",
            "artifact",
            "release",
            "notify",
            "config",
            "control",
            "document",
            "signing",
            "telemetry",
            "api",
            "chat",
            "metrics",
        ],
    ),
    ("metrics", &["protocol::ids"]),
    ("signing", &["kind", "protocol::ids", "protocol::record"]),
    (
        "api",
        &[
            "kind",
            "control",
            "consul",
            "config",
            "artifact",
            "protocol",
            "document",
            "notify",
            "chat",
            "metrics",
            "signing",
            "telemetry",
            "ui",
        ],
    ),
    ("ui", &["control", "config", "protocol", "document"]),
    ("cli", &["*"]),
];

/// Crates of the demo and the tests that nothing in `src/` names: nodes run neither a demo nor an S3 server.
const RIG_CRATES: [&str; 3] = ["cutover_rig", "s3s", "s3s_fs"];

/// The only file that names `rs-consul`, most of whose calls are unsafe to use (clippy.toml).
const RS_CLIENT: &str = "consul/rs_client.rs";

/// The modules without I/O, clock and randomness: the model checker runs them, and the same inputs give the same
/// outputs.
const PURE: [&str; 4] = ["backoff", "kind", "protocol", "plan"];

/// Words that no pure module's code holds.
const IMPURE_WORDS: [&str; 11] = [
    "tokio",
    "tracing",
    "hyper",
    "rand",
    "fastrand",
    "rs_consul",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "thread",
];

/// Who may build a condition on a session that holds a key: the client that knows it, and an owner of each kind of key.
const MAY_CHECK_SESSIONS: [&str; 3] = ["consul/txn.rs", LEASE, "agent/node/publisher.rs"];

/// The only file that may build the coordinator's condition.
const LEASE: &str = "agent/coordinator/lease.rs";

/// The only file that may make a receipt of the journal: whoever has one has written the journal.
const RECEIPT: &str = "release/ledger.rs";

/// How every clock of our libraries is read; a caller passes the time in.
const CLOCK_CALL: &str = "::now(";

/// Parts of the standard library that no pure module imports.
const IMPURE_STD: [&str; 5] = ["fs", "net", "env", "process", "io"];

/// The most lines of a file, without its tests.
const LONGEST_FILE: usize = 600;

#[test]
fn modules_import_only_what_the_table_allows() {
    let found: Vec<String> = sources().iter().flat_map(Source::forbidden_imports).collect();
    assert!(found.is_empty(), "see MAY_IMPORT:\n{}", found.join("\n"));
}

#[test]
fn the_product_names_no_crate_of_the_demo_and_the_tests() {
    let found: Vec<String> = sources().iter().flat_map(Source::rig_crates).collect();
    assert!(found.is_empty(), "nodes do not run these:\n{}", found.join("\n"));
}

#[test]
fn only_one_file_names_rs_consul() {
    let found: Vec<String> = sources().iter().filter_map(Source::foreign_rs_consul).collect();
    assert!(found.is_empty(), "go through {RS_CLIENT}:\n{}", found.join("\n"));
}

#[test]
fn pure_modules_name_no_io_no_clock_and_no_chance() {
    let found: Vec<String> = sources().iter().flat_map(Source::impurities).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_the_lease_builds_the_coordinators_condition() {
    let found: Vec<String> = sources().iter().filter_map(Source::foreign_condition).collect();
    assert!(found.is_empty(), "write under agent::coordinator::lease::Lease:\n{}", found.join("\n"));
}

#[test]
fn the_oldest_supported_rust_is_the_pinned_one() {
    let pinned = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("rust-toolchain.toml")).unwrap();
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(pinned.contains(&format!("channel = \"{oldest}\"")), "Cargo.toml says {oldest}, but:\n{pinned}");
}

#[test]
fn only_the_ledger_has_receipts() {
    let found: Vec<String> = sources().iter().filter_map(Source::foreign_receipt).collect();
    assert!(found.is_empty(), "an answer needs a receipt of the ledger's:\n{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let found: Vec<String> = sources().iter().filter_map(Source::excess).collect();
    assert!(found.is_empty(), "more than {LONGEST_FILE} lines without tests; split:\n{}", found.join("\n"));
}

/// A file below `src/`, without its tests.
struct Source {
    /// As `release/switch.rs`.
    path: PathBuf,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "tests" {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().unwrap() != "tests.rs" {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source::new(path.strip_prefix(&root).unwrap(), &text));
            }
        }
    }
    assert!(found.len() > 5, "the sources are where they are expected");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    fn new(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), text: without_tests(text) }
    }

    /// The file's place in the tree of modules: `release::switch`.
    fn module(&self) -> Vec<String> {
        let mut parts: Vec<String> =
            self.path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
            parts.pop();
        }
        parts
    }

    /// What it names of this crate, from the root: `protocol::ids::Unit`. Own parts too.
    fn crate_paths(&self) -> Vec<String> {
        self.paths_from_root(&without_comments(&self.text))
    }

    /// The paths of `code`, a part of this file, that start with `crate` or `super`, from the root.
    fn paths_from_root(&self, code: &str) -> Vec<String> {
        let mut found = paths_after("crate::", code);
        let module = self.module();
        // `super::super::consul` is a way out as well. Only the outermost `super` of a chain starts one.
        for path in paths_after("super::", code) {
            let climbs = 1 + path.split("::").take_while(|part| *part == "super").count();
            let rest: Vec<&str> = path.split("::").skip_while(|part| *part == "super").collect();
            if let Some(above) = module.len().checked_sub(climbs) {
                found.push(module[..above].iter().map(String::as_str).chain(rest).collect::<Vec<_>>().join("::"));
            }
        }
        found
    }

    fn forbidden_imports(&self) -> Vec<String> {
        let module = self.module();
        let shown = self.path.display();
        let (home, allowed) = match module.first().map(String::as_str) {
            None => return Vec::new(), // lib.rs lists the modules.
            Some("main") => {
                let outside = paths_after("cutover::", &without_comments(&self.text)).into_iter();
                return outside
                    .filter(|path| !is_within(path, "cli"))
                    .map(|path| format!("src/{shown}: cutover::{path}"))
                    .collect();
            }
            Some(home) => match MAY_IMPORT.iter().find(|(name, _)| *name == home) {
                Some((home, allowed)) => (*home, *allowed),
                None => return vec![format!("src/{shown}: the module {home} is not in the table")],
            },
        };
        let forbidden = |path: &String| {
            let listed = allowed.iter().any(|part| *part == "*" || is_within(path, part));
            !is_within(path, home) && !listed
        };
        self.crate_paths().into_iter().filter(forbidden).map(|path| format!("src/{shown}: crate::{path}")).collect()
    }

    fn rig_crates(&self) -> Vec<String> {
        let code = without_comments(&self.text);
        let named = words(&code).filter(|word| RIG_CRATES.contains(word));
        named.map(|name| format!("src/{}: {name}", self.path.display())).collect()
    }

    fn foreign_rs_consul(&self) -> Option<String> {
        let code = without_comments(&self.text);
        let is_foreign = self.path != Path::new(RS_CLIENT) && words(&code).any(|word| word == "rs_consul");
        is_foreign.then(|| format!("src/{}: rs_consul", self.path.display()))
    }

    fn impurities(&self) -> Vec<String> {
        if !self.module().first().is_some_and(|home| PURE.contains(&home.as_str())) {
            return Vec::new();
        }
        let code = without_comments(&self.text);
        let words = words(&code).filter(|word| IMPURE_WORDS.contains(word)).map(str::to_owned);
        let parts = paths_after("std::", &code).into_iter();
        let parts = parts.filter(|path| IMPURE_STD.iter().any(|part| is_within(path, part)));
        let parts = parts.map(|path| format!("std::{path}"));
        let clock = code.contains(CLOCK_CALL).then(|| format!("…{CLOCK_CALL})"));
        words.chain(parts).chain(clock).map(|name| format!("src/{}: {name}", self.path.display())).collect()
    }

    fn foreign_condition(&self) -> Option<String> {
        let (path, code) = (self.path.to_str().unwrap(), without_comments(&self.text));
        let checks = words(&code).any(|word| word == "CheckSession");
        let names_the_lock = code.contains(".coordinator()");
        let may = MAY_CHECK_SESSIONS.contains(&path) && (path == LEASE || !names_the_lock);
        (checks && !may).then(|| format!("src/{path}: CheckSession"))
    }

    /// A second kind of receipt, with which an answer could be sent before its journal is durable.
    fn foreign_receipt(&self) -> Option<String> {
        let makes_one = without_comments(&self.text).contains("Receipt for ");
        (makes_one && self.path != Path::new(RECEIPT)).then(|| format!("src/{}", self.path.display()))
    }

    fn excess(&self) -> Option<String> {
        let lines = self.text.lines().count();
        (lines > LONGEST_FILE).then(|| format!("src/{}: {lines} lines", self.path.display()))
    }
}

/// Whether `path` is `part` or below it, by whole names.
fn is_within(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The text above the tests that end a file.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let tests_follow = lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if line == "#[cfg(test)]" && tests_follow {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Without `//` comments. A URL in a string is cut there too, which hides nothing that matters here.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Every path that follows `root` in `code`, with the groups of `use` taken apart:
/// `crate::{a::b, c::{d, e}}` gives `a::b`, `c::d`, `c::e`.
fn paths_after(root: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices(root) {
        // Part of a longer name, `my_crate::`, or the tail of a chain, `super::super::`, that was taken already.
        let before = &code[..start];
        if !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            expand(String::new(), &code[start + root.len()..], &mut found);
        }
    }
    found
}

/// Reads one path from the front of `code`, and what follows a group's brace.
fn expand<'a>(mut path: String, code: &'a str, found: &mut Vec<String>) -> &'a str {
    let mut rest = code.trim_start();
    if let Some(mut group) = rest.strip_prefix('{') {
        loop {
            group = group.trim_start().trim_start_matches(',').trim_start();
            if let Some(after) = group.strip_prefix('}') {
                return after;
            }
            let after = expand(path.clone(), group, found);
            if after.len() == group.len() {
                return after; // Not what a path is made of: macro code.
            }
            group = after;
        }
    }
    let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    if name > 0 {
        if !path.is_empty() {
            path.push_str("::");
        }
        path.push_str(&rest[..name]);
        rest = &rest[name..];
        if let Some(deeper) = rest.strip_prefix("::") {
            return expand(path, deeper, found);
        }
        // `as other` names nothing new.
        if let Some(renamed) = rest.trim_start().strip_prefix("as ") {
            let end = renamed.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(renamed.len());
            rest = &renamed[end..];
        }
    } else {
        rest = rest.strip_prefix('*').unwrap_or(rest);
    }
    found.push(path);
    rest
}

#[test]
fn what_breaks_a_rule_is_caught() {
    let source = |path: &str, text: &str| Source::new(Path::new(path), text);
    for (path, text) in [
        ("protocol/coordinator.rs", "use crate::consul::Client;"),
        ("plan/unpack.rs", "use crate::protocol::barrier;"),
        ("plan/unpack.rs", "use crate::protocol;"),
        ("consul/kv.rs", "use crate::{protocol::ids::Unit, release::{Link as _}};"),
        ("release/switch.rs", "fn f() { crate::artifact::pack(); }"),
        ("release/switch.rs", "use super::super::artifact;"),
        ("release/mod.rs", "use super::artifact::pack;"),
        ("ui/page.rs", "use crate::agent::dispatcher::Dispatcher;"),
        ("api/router.rs", "use crate::agent::Context;"),
        ("helpers/mod.rs", ""),
        ("main.rs", "use cutover::agent;"),
    ] {
        assert_eq!(source(path, text).forbidden_imports().len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("protocol/coordinator.rs", "use crate::protocol::ids::Unit;\nuse super::barrier;"),
        ("plan/unpack.rs", "use crate::protocol::ids::{App, Unit as Other};"),
        ("release/deep/link.rs", "use super::super::switch;\nuse super::{Link, other};"),
        ("release/switch.rs", "/// See [`crate::agent::Handle`].\nfn f() {}"),
        ("release/switch.rs", "#[cfg(test)]\nmod tests {\n    use crate::artifact::pack;\n}"),
        ("ui/page.rs", "use crate::control::Access;"),
        ("cli/commands/deploy.rs", "use crate::consul::Client;"),
        ("main.rs", "fn main() { cutover::cli::run() }"),
    ] {
        assert_eq!(source(path, text).forbidden_imports(), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn what_is_impure_is_caught() {
    let impurities = |path: &str, text: &str| Source::new(Path::new(path), text).impurities().len();
    for text in [
        "use tokio::sync::mpsc;",
        "use std::collections::HashMap;",
        "use std::{fmt, fs};",
        "fn f() { std::net::TcpStream::connect(x); }",
        "use std::time::Instant;",
        "fn f() { Timestamp::now(); }",
        "fn f() { tracing::info!(\"x\"); }",
    ] {
        assert_eq!(impurities("protocol/node.rs", text), 1, "{text}");
        assert_eq!(impurities("agent/node.rs", text), 0, "{text}");
    }
    for text in
        ["use std::collections::BTreeMap;", "// no tokio here", "struct InstantNoodles;", "use std::fmt::{self};"]
    {
        assert_eq!(impurities("plan/unpack.rs", text), 0, "{text}");
    }
}

#[test]
fn a_condition_of_the_coordinator_elsewhere_is_caught() {
    let caught = |path: &str, text: &str| Source::new(Path::new(path), text).foreign_condition().is_some();
    let condition = "TxnOp::CheckSession { key: at.coordinator(), session }";
    assert!(caught("agent/coordinator/sweeping.rs", condition));
    assert!(caught("agent/node/publisher.rs", condition));
    assert!(caught("control/request.rs", "TxnOp::CheckSession { key, session }"));
    assert!(!caught(LEASE, condition));
    assert!(!caught("agent/node/publisher.rs", "TxnOp::CheckSession { key: node.clone(), session }"));
    assert!(!caught("agent/coordinator/candidate.rs", "let key = at.coordinator();"));
}

#[test]
fn a_crate_of_the_rig_is_caught() {
    let found = |text: &str| Source::new(Path::new("artifact/store.rs"), text).rig_crates().len();
    assert_eq!(found("use s3s::service::S3Service;"), 1);
    assert_eq!(found("fn f() { cutover_rig::s3::S3Server::start(); }"), 1);
    assert_eq!(found("// s3s is the server of the tests.\nuse crate::artifact::s3;"), 0);
}

#[test]
fn rs_consul_elsewhere_is_caught() {
    let is_caught = |path: &str, text: &str| Source::new(Path::new(path), text).foreign_rs_consul().is_some();
    assert!(is_caught("consul/kv.rs", "use rs_consul::CreateOrUpdateKeyRequest;"));
    assert!(!is_caught("consul/kv.rs", "use super::rs_client::RsWrite;"));
    assert!(!is_caught(RS_CLIENT, "use rs_consul::Consul;"));
}

#[test]
fn a_receipt_elsewhere_is_caught() {
    let caught = |path: &str, text: &str| Source::new(Path::new(path), text).foreign_receipt().is_some();
    assert!(caught("agent/node/unit.rs", "impl Receipt for Unwritten {}"));
    assert!(!caught(RECEIPT, "impl Receipt for Persisted<Journal> {}"));
}

#[test]
fn length_counts_without_tests() {
    let file =
        |lines: usize| Source::new(Path::new("cli/a.rs"), &("//\n".repeat(lines) + "#[cfg(test)]\nmod tests {\n}\n"));
    assert_eq!(file(LONGEST_FILE).excess(), None);
    assert!(file(LONGEST_FILE + 1).excess().is_some());
}
