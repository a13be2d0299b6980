//! Commands as users type them: `cutover` and `consul`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::error::DemoError;
use super::print::Screen;

/// Prefixes of variables that would point a command at another fleet, or at another build.
const FOREIGN: [&str; 6] = ["AWS_", "BUILDKITE", "CONSUL_", "CUTOVER_", "GITHUB_", "NOTIFY_SOCKET"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Consul,
    Cutover,
}

/// Runs commands in the demo's directory and environment.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    pub(super) cutover: PathBuf,
    pub(super) consul: PathBuf,
    /// Where the store is and how to reach Consul, as a user would export it.
    pub(super) variables: BTreeMap<&'static str, String>,
    /// The working directory.
    pub(super) dir: PathBuf,
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    /// As typed.
    pub(super) line: String,
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    /// Its exit code in words.
    pub(super) fn code(&self) -> String {
        self.status.code().map_or_else(|| self.status.to_string(), |code| format!("exit code {code}"))
    }

    /// Its exit code and messages, for an error.
    pub(super) fn described(&self) -> String {
        let talk = self.stderr.trim();
        format!("{} from `{}`: {}", self.code(), self.line, if talk.is_empty() { self.stdout.trim() } else { talk })
    }

    /// The document on its stdout.
    ///
    /// # Errors
    ///
    /// [`DemoError::Claim`] where it is not such a document.
    pub(super) fn document<T: DeserializeOwned>(&self, step: &str) -> Result<T, DemoError> {
        serde_json::from_str(&self.stdout).map_err(|error| {
            DemoError::claim(step, "a JSON document", format!("{error} in the output of {}", self.described()))
        })
    }
}

impl Commands {
    /// Runs a command without showing it.
    ///
    /// # Errors
    ///
    /// [`DemoError::Command`] where it cannot be run. A bad exit code is not an error here.
    ///
    /// # Cancel safety
    ///
    /// Safe: the command is killed.
    pub(super) async fn hidden(&self, program: Program, args: &[&str]) -> Result<Ran, DemoError> {
        self.run(program, args, None).await
    }

    /// Shows a command and its messages while it runs.
    ///
    /// # Errors
    ///
    /// As [`Commands::hidden`].
    ///
    /// # Cancel safety
    ///
    /// Safe: the command is killed.
    pub(super) async fn shown(&self, program: Program, args: &[&str], screen: &Screen) -> Result<Ran, DemoError> {
        self.run(program, args, Some(screen)).await
    }

    async fn run(&self, program: Program, args: &[&str], screen: Option<&Screen>) -> Result<Ran, DemoError> {
        let (name, path) = match program {
            Program::Consul => ("consul", &self.consul),
            Program::Cutover => ("cutover", &self.cutover),
        };
        let line = format!("{name} {}", args.join(" "));
        if let Some(screen) = screen {
            screen.command(&line)?;
        }
        let failed = |source| DemoError::Command { line: line.clone(), source };
        let mut command = Command::from(own_environment(path));
        command.args(args).envs(&self.variables).current_dir(&self.dir).kill_on_drop(true);
        // In a group of its own: Ctrl-C is for the demo, which then ends its commands itself.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let (mut out, talk) = (child.stdout.take(), child.stderr.take());
        let read = async {
            let mut text = String::new();
            if let Some(out) = &mut out {
                out.read_to_string(&mut text).await.map_err(failed)?;
            }
            Ok::<_, DemoError>(text)
        };
        let follow = async {
            let mut text = String::new();
            let Some(talk) = talk else { return Ok(text) };
            let mut lines = BufReader::new(talk).lines();
            while let Some(line) = lines.next_line().await.map_err(failed)? {
                if let Some(screen) = screen {
                    screen.talk(&line)?;
                }
                text.push_str(&line);
                text.push('\n');
            }
            Ok(text)
        };
        let (stdout, stderr) = tokio::try_join!(read, follow)?;
        let status = child.wait().await.map_err(failed)?;
        Ok(Ran { line, status, stdout, stderr })
    }
}

/// A command without the user's own variables for Consul, stores and CI.
pub(super) fn own_environment(program: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for (name, _) in std::env::vars_os() {
        if is_foreign(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_foreign(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| FOREIGN.iter().any(|prefix| name.starts_with(prefix)))
}
