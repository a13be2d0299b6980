//! No files of one module import each other, directly or by way of others.
//!
//! A path leads to the file that defines its name: a name that `mod.rs` only passes on (`pub use`) belongs to the file
//! it comes from. What `mod.rs` defines itself is there for the files of its folder, which therefore do not count as
//! importing it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::{Source, is_within, paths_after, sources, without_comments, words};

#[test]
fn no_files_of_a_module_import_each_other() {
    let found = circles(&sources());
    assert!(found.is_empty(), "files that import each other:\n{}", shown(&found));
}

/// Files of one module that import each other, each with those of them that it imports.
type Circle = BTreeMap<String, BTreeSet<String>>;

fn shown(circles: &[Circle]) -> String {
    let line = |(module, imports): (&String, &BTreeSet<String>)| {
        format!("  {module} imports {}\n", imports.iter().cloned().collect::<Vec<_>>().join(", "))
    };
    circles.iter().map(|circle| circle.iter().map(line).collect::<String>() + "\n").collect()
}

fn circles(sources: &[Source]) -> Vec<Circle> {
    let tree = Tree::new(sources);
    let imports: BTreeMap<&str, BTreeSet<String>> =
        tree.files.keys().map(|module| (module.as_str(), tree.imports(module))).collect();
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|module| (*module, reachable(module, &imports))).collect();
    let mut found = BTreeSet::new();
    for (module, far) in &reach {
        if far.contains(module) {
            found.insert(far.iter().copied().filter(|other| reach[other].contains(module)).collect::<BTreeSet<_>>());
        }
    }
    let within = |members: &BTreeSet<&str>, module: &str| {
        let targets = imports[module].iter().filter(|target| members.contains(target.as_str()));
        (module.to_owned(), targets.cloned().collect())
    };
    found.iter().map(|members| members.iter().map(|module| within(members, module)).collect()).collect()
}

/// The files that `start` imports, directly or by way of others.
fn reachable<'a>(start: &str, imports: &'a BTreeMap<&str, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = vec![start];
    while let Some(module) = open.pop() {
        for next in imports.get(module).into_iter().flatten() {
            if found.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    found
}

/// The files of the crate by module path, each with the names it brings in by `use`.
struct Tree {
    files: BTreeMap<String, File>,
}

struct File {
    /// Without comments, tests and `use`.
    body: String,
    /// The paths in the body, from the root of the crate.
    paths: Vec<String>,
    uses: Vec<Use>,
}

/// One name that a file brings in.
struct Use {
    /// From the root of the crate.
    path: String,
    /// Whether others may take the name from this file.
    is_public: bool,
}

impl Tree {
    fn new(sources: &[Source]) -> Self {
        let modules: BTreeSet<String> = sources.iter().map(|source| source.module().join("::")).collect();
        let file = |source: &Source| (source.module().join("::"), File::new(source, &modules));
        Self { files: sources.iter().map(file).collect() }
    }

    /// The other files of its module that `module` imports, without the `mod.rs` files above it.
    fn imports(&self, module: &str) -> BTreeSet<String> {
        let file = &self.files[module];
        let mut paths = file.paths.clone();
        for brought in &file.uses {
            let name = last(&brought.path);
            if self.files.contains_key(&brought.path) {
                // A module: what matters is what the file takes out of it.
                let taken = paths_after(&format!("{name}::"), &file.body);
                paths.extend(taken.iter().map(|rest| format!("{}::{rest}", brought.path)));
            } else if !brought.is_public || words(&file.body).any(|word| word == name) {
                paths.push(brought.path.clone());
            }
        }
        let home = first(module);
        let targets = paths.iter().filter_map(|path| self.defining(path));
        targets.filter(|target| first(target) == home && !is_within(module, target)).collect()
    }

    /// The file that defines what `path` leads to.
    fn defining(&self, path: &str) -> Option<String> {
        let mut path = path.to_owned();
        // A chain of `pub use` that is longer than this would be a circle of its own.
        for _ in 0..8 {
            let module = enclosing(&path, |part| self.files.contains_key(part))?;
            let Some(name) = path[module.len()..].split("::").nth(1) else { return Some(module.to_owned()) };
            let Some(passed_on) = self.files[module].uses.iter().find(|brought| last(&brought.path) == name) else {
                return Some(module.to_owned());
            };
            path.clone_from(&passed_on.path);
        }
        None
    }
}

impl File {
    fn new(source: &Source, modules: &BTreeSet<String>) -> Self {
        let (imports, body) = without_uses(&without_comments(&source.text));
        let module = source.module().join("::");
        let children: Vec<&str> = modules.iter().filter_map(|other| child(&module, other)).collect();
        let from_root = |code: &str| {
            let mut found = source.paths_from_root(code);
            for child in &children {
                let within = paths_after(&format!("{child}::"), code);
                found.extend(within.iter().map(|rest| format!("{module}::{child}::{rest}")));
            }
            found
        };
        let uses = imports.iter().flat_map(|line| {
            let is_public = line.starts_with("pub");
            from_root(line).into_iter().map(move |path| {
                let path = path.trim_end_matches("::self").to_owned();
                Use { path, is_public }
            })
        });
        let uses = uses.collect();
        Self { paths: from_root(&body), uses, body }
    }
}

/// The `use` declarations of `code`, and what is left.
fn without_uses(code: &str) -> (Vec<String>, String) {
    let (mut uses, mut body) = (Vec::new(), String::new());
    let mut rest = code;
    while let Some((line, after)) = rest.split_once('\n') {
        let declared = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        if declared.starts_with("use ") {
            let end = rest.find(';').unwrap_or(rest.len() - 1) + 1;
            uses.push(rest[..end].trim_start().to_owned());
            rest = &rest[end..];
        } else {
            body.push_str(line);
            body.push('\n');
            rest = after;
        }
    }
    (uses, body)
}

/// The name of `other` if it lies right below `module`.
fn child<'a>(module: &str, other: &'a str) -> Option<&'a str> {
    other.strip_prefix(module)?.strip_prefix("::").filter(|name| !name.contains("::"))
}

