//! git with an author and without the settings of this machine.

use std::io;
use std::path::Path;
use std::process::Command;

/// Runs git in `dir` as Ann B.; returns what it prints, trimmed.
///
/// # Errors
///
/// There is no git, or it fails; then with what it wrote to stderr.
pub fn git(dir: &Path, args: &[&str]) -> io::Result<String> {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").arg("-C").arg(dir);
    let output = command.args(["-c", "user.name=Ann B.", "-c", "user.email=ann@example.com"]).args(args).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("git {args:?}: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
