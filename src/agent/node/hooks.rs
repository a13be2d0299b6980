//! Runs a unit's hooks: as argument vectors, in their own process group, with a time limit. Only the end of the output
//! is kept.
//!
//! A hook gets a small environment: `CUTOVER_*`, the variables that every program needs (`PATH`, `HOME`, `LANG`, `TZ`,
//! `USER`), and the variables that the settings name as secrets. The agent's own Consul token is not among them. At the
//! time limit or a halt, the whole process group gets TERM, and KILL after [`GRACE`].

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::protocol::ids::{Node, Unit};
use crate::protocol::record::{Fault, MAX_OUTPUT_BYTES, Step};

/// The time between TERM and KILL that hooks can rely on.
const GRACE: Duration = Duration::from_secs(5);
/// How long output is read after the hook has ended: a child that it left running may hold the pipe open.
const LINGER: Duration = Duration::from_millis(500);
/// The longest output file per hook and release; the end of the output is kept.
const KEPT_OUTPUT_BYTES: usize = 64 * 1024;
/// Variables of the agent's own environment that every hook gets.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "USER"];

/// One run of a hook.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) unit: Unit,
    pub(crate) node: Node,
    /// The step of a failure's fault.
    pub(crate) step: Step,
    /// Program and arguments; a relative program is looked up in `directory`.
    pub(crate) command: Vec<String>,
    pub(crate) timeout: Duration,
    /// The working directory: the release, or `deploy_to` where there is no release.
    pub(crate) directory: PathBuf,
    /// `CUTOVER_*`.
    pub(crate) variables: BTreeMap<&'static str, String>,
    /// Names of variables that the hook gets, and whose values are removed from its output.
    pub(crate) secret_env: Vec<String>,
    /// The file for the last 64 KiB of output.
    pub(crate) output_file: PathBuf,
}

/// Runs a hook to its end.
///
/// # Errors
///
/// A fault of its step: the hook could not be started, failed, took too long, or was halted.
///
/// # Cancel safety
///
/// Not cancel safe: if dropped, the hook gets KILL without TERM first. Use `halt`.
pub(crate) async fn run(call: &Call, halt: &CancellationToken) -> Result<(), Fault> {
    let Some((program, arguments)) = call.command.split_first() else { return Ok(()) };
    let mut command = Command::new(resolve(program, &call.directory));
    command
        .args(arguments)
        .current_dir(&call.directory)
        .env_clear()
        .envs(call.variables.iter())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for name in PASSED_ON.iter().copied().chain(call.secret_env.iter().map(String::as_str)) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(|e| {
        Fault::new(call.step, &format!("{program} could not be started: {e}; see the group's hooks in the settings"))
    })?;
    let output = Tail::follow(&mut child);
    let ended = wait(&mut child, call.timeout, halt).await;
    let output = redact(&output.finish().await, &call.secret_env);
    keep(call, &output).await;
    let reason = match ended {
        Ended::Exited(Ok(status)) if status.success() => return Ok(()),
        Ended::Exited(Ok(status)) => format!("{program} ended with {status}"),
        Ended::Exited(Err(e)) => format!("{program} could not be waited for: {e}"),
        Ended::Overdue => format!("{program} took longer than {} s and was stopped", call.timeout.as_secs_f64()),
        Ended::Halted => {
            format!("{program} was stopped, because the deploy no longer needs it or the agent is stopping")
        }
    };
    let mut fault = Fault::new(call.step, &reason);
    fault.output = last(&output, MAX_OUTPUT_BYTES);
    Err(fault)
}

/// A program with a slash is relative to `directory`, as in a shell. Other programs are found by `PATH`.
fn resolve(program: &str, directory: &Path) -> PathBuf {
    if program.contains('/') { directory.join(program) } else { PathBuf::from(program) }
}

enum Ended {
    Exited(std::io::Result<ExitStatus>),
    Halted,
    Overdue,
}