/// The longest start of `path`, by whole names, that is a module.
fn enclosing(path: &str, is_module: impl Fn(&str) -> bool) -> Option<&str> {
    let mut part = path;
    while !is_module(part) {
        part = part.rsplit_once("::")?.0;
    }
    Some(part)
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

fn last(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

fn members(circles: &[Circle]) -> Vec<String> {
    circles.iter().flat_map(BTreeMap::keys).cloned().collect()
}

#[test]
fn a_circle_is_found() {
    let source = |path: &str, text: &str| Source::new(Path::new(path), text);
    let parent = source("api/mod.rs", "mod body;\nmod error;\npub use error::Refusal;\npub const LIMIT: usize = 1;\n");
    let error = source("api/error.rs", "pub struct Refusal;\n");
    let body = |text: &str| source("api/body.rs", text);
    let found = |files: &[&Source]| {
        let files: Vec<Source> = files.iter().map(|file| Source::new(&file.path, &file.text)).collect();
        members(&circles(&files))
    };
    let none: Vec<String> = Vec::new();
    for harmless in [
        "use super::{LIMIT, Refusal};\n",
        "/// See [`crate::api::guard::check`].\nuse crate::api::Refusal;\n",
        "use crate::consul::Kv;\n",
    ] {
        let guard = source("api/guard.rs", "use super::body::Body;\n");
        assert_eq!(found(&[&parent, &error, &guard, &body(harmless)]), none, "{harmless}");
    }
    for (guard, harmful) in [
        ("use super::body::Body;\n", "use super::guard::check;\n"),
        ("use super::body;\nfn f() { body::read() }\n", "fn f() { crate::api::guard::check() }\n"),
        ("use super::{\n    body::{self, Body},\n};\n", "use super::{Refusal, guard};\nfn f() { guard::check() }\n"),
    ] {
        let guard = source("api/guard.rs", guard);
        let circle = ["api::body", "api::guard"];
        assert_eq!(found(&[&parent, &error, &guard, &body(harmful)]), circle, "{harmful}");
    }
    // A name that the parent only passes on belongs to its file.
    let passes = source("api/mod.rs", "pub use guard::check;\n");
    let guard = source("api/guard.rs", "use super::body::Body;\n");
    let circle = ["api::body", "api::guard"];
    assert_eq!(found(&[&passes, &guard, &body("use super::check;\n")]), circle);
    // Three files, and a module below another.
    let long = [
        source("api/guard.rs", "use super::body::Body;\n"),
        source("api/body.rs", "use super::stream::feed::Feed;\n"),
        source("api/stream/feed.rs", "use super::super::guard;\nfn f() { guard::check() }\n"),
    ];
    assert_eq!(members(&circles(&long)), ["api::body", "api::guard", "api::stream::feed"]);
}
