//! Finds the tools that make trees.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::fleet::run::clean_env;

/// A tool, to be run in `dir`. Fails where it is missing, and says what installs it.
pub(crate) fn tool(name: &str, dir: &Path, args: &[&str]) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file());
    let program = program.unwrap_or_else(|| panic!("{name} is not on PATH: scripts/setup tests installs it"));
    command(&program, dir, args)
}

/// A program, to be run in `dir` with nothing of this user's environment but `PATH`.
pub(crate) fn command(program: &Path, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    clean_env(&mut command, &home());
    // Neither writes into a tree that is compared afterwards, nor asks whether it may run as root.
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("COMPOSER_ALLOW_SUPERUSER", "1");
    // bsdtar stumbles over names that the locale cannot express.
    command.env("LC_ALL", "C.UTF-8");
    command.args(args).current_dir(dir);
    command
}

/// pnpm or yarn, which Debian does not have, or only with hundreds of packages.
pub(crate) fn node_tool(name: &str, dir: &Path, args: &[&str]) -> Command {
    static PATHS: OnceLock<String> = OnceLock::new();
    let paths = PATHS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/get-node-tools");
        let output = Command::new(script).output().expect("scripts/get-node-tools does not run");
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "these tests need pnpm and yarn: {messages}");
        String::from_utf8(output.stdout).unwrap()
    });
    let path = paths.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    tool("node", dir, &[&[path.expect("scripts/get-node-tools names it")], args].concat())
}

/// The packages of a language that the tests install.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees/fixtures").join(name)
}

/// Where tools keep their caches: below `target/`, so that Go compiles its library once.
fn home() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trees");
    std::fs::create_dir_all(&home).unwrap();
    home
}