async fn wait(child: &mut Child, timeout: Duration, halt: &CancellationToken) -> Ended {
    let why = tokio::select! {
        status = child.wait() => return Ended::Exited(status),
        () = tokio::time::sleep(timeout) => Ended::Overdue,
        () = halt.cancelled() => Ended::Halted,
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = group {
        // The process group may have ended already.
        let _gone = kill_process_group(group, Signal::TERM);
        let _timed_out = tokio::time::timeout(GRACE, child.wait()).await;
        let _gone = kill_process_group(group, Signal::KILL);
    }
    let _reaped = child.wait().await;
    why
}

/// Reads stdout and stderr as they come, and keeps the end of both.
struct Tail {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    kept: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Tail {
    fn follow(child: &mut Child) -> Self {
        let kept = std::sync::Arc::default();
        let mut tasks = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            tasks.push(tokio::spawn(drain(stdout, std::sync::Arc::clone(&kept))));
        }
        if let Some(stderr) = child.stderr.take() {
            tasks.push(tokio::spawn(drain(stderr, std::sync::Arc::clone(&kept))));
        }
        Self { tasks, kept }
    }

    async fn finish(self) -> String {
        for mut task in self.tasks {
            if tokio::time::timeout(LINGER, &mut task).await.is_err() {
                task.abort();
            }
        }
        let bytes = self.kept.lock().map(|kept| kept.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

async fn drain(mut from: impl AsyncRead + Unpin, kept: std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
    let mut buffer = vec![0_u8; 8192];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let Ok(mut kept) = kept.lock() else { return };
        kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
        let excess = kept.len().saturating_sub(KEPT_OUTPUT_BYTES);
        kept.drain(..excess);
    }
}

/// Removes the values of secret variables, and control characters, which could trick a terminal or the page.
fn redact(output: &str, secret_env: &[String]) -> String {
    /// Shorter values would blank out ordinary words.
    const SHORTEST_SECRET: usize = 4;
    let mut clean: String = output.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let values = secret_env.iter().filter_map(|name| std::env::var(name).ok());
    let mut values: Vec<String> = values.filter(|value| value.len() >= SHORTEST_SECRET).collect();
    // The longest first: a short value that begins a longer one would leave the rest of the longer one readable.
    values.sort_unstable_by_key(|value| std::cmp::Reverse(value.len()));
    for value in values {
        clean = clean.replace(&value, "[secret]");
    }
    clean
}

/// The end of the output, at most `longest` bytes, cut at the start of a line if possible.
fn last(output: &str, longest: usize) -> String {
    let output = output.trim_end();
    let mut start = output.len().saturating_sub(longest);
    while !output.is_char_boundary(start) {
        start = start.saturating_add(1);
    }
    let tail = output.get(start..).unwrap_or_default();
    match tail.find('\n') {
        Some(line) if start > 0 => tail.get(line..).unwrap_or_default().trim_start().to_owned(),
        Some(_) | None => tail.to_owned(),
    }
}

/// Saves the output for operators. A failure is only logged: a full disk must not fail a deploy whose hook succeeded.
async fn keep(call: &Call, output: &str) {
    let file = &call.output_file;
    if let Err(error) = write(file, output).await {
        let (unit, node, file) = (&call.unit, &call.node, file.display());
        let hook = call.step.as_str().trim_end_matches("_hook");
        tracing::warn!(%unit, hook, %file, %error, "{unit}: {node} cannot save the output of the {hook} hook to {file}: {error}");
    }
}

/// Writes output that only the agent's user and group can read: hooks may print what is secret.
async fn write(file: &Path, output: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        tokio::fs::create_dir_all(directory).await?;
        // Files of older versions in it are readable for everybody. The file below is not, whosever the directory is.
        let _not_ours = tokio::fs::set_permissions(directory, Permissions::from_mode(0o750)).await;
    }
    let mut options = tokio::fs::OpenOptions::new();
    let mut opened = options.write(true).create(true).truncate(true).mode(0o640).open(file).await?;
    opened.set_permissions(Permissions::from_mode(0o640)).await?;
    opened.write_all(output.as_bytes()).await?;
    opened.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(script: &str, directory: &Path) -> Call {
        Call {
            unit: "shop/production".parse().unwrap(),
            node: "web-1".parse().unwrap(),
            step: Step::CheckHook,
            command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            timeout: Duration::from_secs(20),
            directory: directory.to_owned(),
            variables: BTreeMap::from([("CUTOVER_APP", "shop".to_owned())]),
            secret_env: Vec::new(),
            output_file: directory.join("out/check.log"),
        }
    }

    #[tokio::test]
    async fn a_failing_hook_is_reported_with_its_status_and_last_output() {
        let dir = tempfile::tempdir().unwrap();
        let fault = run(&call("seq 1 5000; echo app=$CUTOVER_APP >&2; exit 7", dir.path()), &CancellationToken::new())
            .await
            .unwrap_err();
        assert!(fault.reason.contains("exit status: 7"), "{}", fault.reason);
        assert!(fault.output.len() <= MAX_OUTPUT_BYTES);
        assert!(fault.output.contains("app=shop"), "{}", fault.output);
        assert!(std::fs::read_to_string(dir.path().join("out/check.log")).unwrap().contains("5000"));
    }

    #[tokio::test]
    async fn output_is_readable_for_the_agents_user_and_group_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out/check.log");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        // As an older version made them.
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::write(&file, "older and longer").unwrap();
        for (path, bits) in [(file.parent().unwrap(), 0o755), (&*file, 0o644)] {
            std::fs::set_permissions(path, Permissions::from_mode(bits)).unwrap();
        }
        run(&call("echo secret", dir.path()), &CancellationToken::new()).await.unwrap();
        assert_eq!((mode(file.parent().unwrap()), mode(&file)), (0o750, 0o640));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "secret\n");
    }

    #[tokio::test]
    async fn a_hook_that_takes_too_long_dies_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mut slow = call("sleep 600 & echo $! > child; wait", dir.path());
        slow.timeout = Duration::from_millis(300);
        let fault = run(&slow, &CancellationToken::new()).await.unwrap_err();
        assert!(fault.reason.contains("took longer"), "{}", fault.reason);
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z"), "the hook's child lives on: {stat}");
    }

    #[tokio::test]
    async fn a_halt_ends_a_hook() {
        let dir = tempfile::tempdir().unwrap();
        let halt = CancellationToken::new();
        halt.cancel();
        let fault = run(&call("sleep 600", dir.path()), &halt).await.unwrap_err();
        assert!(fault.reason.contains("no longer needs it"), "{}", fault.reason);
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_pipe_does_not_hold_the_hook_up() {
        let dir = tempfile::tempdir().unwrap();
        let done = run(&call("sleep 600 & echo $! > child", dir.path()), &CancellationToken::new()).await;
        assert_eq!(done, Ok(()));
        let child: i32 = std::fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn what_is_shown_of_output_is_clean_and_short() {
        assert_eq!(redact("a\u{1b}[31mb\u{202e}", &[]), "a[31mb\u{202e}");
        assert_eq!(last("one\ntwo\nthree\n", 9), "three");
        assert_eq!(last("short", 100), "short");
    }
}
