//! The commits between two builds, from git. Blocking: git is a child process.
//!
//! A clone of CI's is often shallow. What git cannot know there is said, and never counted as no commits.

use std::collections::BTreeSet;
use std::path::Path;

use super::git::git;
use crate::control::{Code, Failure};
use crate::protocol::ids::Commit;
use crate::protocol::record::{Base, CommitLine, CommitList, Commits, MAX_COMMITS, MAX_REMOVED};

/// The commits of `commit` that `base` lacks, and those of `base` that `commit` lacks. git runs in `dir`.
#[must_use]
pub(crate) fn between(dir: &Path, base: &Base, commit: &Commit) -> Commits {
    let found = find(dir, &base.commit, commit);
    found.unwrap_or_else(|failure| Commits::unknown(&failure.chain(), CommitList::default()))
}

/// The failure is the reason for which the commits are unknown.
fn find(dir: &Path, base: &Commit, commit: &Commit) -> Result<Commits, Failure> {
    // Asked first, because it fails without git, and outside a repository.
    let is_shallow = git(dir, &["rev-parse", "--is-shallow-repository"])? == "true";
    for id in [commit, base] {
        if git(dir, &["cat-file", "-e", &format!("{id}^{{commit}}")]).is_err() {
            let why = if is_shallow { "the clone is shallow, and lacks" } else { "the repository lacks" };
            return Err(Failure::new(Code::Failed, format!("{why} {}; {FETCH_ALL}", id.short())));
        }
    }
    let added = list(dir, base, commit, MAX_COMMITS)?;
    let removed = list(dir, commit, base, MAX_REMOVED)?;
    // Where the history is cut, git sees neither what lies behind, nor that both commits share it.
    if is_shallow && (!removed.is_empty() || is_cut(dir, base, commit)?) {
        let reason = format!("the clone is shallow, and its history is cut between the two builds; {FETCH_ALL}");
        return Ok(Commits::unknown(&reason, if removed.is_empty() { added } else { CommitList::default() }));
    }
    Ok(Commits::Known { added, removed })
}

const FETCH_ALL: &str = "fetch the whole history (`fetch-depth: 0`, `GIT_DEPTH: 0`, `git fetch --unshallow`)";

/// The commits of `to` that `from` lacks, newest first.
fn list(dir: &Path, from: &Commit, to: &Commit, most: usize) -> Result<CommitList, Failure> {
    let range = format!("{from}..{to}");
    let count = git(dir, &["rev-list", "--count", &range])?;
    let unknown = |error| Failure::new(Code::Failed, format!("git counted {count:?} commits")).caused_by(error);
    let count = count.parse().map_err(|error: std::num::ParseIntError| unknown(error))?;
    let most = format!("--max-count={most}");
    // `log.showSignature` would put lines of gpg's before each commit.
    let format = "--format=%H%x00%an%x00%s";
    let log = ["log", "--no-show-signature", "--encoding=UTF-8", &most, format, &range];
    let lines = git(dir, &log)?;
    let line = |line: &str| {
        let mut fields = line.splitn(3, '\0');
        let (id, author, subject) = (fields.next()?, fields.next()?, fields.next()?);
        Some(CommitLine::new(id.parse().ok()?, subject, author))
    };
    Ok(CommitList { count, list: lines.lines().filter_map(line).collect() })
}

