//! One Consul agent of a cluster: its files, its process, and whether it sees the others.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use cutover::consul::{Client, Consistency};

use super::{ClusterError, HTTP_PORT, NodeConfig, Place};
use crate::process::Process;

/// How many lines of an agent's log an error shows.
const SHOWN_LINES: usize = 12;

/// One agent of a cluster.
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) dir: PathBuf,
    /// `None` after a stop or kill.
    pub(super) process: Option<Process>,
}

impl Node {
    /// Its name in Consul: `n1` for node 0.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that is its own.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.place.address
    }

    /// The address of its HTTP API, `http://127.x.y.z:8500`.
    #[must_use]
    pub fn http_addr(&self) -> String {
        format!("http://{}:{HTTP_PORT}", self.place.address)
    }

    /// A command that runs where this node lives.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.place.command(program)
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(super) fn write_config(&self, name: &str, config: &NodeConfig) -> Result<(), ClusterError> {
        let dir = self.dir.join("config");
        let (path, text) = match config {
            NodeConfig::Hcl(text) => (dir.join(format!("{name}.hcl")), text.clone()),
            NodeConfig::Json(value) => (dir.join(format!("{name}.json")), value.to_string()),
        };
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text));
        written.map_err(|source| ClusterError::File { path, source })
    }

    pub(super) fn spawn(&mut self, bin: &Path) -> Result<(), ClusterError> {
        let mut command = self.command(bin);
        command.arg("agent").arg("-config-dir").arg(self.dir.join("config"));
        self.process = Some(Process::spawn(format!("consul agent {}", self.name), command, &self.log())?);
        Ok(())
    }

    /// Fails where the agent has ended by itself.
    pub(super) fn check_running(&mut self) -> Result<(), ClusterError> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match process.ended()? {
            None => Ok(()),
            Some(status) => Err(ClusterError::Ended { node: self.name.clone(), status, tail: self.log_tail() }),
        }
    }

    /// The end of its log, for an error; empty after a stop or kill.
    pub(super) fn log_tail(&self) -> String {
        self.process.as_ref().map(|process| process.log_tail(SHOWN_LINES)).unwrap_or_default()
    }
}

/// What is still missing for a node to count as a member, in words.
pub(super) async fn look(client: &Client, running: &BTreeSet<String>) -> Result<(), String> {
    if !client.has_leader().await.map_err(|e| e.to_string())? {
        return Err("it knows no leader".to_owned());
    }
    let alive = client.alive_nodes().await.map_err(|e| e.to_string())?;
    if let Some(name) = running.difference(&alive).next() {
        return Err(format!("it does not see {name} alive"));
    }
    // A quorum, and a client agent's own way to it.
    client.kv_get("cutover-ready", Consistency::Consistent).await.map_err(|e| e.to_string())?;
    Ok(())
}
