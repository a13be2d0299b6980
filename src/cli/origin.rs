//! The origin of a build: branch, commit and its message, and the build's page in CI.
//!
//! Each is taken from the flags, else from CI's environment, else from git. Blocking: git is a child process.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::control::{Code, Failure};
use crate::protocol::ids::{Branch, Commit, InvalidName};
use crate::protocol::record::{Summary, label};

/// Where a build comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) branch: Branch,
    pub(crate) commit: Commit,
    /// Subject and author of the commit, from CI, or from git if git has the commit.
    pub(crate) summary: Summary,
    /// Where branch and commit were taken from, as a message for the user.
    pub(crate) source: String,
    pub(crate) pull_request: Option<String>,
    /// The CI build's page.
    pub(crate) url: Option<String>,
    /// The author of the build: as CI reports it, else the OS user.
    pub(crate) by: String,
    /// Time of the commit in seconds since 1970; none if git does not have the commit.
    pub(crate) commit_secs: Option<u64>,
}

/// Branch and commit given on the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// `--branch`.
    pub(crate) branch: Option<Branch>,
    /// `--commit`.
    pub(crate) commit: Option<Commit>,
}

/// The build as a CI system describes it in its environment.
struct Ci {
    name: &'static str,
    branch: Option<String>,
    commit: Option<String>,
    message: Option<String>,
    author: Option<String>,
    pull_request: Option<String>,
    url: Option<String>,
    by: Option<String>,
}

/// Finds branch and commit. `env` looks up a variable; git runs in `dir`.
///
/// # Errors
///
/// Exit code 2 if neither flags, environment nor git name a valid branch and commit.
pub(crate) fn find(given: &Given, dir: &Path, env: impl Fn(&str) -> Option<String>) -> Result<Origin, Failure> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let ci = ci(&env);
    let from_ci = ci.as_ref().map(|ci| ci.name);
    let said = |what: &Option<String>| what.clone().filter(|value| value != "HEAD");
    let (branch, branch_source) = match (&given.branch, ci.as_ref().and_then(|ci| said(&ci.branch))) {
        (Some(branch), _) => (branch.clone(), "--branch"),
        (None, Some(name)) => (checked(&name, from_ci.unwrap_or("CI"))?, from_ci.unwrap_or("CI")),
        (None, None) => (git_branch(dir)?, "git"),
    };
    let (commit, commit_source) = match (&given.commit, ci.as_ref().and_then(|ci| said(&ci.commit))) {
        (Some(commit), _) => (commit.clone(), "--commit"),
        (None, Some(id)) => (checked(&id, from_ci.unwrap_or("CI"))?, from_ci.unwrap_or("CI")),
        (None, None) => (git_commit(dir)?, "git"),
    };
    // An author name that cannot be recorded must not fail the build: fall back to the OS user.
    let by = ci.as_ref().and_then(|ci| label(ci.by.as_deref()?)).unwrap_or_else(|| user(env));
    // With --commit the commit may differ from CI's, and CI's message describes only CI's own.
    let of_ci = ci.as_ref().filter(|ci| ci.commit.as_deref() == Some(commit.as_str()));
    let of_ci = of_ci.map(|ci| Summary::new(ci.message.as_deref(), ci.author.as_deref())).unwrap_or_default();
    let (pull_request, url) = ci.map_or((None, None), |ci| (ci.pull_request, ci.url));
    let source = format!("branch {branch} from {branch_source}, commit {} from {commit_source}", commit.short());
    // CI may run outside a repository. Time and message of the commit are optional, so an error of git is ignored.
    let shown = git(dir, &["show", "--no-patch", "--format=%ct%n%an%n%s", commit.as_str()]).unwrap_or_default();
    let mut lines = shown.splitn(3, '\n');
    let commit_secs = lines.next().and_then(|secs| secs.parse().ok());
    let author = lines.next();
    let summary = of_ci.or(Summary::new(lines.next(), author));
    Ok(Origin { branch, commit, summary, source, pull_request, url, by, commit_secs })
}

