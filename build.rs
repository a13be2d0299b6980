//! Sets the commit of a release build: `CUTOVER_REVISION` if set, else the commit from git, else none. Metrics and
//! `cutover --version` show it.
//!
//! Only for release builds: otherwise each commit would rebuild everything.

use std::path::Path;
use std::process::Command;

/// The output of git, if git exists and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The checked-out commit, with `-dirty` if files differ from it. None for a source archive inside another repository.
fn checked_out() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let is_ours = Path::new(&top).canonicalize().ok() == Path::new(".").canonicalize().ok();
    // Ignore tags, because git would print a tag instead of the commit.
    git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).filter(|_| is_ours)
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CUTOVER_REVISION");
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for path in ["HEAD", "logs/HEAD"].iter().filter_map(|name| git(&["rev-parse", "--git-path", name])) {
        println!("cargo::rerun-if-changed={path}");
    }
    if let Some(revision) = std::env::var("CUTOVER_REVISION").ok().filter(|it| !it.is_empty()).or_else(checked_out) {
        let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
        println!("cargo::rustc-env=CUTOVER_REVISION={revision}");
        println!("cargo::rustc-env=CUTOVER_VERSION={version} ({revision})");
    }
}