/// Whether one of the commits that `to` has and `from` lacks is one whose parents a shallow clone left out.
fn is_cut(dir: &Path, from: &Commit, to: &Commit) -> Result<bool, Failure> {
    let path = git(dir, &["rev-parse", "--git-path", "shallow"])?;
    let path = dir.join(path);
    let unread = |error| Failure::new(Code::Failed, format!("cannot read {}", path.display())).caused_by(error);
    let ends = std::fs::read_to_string(&path).map_err(unread)?;
    let ends: BTreeSet<&str> = ends.lines().collect();
    let range = format!("{from}..{to}");
    Ok(git(dir, &["rev-list", &range])?.lines().any(|id| ends.contains(id)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    struct Repository(tempfile::TempDir);

    impl Repository {
        fn new() -> Self {
            let repository = Self(tempfile::tempdir().unwrap());
            repository.git(&["init", "--quiet", "--initial-branch=master"]);
            repository
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn git(&self, args: &[&str]) -> String {
            let mut command = Command::new("git");
            command.arg("-C").arg(self.path()).args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]);
            let output = command.args(args).output().unwrap();
            assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        }

        fn commit(&self, subject: &str) -> Commit {
            self.git(&["commit", "--quiet", "--allow-empty", "--allow-empty-message", "-m", subject]);
            self.git(&["rev-parse", "HEAD"]).parse().unwrap()
        }

        fn clone_of(&self, depth: usize) -> Self {
            let copy = tempfile::tempdir().unwrap();
            let (url, depth) = (format!("file://{}", self.path().display()), format!("--depth={depth}"));
            self.git(&["clone", "--quiet", &depth, &url, copy.path().to_str().unwrap()]);
            Self(copy)
        }
    }

    fn base(commit: &Commit) -> Base {
        Base { artifact: format!("master-{}", commit.short()).parse().unwrap(), commit: commit.clone() }
    }

    fn subjects(list: &CommitList) -> Vec<&str> {
        list.list.iter().map(|line| line.summary.subject.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn commits_are_counted_and_the_newest_are_listed_with_odd_subjects_in_one_line() {
        let repository = Repository::new();
        repository.git(&["config", "log.showSignature", "true"]);
        let first = repository.commit("first");
        for n in 0..20 {
            repository.commit(&format!("commit {n}"));
        }
        for odd in ["", "tab\tand \u{1b}[31mred", "\"quoted\" <&> %x00 \u{e9}", "two\nlines\n\nbody"] {
            repository.commit(odd);
        }
        let last = repository.commit(&"long ".repeat(200));
        let Commits::Known { added, removed } = between(repository.path(), &base(&first), &last) else { panic!() };
        assert_eq!((added.count, added.list.len(), removed.count), (25, MAX_COMMITS, 0));
        let expected = ["two lines", "\"quoted\" <&> %x00 \u{e9}", "tab and [31mred", "-", "commit 19"];
        assert_eq!(&subjects(&added)[1..6], expected);
        assert_eq!(added.list[0].id, last);
        assert!(added.list.iter().all(|line| line.summary.author.as_deref() == Some("Ann")));
        let same = between(repository.path(), &base(&last), &last);
        assert_eq!(same, Commits::Known { added: CommitList::default(), removed: CommitList::default() });
    }

    #[test]
    fn a_force_push_and_an_older_commit_take_commits_back() {
        let repository = Repository::new();
        let first = repository.commit("first");
        let old = repository.commit("old");
        repository.git(&["reset", "--quiet", "--hard", first.as_str()]);
        let new = repository.commit("new");
        let Commits::Known { added, removed } = between(repository.path(), &base(&old), &new) else { panic!() };
        assert_eq!((subjects(&added), subjects(&removed)), (vec!["new"], vec!["old"]));
        let Commits::Known { added, removed } = between(repository.path(), &base(&new), &first) else { panic!() };
        assert_eq!((subjects(&added), subjects(&removed)), (vec![], vec!["new"]));
    }

    fn reason(commits: &Commits) -> &str {
        let Commits::Unknown { reason, .. } = commits else { panic!("{commits:?}") };
        reason
    }

    #[test]
    fn a_shallow_clone_counts_only_what_it_has_whole() {
        let repository = Repository::new();
        let commits: Vec<Commit> = (0..6).map(|n| repository.commit(&format!("commit {n}"))).collect();
        let last = &commits[5];
        let clone = repository.clone_of(3);
        let Commits::Known { added, .. } = between(clone.path(), &base(&commits[3]), last) else { panic!() };
        assert_eq!(added.count, 2);
        let cut = between(clone.path(), &base(&commits[1]), last);
        assert!(reason(&cut).starts_with("the clone is shallow, and lacks"), "{cut:?}");
        // The base was fetched by itself, so git has both commits, and nothing that joins them.
        clone.git(&["fetch", "--quiet", "--depth=1", "origin", commits[1].as_str()]);
        let apart = between(clone.path(), &base(&commits[1]), last);
        assert!(reason(&apart).starts_with("the clone is shallow, and its history is cut"), "{apart:?}");
    }

    #[test]
    fn without_git_or_the_commit_the_commits_are_unknown() {
        let repository = Repository::new();
        let known = repository.commit("first");
        let foreign: Commit = "a".repeat(40).parse().unwrap();
        let lacks = between(repository.path(), &base(&foreign), &known);
        assert!(reason(&lacks).starts_with("the repository lacks aaaaaaaa"), "{lacks:?}");
        let nowhere = tempfile::tempdir().unwrap();
        assert!(reason(&between(nowhere.path(), &base(&known), &known)).contains("not a git repository"));
    }
}
