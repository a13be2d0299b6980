//! Runs commands to their end, with a limit.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::fleet::{LIMIT, wait_until};

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Output {
    /// 128 + the signal, where one ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The document on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("stdout is no JSON ({error}): {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    files: [PathBuf; 2],
    line: String,
}

/// Leaves nothing of the caller's environment but what a program needs to run; `USER` is ann.
pub(crate) fn clean_env(command: &mut Command, home: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", home).env("USER", "ann");
    command.env("RUST_BACKTRACE", "1").env("NO_COLOR", "1");
}

impl Running {
    /// Starts a command without input; what it prints goes through files below `dir`.
    pub(crate) fn begin(command: Command, dir: &Path) -> Self {
        Self::start(command, dir, Stdio::null())
    }

    /// Starts a command that reads `input`.
    pub(crate) fn begin_with_input(command: Command, dir: &Path, input: &[u8]) -> Self {
        let path = output_file(dir);
        std::fs::write(&path, input).unwrap();
        Self::start(command, dir, File::open(path).unwrap().into())
    }

    /// Starts a command whose input is still to be written.
    pub(crate) fn begin_with_keyboard(command: Command, dir: &Path) -> (Self, ChildStdin) {
        let mut running = Self::start(command, dir, Stdio::piped());
        let keyboard = running.child.stdin.take().unwrap();
        (running, keyboard)
    }

    fn start(mut command: Command, dir: &Path, stdin: Stdio) -> Self {
        let files = [output_file(dir), output_file(dir)];
        let [out, err] = files.clone().map(|path| File::create(path).unwrap());
        let line = format!("{command:?}");
        let child = command.stdin(stdin).stdout(out).stderr(err).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{line}: {error}")), files, line }
    }

    /// What it has said so far, on both outputs.
    pub(crate) fn said(&self) -> [String; 2] {
        self.files.clone().map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned())
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Output {
        let line = self.line.clone();
        let status = wait_until(LIMIT, &format!("{line} ends"), || self.child.try_wait().unwrap());
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
        let [stdout, stderr] = self.said();
        Output { code: status.code().or(signal).unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended, which is all that is wanted.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn output_file(dir: &Path) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let dir = dir.join("output");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
}