/// The name of the OS user. It is only claimed, not verified.
pub(crate) fn user(env: impl Fn(&str) -> Option<String>) -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|name| env(name).filter(|value| !value.trim().is_empty()));
    let uid = rustix::process::getuid().as_raw();
    named
        .or_else(|| user_in(&std::fs::read_to_string("/etc/passwd").ok()?, uid))
        .unwrap_or_else(|| format!("uid {uid}"))
}

/// The name of `uid` in a passwd file, passwd(5).
fn user_in(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

fn ci(env: &impl Fn(&str) -> Option<String>) -> Option<Ci> {
    if env("BUILDKITE").is_some() || env("BUILDKITE_COMMIT").is_some() {
        return Some(Ci {
            name: "Buildkite",
            branch: env("BUILDKITE_BRANCH"),
            commit: env("BUILDKITE_COMMIT"),
            message: env("BUILDKITE_MESSAGE"),
            author: env("BUILDKITE_BUILD_AUTHOR"),
            // Buildkite writes "false" where there is none.
            pull_request: env("BUILDKITE_PULL_REQUEST").filter(|number| number != "false"),
            url: env("BUILDKITE_BUILD_URL"),
            by: env("BUILDKITE_BUILD_CREATOR").or_else(|| env("BUILDKITE_BUILD_AUTHOR")),
        });
    }
    if env("GITHUB_ACTIONS").is_some() {
        let run = || {
            let (server, repo) = (env("GITHUB_SERVER_URL")?, env("GITHUB_REPOSITORY")?);
            Some(format!("{server}/{repo}/actions/runs/{}", env("GITHUB_RUN_ID")?))
        };
        return Some(Ci {
            name: "GitHub Actions",
            // In a pull request REF_NAME is `7/merge`; HEAD_REF is the branch, and set only there.
            branch: env("GITHUB_HEAD_REF").or_else(|| env("GITHUB_REF_NAME")),
            commit: env("GITHUB_SHA"),
            // GitHub Actions sets no variable for these; git has both.
            message: None,
            author: None,
            pull_request: env("GITHUB_REF").and_then(|r| pull_request_of(&r)),
            url: run(),
            by: env("GITHUB_ACTOR"),
        });
    }
    if env("GITLAB_CI").is_some() {
        return Some(Ci {
            name: "GitLab CI",
            branch: env("CI_COMMIT_REF_NAME"),
            commit: env("CI_COMMIT_SHA"),
            message: env("CI_COMMIT_TITLE"),
            // `Ann <ann@example.com>`
            author: env("CI_COMMIT_AUTHOR").and_then(|author| Some(author.split(" <").next()?.to_owned())),
            pull_request: env("CI_MERGE_REQUEST_IID"),
            url: env("CI_JOB_URL").or_else(|| env("CI_PIPELINE_URL")),
            by: env("GITLAB_USER_LOGIN"),
        });
    }
    None
}

/// The pull request of a ref: 7 for `refs/pull/7/merge`.
fn pull_request_of(reference: &str) -> Option<String> {
    let number = reference.strip_prefix("refs/pull/")?.split('/').next()?;
    Some(number.to_owned())
}

fn checked<T: std::str::FromStr<Err = InvalidName>>(text: &str, source: &str) -> Result<T, Failure> {
    text.parse().map_err(|error| {
        Failure::new(Code::Usage, format!("{source} gives a branch or commit that cannot be published"))
            .caused_by(error)
            .hint("set them with --branch and --commit")
    })
}

fn git_branch(dir: &Path) -> Result<Branch, Failure> {
    let name = git(dir, &["symbolic-ref", "--quiet", "--short", "HEAD"]).map_err(|error| {
        error.hint("set --branch: git has no branch outside a repository, or on a detached HEAD as CI leaves it")
    })?;
    checked(&name, "git")
}

fn git_commit(dir: &Path) -> Result<Commit, Failure> {
    let id = git(dir, &["rev-parse", "--verify", "HEAD"]).map_err(|error| error.hint("set --commit"))?;
    checked(&id, "git")
}

fn git(dir: &Path, args: &[&str]) -> Result<String, Failure> {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SHA: &str = "15e9f13a00000000000000000000000000000000";

    fn origin(given: &Given, vars: &[(&str, &str)]) -> Result<Origin, Failure> {
        let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
        find(given, Path::new("/nowhere"), |name| vars.get(name).map(|v| (*v).to_owned()))
    }

    #[test]
    fn buildkite_provides_every_field() {
        let found = origin(
            &Given::default(),
            &[
                ("BUILDKITE", "true"),
                ("BUILDKITE_BRANCH", "feature/login"),
                ("BUILDKITE_COMMIT", SHA),
                ("BUILDKITE_PULL_REQUEST", "false"),
                ("BUILDKITE_BUILD_URL", "https://buildkite.com/o/p/builds/7"),
                ("BUILDKITE_BUILD_CREATOR", "Ann"),
            ],
        )
        .unwrap();
        assert_eq!((found.branch.as_str(), found.commit.as_str(), found.by.as_str()), ("feature/login", SHA, "Ann"));
        assert_eq!(found.pull_request, None);
        assert_eq!(found.source, "branch feature/login from Buildkite, commit 15e9f13a from Buildkite");
    }

    #[test]
    fn a_github_pull_request_is_named_after_its_own_branch() {
        let found = origin(
            &Given::default(),
            &[
                ("GITHUB_ACTIONS", "true"),
                ("GITHUB_HEAD_REF", "fix"),
                ("GITHUB_REF_NAME", "7/merge"),
                ("GITHUB_REF", "refs/pull/7/merge"),
                ("GITHUB_SHA", SHA),
            ],
        )
        .unwrap();
        assert_eq!((found.branch.as_str(), found.pull_request.as_deref()), ("fix", Some("7")));
    }

    #[test]
    fn the_commit_message_comes_from_ci_only_for_the_commit_of_ci() {
        let buildkite = [
            ("BUILDKITE", "true"),
            ("BUILDKITE_BRANCH", "master"),
            ("BUILDKITE_COMMIT", SHA),
            ("BUILDKITE_MESSAGE", "Fix the till\n\nIt rang twice."),
            ("BUILDKITE_BUILD_AUTHOR", "Ann"),
        ];
        let said = |given: &Given, vars: &[(&str, &str)]| origin(given, vars).unwrap().summary.to_string();
        assert_eq!(said(&Given::default(), &buildkite), "“Fix the till” by Ann");
        assert_eq!(
            said(&Given { branch: None, commit: Some(SHA.parse().unwrap()) }, &buildkite),
            "“Fix the till” by Ann"
        );
        let other = Given { branch: None, commit: Some("a".repeat(40).parse().unwrap()) };
        assert_eq!(said(&other, &buildkite), "");
        let gitlab = [
            ("GITLAB_CI", "true"),
            ("CI_COMMIT_REF_NAME", "master"),
            ("CI_COMMIT_SHA", SHA),
            ("CI_COMMIT_TITLE", "Fix the till"),
            ("CI_COMMIT_AUTHOR", "Ann B. <ann@example.com>"),
        ];
        assert_eq!(said(&Given::default(), &gitlab), "“Fix the till” by Ann B.");
    }

    #[test]
    fn flags_take_precedence_over_the_environment() {
        let given = Given { branch: Some("v1".parse().unwrap()), commit: None };
        let vars = [("GITLAB_CI", "true"), ("CI_COMMIT_REF_NAME", "master"), ("CI_COMMIT_SHA", SHA), ("USER", "ann")];
        let found = origin(&given, &vars).unwrap();
        assert_eq!(found.source, "branch v1 from --branch, commit 15e9f13a from GitLab CI");
        assert_eq!(found.by, "ann");
    }

    #[test]
    fn without_a_variable_the_passwd_file_names_the_user() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_in(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(user_in(passwd, 7), None);
    }

    #[test]
    fn head_as_commit_is_looked_up_in_git() {
        let vars = [("BUILDKITE", "true"), ("BUILDKITE_BRANCH", "master"), ("BUILDKITE_COMMIT", "HEAD")];
        let error = origin(&Given::default(), &vars).unwrap_err();
        assert!(error.what.contains("rev-parse"), "{}", error.chain());
        assert_eq!(error.code, Code::Usage);
    }
}
