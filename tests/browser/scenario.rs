//! Runs a scenario in a process of its own, which drives the browser, and answers what it asks.
//!
//! The two talk by lines of JSON: the scenario's stdin begins with what it needs to know, then each of its asks is
//! answered by one line. Its stderr is what it has to say to people.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use crate::fleet::run;
use crate::fleet::{LIMIT, wait_until};
use crate::rig::Rig;
use crate::scenario_requests::{Ask, answer};

/// How long a scenario may say nothing: some look at forty pages, one after another.
const SILENCE: Duration = Duration::from_mins(5);

/// The programs that it takes.
struct Tools {
    chromium: String,
    python: String,
}

/// Plays `scenarios/<scenario>.py`; fails with what it says.
pub(crate) fn play(rig: &Rig, scenario: &str) {
    play_in(rig, scenario, "light");
}

/// As [`play`], for scenarios that are told in which colours.
pub(crate) fn play_in(rig: &Rig, scenario: &str, scheme: &str) {
    let mut player = Player::start(rig, scenario, scheme);
    while let Some(line) = player.next_line() {
        let ask: Ask = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{scenario} asks {line}: {error}"));
        player.tell(&answer(rig, ask));
    }
    let status = wait_until(LIMIT, &format!("{scenario} ends"), || player.child.try_wait().unwrap());
    let said = player.said();
    assert!(status.success(), "the scenario {scenario} failed:\n{said}");
    eprint!("{said}");
}

/// Where pictures are left.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

/// A scenario that runs. Dropped, it is killed, and the browser with it.
struct Player {
    child: Child,
    to: ChildStdin,
    lines: Receiver<String>,
    /// Files of the browser's own; it is known by them.
    work: PathBuf,
}

impl Player {
    fn start(rig: &Rig, scenario: &str, scheme: &str) -> Self {
        let tools = tools();
        let name = format!("{scenario}-{scheme}");
        let work = rig.fleet.dir.path().join(format!("browser-{name}"));
        std::fs::create_dir(&work).unwrap();
        let stderr = std::fs::File::create(work.join("stderr")).unwrap();
        let mut command = Command::new(&tools.python);
        run::clean_env(&mut command, &work);
        let play = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/run.py");
        // In a group of its own, and with no compiled copies beside the sources.
        command.arg("-B").arg(play).arg(scenario).env("TMPDIR", &work).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the scenario, or with whoever waits for it.
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut player = Self { child, to, lines, work };
        let mut facts = rig.facts();
        facts["chromium"] = json!(tools.chromium);
        facts["pictures"] = json!(target().join("browser").join(name));
        facts["scheme"] = json!(scheme);
        facts["target"] = json!(target());
        player.tell(&facts);
        player
    }

    /// What it asks next; none: it has ended.
    fn next_line(&self) -> Option<String> {
        match self.lines.recv_timeout(SILENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the scenario hangs; it has said:\n{}", self.said()),
        }
    }

    fn tell(&mut self, value: &Value) {
        // It fails where the scenario has ended; its exit code then tells.
        _ = writeln!(self.to, "{value}");
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.work.join("stderr")).unwrap_or_default()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // A group's id is its own only until the child is waited for.
        if matches!(self.child.try_wait(), Ok(None)) {
            // Both fail where there is nobody left, which is all that is wanted.
            _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            _ = self.child.wait();
        }
        // Playwright gives the browser a group of its own. It ends by itself when nobody drives it, but not at once.
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let left = processes_with(&self.work);
            if left.is_empty() {
                return;
            }
            for pid in left {
                _ = kill_process(pid, Signal::KILL);
            }
            std::thread::yield_now();
        }
    }
}

/// The processes whose command line names a file in this directory.
fn processes_with(dir: &Path) -> Vec<Pid> {
    let name = dir.to_str().unwrap_or("\0");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let names_it = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(name)
    };
    numbers.filter(names_it).filter_map(Pid::from_raw).collect()
}

/// The browser and what drives it, or a failure that says what to do.
fn tools() -> &'static Tools {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/get-browser");
        let output = Command::new(script).output().expect("scripts/get-browser does not run");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "these tests need a browser: {talk}");
        let text = String::from_utf8(output.stdout).unwrap();
        let path =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap().into();
        Tools { chromium: path("chromium"), python: path("python") }
    })
}
