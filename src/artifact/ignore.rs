//! What `publish` leaves out of a packed directory: its `.git`, and what `.cutoverignore` names in the syntax of gitignore(5).
//!
//! As with git, the last pattern that matches a path decides, and nothing below a directory that is left out is packed.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix_glob::Pattern;
use gix_glob::pattern::{Case, Mode};
use gix_glob::wildmatch;

/// The file with the patterns, at the top of the directory.
pub(crate) const IGNORE_FILE: &str = ".cutoverignore";

/// How many paths are listed.
const LISTED: usize = 20;

/// Whether a `.git` at the top of the directory is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitDir {
    /// It has the whole history, and often credentials in its config.
    LeaveOut,
    /// It is packed like any other directory.
    Pack,
}

/// The paths that were not packed; a directory counts once, with all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// The first 20, relative to the directory.
    pub listed: Vec<PathBuf>,
    /// All of them.
    pub count: u64,
}

/// The patterns of a directory.
pub(super) struct Ignore {
    git: GitDir,
    patterns: Vec<Pattern>,
    left_out: LeftOut,
}

impl Ignore {
    /// Reads the patterns; there are none without the file.
    pub(super) fn read(dir: &Path, git: GitDir) -> io::Result<Self> {
        let text = match fs::read(dir.join(IGNORE_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        Ok(Self { git, patterns: patterns(&text), left_out: LeftOut::default() })
    }

    /// Whether to leave out the path `inner`, relative to the directory; counts it then.
    pub(super) fn leaves_out(&mut self, inner: &Path, is_dir: bool) -> bool {
        let is_git = self.git == GitDir::LeaveOut && inner == Path::new(".git");
        let is_left_out = is_git || self.matches(inner, is_dir);
        if is_left_out {
            self.left_out.count += 1;
            if self.left_out.listed.len() < LISTED {
                self.left_out.listed.push(inner.to_owned());
            }
        }
        is_left_out
    }

    pub(super) fn into_left_out(self) -> LeftOut {
        self.left_out
    }

    fn matches(&self, inner: &Path, is_dir: bool) -> bool {
        let path = inner.as_os_str().as_bytes();
        let basename = path.iter().rposition(|byte| *byte == b'/').map(|at| at + 1);
        let mode = wildmatch::Mode::NO_MATCH_SLASH_LITERAL;
        let deciding = self.patterns.iter().rev().find(|pattern| {
            pattern.matches_repo_relative_path(path.into(), basename, Some(is_dir), Case::Sensitive, mode)
        });
        deciding.is_some_and(|pattern| !pattern.mode.contains(Mode::NEGATIVE))
    }
}

/// One pattern a line. Comments, blanks at the end that are not escaped, CRLF and a byte order mark are dropped, as git does.
fn patterns(text: &[u8]) -> Vec<Pattern> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.starts_with(b"#")).filter_map(|line| Pattern::from_bytes(without_blanks(line))).collect()
}

fn without_blanks(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut is_escaped = false;
    for (at, byte) in line.iter().enumerate() {
        if is_escaped || !matches!(byte, b' ' | b'\t') {
            end = at + 1;
        }
        is_escaped = !is_escaped && *byte == b'\\';
    }
    line.get(..end).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const LINES: &str = "\u{feff}# comment\n\n*.log\n!keep.log\n/top\nbuild/\ndoc/*.txt\n**/cache\nlogs/**\na/**/z\n\\#hash\n\
         \\!bang\ntrailing  \nescaped\\ \n[ab].c\n[!x].h\ncrlf\r\nfoo?\ndeep/er/\nx\\*y\n*~\nsub/*\n!sub/kept\n";
    const PATHS: &[(&str, bool)] = &[
        ("a.log", false),
        ("d/a.log", false),
        ("keep.log", false),
        ("top", false),
        ("d/top", false),
        ("build", true),
        ("build", false),
        ("d/build", true),
        ("doc/a.txt", false),
        ("doc/d/a.txt", false),
        ("d/doc/a.txt", false),
        ("cache", true),
        ("d/e/cache", false),
        ("logs", true),
        ("a/z", false),
        ("a/b/c/z", false),
        ("#hash", false),
        ("!bang", false),
        ("# comment", false),
        ("trailing", false),
        ("escaped ", false),
        ("escaped", false),
        ("a.c", false),
        ("c.c", false),
        ("y.h", false),
        ("x.h", false),
        ("crlf", false),
        ("food", false),
        ("foo/d", false),
        ("deep/er", true),
        ("deep/er", false),
        ("x*y", false),
        ("xay", false),
        ("file~", false),
        ("sub/lost", false),
        ("sub/kept", false),
        ("\u{e9}.log", false),
        ("plain", false),
    ];

    /// Git itself decides.
    #[test]
    fn patterns_match_as_in_git() {
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            git.arg("-C").arg(dir.path()).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null");
            git.stdout(Stdio::null()).status().unwrap()
        };
        assert!(git(&["init", "--quiet"]).success());
        for (n, (path, is_dir)) in PATHS.iter().enumerate() {
            // One at a time: git asks the disk whether a path is a directory.
            fs::write(dir.path().join(".gitignore"), LINES).unwrap();
            let at = dir.path().join(path);
            if *is_dir {
                fs::create_dir_all(&at).unwrap();
            } else {
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                fs::write(&at, "").unwrap();
            }
            let expected = git(&["check-ignore", "--quiet", "--no-index", "--", path]).success();
            let mut ignore =
                Ignore { git: GitDir::Pack, patterns: patterns(LINES.as_bytes()), left_out: LeftOut::default() };
            assert_eq!(ignore.leaves_out(Path::new(path), *is_dir), expected, "{n}: {path:?}");
            fs::remove_dir_all(dir.path().join(path.split('/').next().unwrap()))
                .or_else(|_| fs::remove_file(&at))
                .unwrap();
        }
    }
}
