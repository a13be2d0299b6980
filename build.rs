//! Says from which commit a release build is made: `CUTOVER_REVISION`, where that is set, else what git says of this
//! directory, else nothing. Metrics and `cutover --version` show it.
//!
//! Not in other builds: each commit would have everything built anew.

use std::path::Path;
use std::process::Command;

/// What git says, if it is there and content.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The commit that is checked out, with `-dirty` where files differ from it. A source archive that lies within another
/// repository has none.
fn checked_out() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let is_ours = Path::new(&top).canonicalize().ok() == Path::new(".").canonicalize().ok();
    // No tag is taken: it would be named in place of the commit.
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
