//! Runs git. Blocking: git is a child process.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::control::{Code, Failure};

/// The output of git in `dir`, trimmed.
///
/// # Errors
///
/// Exit code 2, with git's own message.
pub(super) fn git(dir: &Path, args: &[&str]) -> Result<String, Failure> {
    let failed = || Failure::new(Code::Usage, format!("git {} failed in {}", args.join(" "), dir.display()));
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed().caused_by(error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed().caused_by(if said.is_empty() { output.status.to_string() } else { said }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
