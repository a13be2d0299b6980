//! Which Consul the demo runs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::error::DemoError;

/// Finds a Consul binary: `$CONSUL_BIN`, `consul` on `PATH`, else what `scripts/get-consul` of the source tree that
/// this program was built in fetches.
///
/// # Errors
///
/// [`DemoError::NoConsul`] says what to do.
///
/// # Cancel safety
///
/// Safe: the script is killed, and begins again the next time.
pub(super) async fn find_consul() -> Result<PathBuf, DemoError> {
    if let Some(bin) = std::env::var_os("CONSUL_BIN").filter(|bin| !bin.is_empty()) {
        return absolute(Path::new(&bin)).ok_or_else(|| DemoError::NoConsul {
            tried: format!("CONSUL_BIN is {}, which is not a file", bin.display()),
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("consul")).find_map(|bin| absolute(&bin));
    if let Some(bin) = on_path {
        return Ok(bin);
    }
    let tried = |more: &str| DemoError::NoConsul { tried: format!("CONSUL_BIN is not set, none on PATH, {more}") };
    let exe =
        std::env::current_exe().map_err(|source| DemoError::Command { line: "cutover-demo".to_owned(), source })?;
    let script = exe.ancestors().map(|dir| dir.join("scripts/get-consul")).find(|script| script.is_file());
    let Some(script) = script else { return Err(tried("and no scripts/get-consul above this program")) };
    let mut command = Command::new(&script);
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).process_group(0);
    let output = command.output().await;
    let output = output.map_err(|source| DemoError::Command { line: script.display().to_string(), source })?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    absolute(Path::new(&found))
        .filter(|_| output.status.success())
        .ok_or_else(|| tried(&format!("and {} found none", script.display())))
}

fn absolute(bin: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(bin).ok().filter(|bin| bin.is_file())
}
