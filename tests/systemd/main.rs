//! The files of `systemd/` on a real systemd, and what the agent tells a service manager.
//!
//! Each test of [`service`] boots a small Debian (`scripts/get-systemd-machine`) in `systemd-nspawn`, without a network
//! and with everything that it writes in memory. That needs root, and fails without: a unit file that nobody has started
//! is not tested. This machine's own service manager is never spoken to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod machine;
mod notify;
mod service;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Far beyond what anything here takes on a busy machine; only a hang reaches it.
const LIMIT: Duration = Duration::from_mins(2);
/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(30);

/// Waits for an answer, looking again and again.
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// What a script of this repository prints: the path of something that the tests need.
fn found_by(script: &str) -> PathBuf {
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script)).output();
    let output = output.unwrap_or_else(|error| panic!("scripts/{script} does not run: {error}"));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}", talk.trim_end());
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// The Consul binary.
fn consul() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| found_by("get-consul"))
}
