//! A child process with a log file, in its own process group, that does not outlive its owner.
//!
//! Dropping a [`Process`] kills its whole group and reaps the child, also while a panic unwinds. Only a `SIGKILL` of
//! this process itself leaves children behind.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::time::Instant;

/// How often it checks whether a child has ended; short against the 50 ms that a person does not notice.
const POLL: Duration = Duration::from_millis(20);
/// How many bytes at a log's end it reads to find the last lines.
const TAIL_BYTES: u64 = 16 * 1024;

/// Why a child process cannot be handled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its log file cannot be opened.
    #[error("cannot open the log {} of {name}", path.display())]
    Log {
        /// Which process.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The process has not ended in time.
    #[error("{name} (pid {pid}) has not ended within {limit:?}")]
    Running {
        /// Which process.
        name: String,
        /// Its pid.
        pid: u32,
        /// How long it was given.
        limit: Duration,
    },
    /// The process cannot be signalled or waited for.
    #[error("cannot {action} {name}")]
    Signal {
        /// What was tried.
        action: &'static str,
        /// Which process.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The process cannot be started.
    #[error("cannot start {name} ({})", program.display())]
    Spawn {
        /// Which process.
        name: String,
        /// The program's path.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A running child, or one that has ended.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` in a process group of its own, without input, with both outputs appended to `log`.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Log`] or [`ProcessError::Spawn`].
    pub fn spawn(name: impl Into<String>, mut command: Command, log: &Path) -> Result<Self, ProcessError> {
        let name = name.into();
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) =
            open().map_err(|source| ProcessError::Log { name: name.clone(), path: log.to_owned(), source })?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command.spawn().map_err(|source| ProcessError::Spawn {
            name: name.clone(),
            program: command.get_program().into(),
            source,
        })?;
        Ok(Self { name, log: log.to_owned(), child, ended: None })
    }

    /// The child's pid, which is also its group's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of the log, for an error's text; empty if it cannot be read.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines).unwrap_or_default()
    }

    /// Its exit status; none while it runs.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Signal`] where the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        if self.ended.is_none() {
            let waited = self.child.try_wait();
            self.ended = waited.map_err(|source| self.failed("wait for", source))?;
        }
        Ok(self.ended)
    }

    /// Sends a signal to the whole group; nothing if the child has ended.
    ///
    /// After `STOP` it returns only when the child has stopped: sending the signal lets threads finish their system calls
    /// (signal(7)), so a request that is sent right after it might be answered.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Signal`].
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        // Not reaped yet, so that the pid is still its own.
        let pid = Pid::from_child(&self.child);
        kill_process_group(pid, signal).map_err(|e| self.failed("signal", e.into()))?;
        if signal == Signal::STOP {
            // Also returns at its end. NOWAIT: neither state is taken from who asks next.
            let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options))
                .map_err(|e| self.failed("wait for the stop of", e.into()))?;
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Running`] when it has not ended within `limit`; it goes on then.
    ///
    /// # Cancel safety
    ///
    /// Safe: a cancelled stop has sent the signal.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::TERM)?;
        self.wait(limit).await
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Running`] when it has not ended within `limit`.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(ProcessError::Running { name: self.name.clone(), pid: self.pid(), limit });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills the whole group (SIGKILL, which also ends a stopped process) and reaps the child.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Signal`].
    pub fn kill(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL)?;
        if self.ended.is_none() {
            let waited = self.child.wait();
            self.ended = Some(waited.map_err(|source| self.failed("wait for", source))?);
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> ProcessError {
        ProcessError::Signal { action, name: self.name.clone(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Drop cannot report an error, and a child that cannot be killed has ended.
        _ = self.kill();
    }
}

fn log_tail(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    let mut last: Vec<&str> = text.lines().rev().take(lines).collect();
    last.reverse();
    Ok(last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn("sh", command, &dir.join("log")).unwrap()
    }

    #[tokio::test]
    async fn a_dropped_process_takes_its_whole_group_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("sleep 1000 & echo started; wait", dir.path());
        let limit = Instant::now() + Duration::from_secs(20);
        while process.log_tail(1) != "started" {
            assert!(process.ended().unwrap().is_none() && Instant::now() < limit, "{}", process.log_tail(5));
            tokio::task::yield_now().await;
        }
        let group = Pid::from_child(&process.child);
        drop(process);
        // The orphan is reaped by init, which may take a moment.
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < limit, "the group is still there");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_process_has_stopped_when_the_signal_returns() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("while :; do :; done", dir.path());
        let state = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        for _ in 0..200 {
            process.signal(Signal::STOP).unwrap();
            assert_eq!(state(process.pid()), 'T');
            process.signal(Signal::CONT).unwrap();
        }
        process.kill().unwrap();
        // A process that has ended is not waited for.
        process.signal(Signal::STOP).unwrap();
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_named_and_can_be_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done", dir.path());
        while process.log_tail(1) != "ready" {
            tokio::task::yield_now().await;
        }
        let error = process.stop(Duration::from_millis(60)).await.unwrap_err();
        assert!(matches!(error, ProcessError::Running { .. }), "{error}");
        process.kill().unwrap();
        assert!(process.ended().unwrap().is_some());
    }

    #[test]
    fn a_missing_program_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Process::spawn("x", Command::new("/nowhere/at/all"), &dir.path().join("log")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
