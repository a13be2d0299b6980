//! The demo, with the Consul binary that `scripts/get-consul` finds.
//!
//! Without a Consul these tests fail and say what to do; they are never skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(missing_docs, reason = "nobody imports this")]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far beyond what the demo takes; only a hang reaches it.
const LIMIT: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(20);

/// A running demo that can write nowhere but into a directory of its own.
struct Demo {
    child: Child,
    lines: Receiver<String>,
    talk: Receiver<String>,
    heard: Vec<String>,
    dir: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover-demo"));
        command.args(args).env("TMPDIR", dir.path()).env("CONSUL_BIN", consul());
        // What a user's shell may hold must not lead the demo astray.
        command.env("CONSUL_HTTP_ADDR", "http://127.0.0.1:1").env("CUTOVER_STORE", "dir:///nowhere");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (lines_in, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if lines_in.send(line).is_err() {
                    return;
                }
            }
        });
        let (talk_in, talk) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).unwrap();
            // Nobody may be left to hear it.
            _ = talk_in.send(text);
        });
        Self { child, lines, talk, heard: Vec::new(), dir }
    }

    /// Reads on until a line holds `part`.
    fn until(&mut self, part: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("never said {part:?}, but:\n{}", self.heard.join("\n")));
            let found = line.contains(part);
            self.heard.push(line);
            if found {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end: how, what it has printed, and what it said besides.
    fn end(&mut self) -> (ExitStatus, String, String) {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the demo does not end:\n{}", self.heard.join("\n"));
            std::thread::sleep(POLL);
        };
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.heard.push(line);
        }
        (status, self.heard.join("\n"), self.talk.recv_timeout(LIMIT).unwrap())
    }

    /// Whether it has left nothing behind.
    fn assert_clean(&self) {
        let files: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.is_empty(), "left behind: {files:?}");
        // Killed ones that init has not reaped yet have no environment any more.
        let processes = processes_of(self.dir.path());
        assert!(processes.is_empty(), "left running: {processes:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            _ = self.child.wait();
        }
    }
}

/// Every process that was started with this temporary directory: all that the demo starts inherit it.
fn processes_of(dir: &Path) -> Vec<(PathBuf, OsString)> {
    let mark = [b"TMPDIR=", dir.as_os_str().as_encoded_bytes()].concat();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let inherits = |path: &PathBuf| {
        // Gone between the two calls, or somebody else's.
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    let named = |path: PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        (path, OsString::from_vec(line))
    };
    entries.filter(inherits).map(named).collect()
}

fn consul() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/get-consul");
    let output = Command::new(script).output().expect("scripts/get-consul does not run");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "these tests need a Consul binary: {talk}");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

#[test]
fn every_step_goes_as_claimed_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&["--nodes", "3"]);
    let (status, printed, talk) = demo.end();
    assert!(status.success(), "{status}\n{printed}\n{talk}");
    for line in [
        "prefetched  n1 ✓  n2 ✓  n3 ✓",
        "$ cutover deploy shop/production master",
        "all prepared before any switched",
        "n1 \"version 1\"  n2 \"version 1\"  n3 \"version 1\"",
        "$ consul kv put cutover/shop/production/deploy master",
        "n3 ✗  prepare_hook: shared/payment.key is missing on n3",
        "none: `current` is the same link as before on every node; exit code 4",
        "n2 ✗  check_hook: ",
        "this node's database has 1",
        "reverted  n1 ✓  n2 ✓  n3 ✓  exit code 9",
        "n1 \"version 2\"  n2 \"version 2\"  n3 \"version 2\"",
        "as it was unpacked for the first deploy",
        "Every step went as claimed",
    ] {
        assert!(printed.contains(line), "no line with {line:?} in:\n{printed}");
    }
    assert!(!printed.contains('\u{1b}'), "colour codes where there is no terminal");
    demo.assert_clean();
}

#[test]
fn every_step_goes_as_claimed_with_an_s3_store_too() {
    let mut demo = Demo::start(&["--nodes", "2", "--store", "s3"]);
    let (status, printed, talk) = demo.end();
    assert!(status.success(), "{status}\n{printed}\n{talk}");
    assert!(printed.contains("to s3://artifacts/"), "{printed}");
    demo.assert_clean();
}

#[test]
fn ctrl_c_in_the_middle_of_a_deploy_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    demo.until("preparing master-");
    assert!(processes_of(demo.dir.path()).len() > 9, "3 Consuls, 3 apps, 3 agents, and the demo run now");
    demo.signal(Signal::INT);
    let (status, printed, talk) = demo.end();
    assert_eq!(status.code(), Some(1), "{printed}\n{talk}");
    assert!(talk.contains("stopped before its end"), "{talk}");
    demo.assert_clean();
}

#[test]
fn sigterm_while_consul_starts_leaves_nothing_behind() {
    let mut demo = Demo::start(&["--nodes", "2"]);
    demo.until("consul");
    demo.signal(Signal::TERM);
    let (status, printed, talk) = demo.end();
    assert_eq!(status.code(), Some(1), "{printed}\n{talk}");
    demo.assert_clean();
}

#[test]
fn keep_leaves_it_running_until_ctrl_c() {
    let mut demo = Demo::start(&["--nodes", "1", "--keep"]);
    demo.until("left running until Ctrl-C");
    demo.until("history shop/production");
    let exported = |name: &str| {
        let line = demo.heard.iter().find_map(|line| line.trim().strip_prefix(&format!("export {name}=")));
        line.unwrap_or_else(|| panic!("no export of {name} in:\n{}", demo.heard.join("\n"))).to_owned()
    };
    // What it invites to, typed by somebody else.
    let line = demo.heard.iter().find_map(|line| line.trim().strip_suffix(" status shop/production"));
    let mut status = Command::new(line.unwrap());
    status.args(["status", "shop/production"]).env("CONSUL_HTTP_ADDR", exported("CONSUL_HTTP_ADDR"));
    let status = status.output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    demo.signal(Signal::INT);
    let (ended, printed, talk) = demo.end();
    assert!(ended.success(), "{ended}\n{printed}\n{talk}");
    demo.assert_clean();
}

#[test]
fn a_missing_consul_is_one_line_that_says_what_to_do() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover-demo"));
    let output = command.env("CONSUL_BIN", "/nowhere/consul").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("/nowhere/consul") && talk.contains("put it on PATH, or set CONSUL_BIN"), "{talk}");
}
