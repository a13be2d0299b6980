//! The origin of a build: branch, commit and its message, and the build's page in CI.
//!
//! Each is taken from the flags, else from CI's environment, else from git. Blocking: git is a child process. Which CI
//! systems are known, and what they say about pull requests and tags, is in [`ci`].

use std::path::Path;

use super::git::git;
use crate::control::{Code, Failure};
use crate::protocol::git_ref::GitRef;
use crate::protocol::ids::{Branch, Commit, InvalidName};
use crate::protocol::record::{MAX_ANCESTORS, Place, Summary, label};

use ci::{Ci, pull_request};

mod ci;

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
    /// The tag, if CI builds one; then `branch` has the same name.
    pub(crate) tag: Option<Branch>,
    /// The nearest ancestors of the commit, as far as git has them.
    pub(crate) ancestors: Vec<String>,
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
    pub(crate) branch: Option<GitRef>,
    /// `--commit`.
    pub(crate) commit: Option<Commit>,
}

/// Finds branch and commit. `env` looks up a variable; git runs in `dir`.
///
/// # Errors
///
/// Exit code 2 if neither flags, environment nor git name a valid branch and commit.
pub(crate) fn find(given: &Given, dir: &Path, env: impl Fn(&str) -> Option<String>) -> Result<Origin, Failure> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let ci = Ci::find(&env);
    let from_ci = ci.as_ref().map(|ci| ci.name);
    let said = |what: &Option<String>| what.clone().filter(|value| value != "HEAD");
    let of_tag = ci.as_ref().and_then(|ci| ci.tag.clone());
    let (named, branch_source) = match (&given.branch, &of_tag, ci.as_ref().and_then(|ci| said(&ci.branch))) {
        (Some(named), _, _) => (named.clone(), "--branch"),
        (None, Some(tag), _) => {
            (checked(&format!("refs/tags/{tag}"), from_ci.unwrap_or("CI"))?, from_ci.unwrap_or("CI"))
        }
        (None, None, Some(name)) => (checked(&name, from_ci.unwrap_or("CI"))?, from_ci.unwrap_or("CI")),
        (None, None, None) => (GitRef::Branch(git_branch(dir)?), "git"),
    };
    let branch = named.name().clone();
    // `--branch` with CI's own variable names the tag that CI builds.
    let tag =
        named.tag().cloned().or_else(|| Some(branch.clone()).filter(|name| of_tag.as_deref() == Some(name.as_str())));
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
    // Without a usable number, the build is still one of a pull request.
    let pull_request = pull_request(ci.as_ref(), &env).map(|number| label(&number).unwrap_or_else(|| "?".to_owned()));
    let url = ci.and_then(|ci| ci.url);
    let of = match (&pull_request, &tag) {
        (Some(number), _) => format!("branch {branch} of pull request {number}"),
        (None, Some(tag)) => format!("tag {tag}"),
        (None, None) => format!("branch {branch}"),
    };
    let source = format!("{of} from {branch_source}, commit {} from {commit_source}", commit.short());
    // CI may run outside a repository. Time and message of the commit are optional, so an error of git is ignored.
    let show = ["show", "--no-patch", "--no-show-signature", "--format=%ct%n%an%n%s", commit.as_str()];
    let shown = git(dir, &show).unwrap_or_default();
    let mut lines = shown.splitn(3, '\n');
    let commit_secs = lines.next().and_then(|secs| secs.parse().ok());
    let author = lines.next();
    let summary = of_ci.or(Summary::new(lines.next(), author));
    let ancestors = ancestors(dir, &commit);
    Ok(Origin { branch, commit, summary, source, pull_request, tag, ancestors, url, by, commit_secs })
}

/// The nearest ancestors of a commit, as records have them. A shallow clone has few or none, and outside a repository there
/// are none: then the other fields of the record decide which build is newer.
fn ancestors(dir: &Path, commit: &Commit) -> Vec<String> {
    let most = format!("--max-count={}", MAX_ANCESTORS + 1);
    let listed = git(dir, &["rev-list", &most, commit.as_str(), "--"]).unwrap_or_default();
    let commits = listed.lines().filter_map(|line| line.parse::<Commit>().ok());
    commits.filter(|ancestor| ancestor != commit).map(|ancestor| Place::digits(&ancestor).to_owned()).collect()
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
    fn a_pull_request_is_one_on_every_ci_whatever_its_branch_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let event = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let targeted = event("target", r#"{"pull_request":{"number":8}}"#);
        let workflow =
            event("run", r#"{"workflow_run":{"event":"pull_request","head_branch":"fix","pull_requests":[]}}"#);
        let pushed = event("push", r#"{"workflow_run":{"event":"push","pull_requests":[]}}"#);
        let buildkite = |branch, number| {
            vec![
                ("BUILDKITE", "true"),
                ("BUILDKITE_BRANCH", branch),
                ("BUILDKITE_COMMIT", SHA),
                ("BUILDKITE_PULL_REQUEST", number),
            ]
        };
        let github = |more: &[(&'static str, &'static str)]| {
            let own = [("GITHUB_ACTIONS", "true"), ("GITHUB_SHA", SHA), ("GITHUB_REF_NAME", "main")];
            own.iter().chain(more).copied().collect::<Vec<_>>()
        };
        let gitlab = |more| vec![("GITLAB_CI", "true"), ("CI_COMMIT_SHA", SHA), ("CI_COMMIT_REF_NAME", "main"), more];
        let of = |more: &[(&'static str, &'static str)]| more.to_vec();
        let cases = [
            (buildkite("main", "44"), "main", Some("44")),
            (buildkite("stranger:main", "44"), "stranger/main", Some("44")),
            (buildkite("stranger:main", "false"), "stranger/main", Some("stranger:main")),
            (buildkite("main", "false"), "main", None),
            (github(&[("GITHUB_HEAD_REF", "main"), ("GITHUB_REF", "refs/pull/7/merge")]), "main", Some("7")),
            (
                github(&[
                    ("GITHUB_HEAD_REF", "main"),
                    ("GITHUB_REF", "refs/heads/main"),
                    ("GITHUB_EVENT_PATH", targeted.leak()),
                ]),
                "main",
                Some("8"),
            ),
            (github(&[("GITHUB_HEAD_REF", "main"), ("GITHUB_REF", "refs/heads/main")]), "main", Some("main")),
            (
                github(&[("GITHUB_EVENT_NAME", "workflow_run"), ("GITHUB_EVENT_PATH", workflow.leak())]),
                "main",
                Some("fix"),
            ),
            (github(&[("GITHUB_EVENT_NAME", "workflow_run"), ("GITHUB_EVENT_PATH", pushed.leak())]), "main", None),
            (github(&[("GITHUB_REF", "refs/heads/main")]), "main", None),
            (gitlab(("CI_MERGE_REQUEST_IID", "9")), "main", Some("9")),
            (gitlab(("CI_EXTERNAL_PULL_REQUEST_IID", "9")), "main", Some("9")),
            (gitlab(("CI_OPEN_MERGE_REQUESTS", "shop!9")), "main", None),
            (of(&[("JENKINS_URL", "https://ci/"), ("CHANGE_ID", "5")]), "main", Some("5")),
            (of(&[("DRONE", "true"), ("DRONE_PULL_REQUEST", "5")]), "main", Some("5")),
            (of(&[("TRAVIS", "true"), ("TRAVIS_PULL_REQUEST", "5")]), "main", Some("5")),
            (of(&[("TRAVIS", "true"), ("TRAVIS_PULL_REQUEST", "false")]), "main", None),
            (of(&[("CIRCLECI", "true"), ("CIRCLE_PR_NUMBER", "5")]), "main", Some("5")),
            (of(&[("TF_BUILD", "True"), ("SYSTEM_PULLREQUEST_PULLREQUESTID", "5")]), "main", Some("5")),
            (of(&[("CHANGE_ID", "5")]), "main", None),
        ];
        for (vars, branch, number) in cases {
            let has_branch = vars.iter().any(|(name, _)| name.ends_with("BRANCH") || name.ends_with("REF_NAME"));
            let named = (!has_branch).then(|| GitRef::Branch("main".parse().unwrap()));
            let found = origin(&Given { branch: named, commit: Some(SHA.parse().unwrap()) }, &vars).unwrap();
            assert_eq!((found.branch.as_str(), found.pull_request.as_deref()), (branch, number), "{vars:?}");
            assert_eq!(found.tag, None);
        }
    }

    #[test]
    fn a_tag_is_one_on_every_ci_and_a_full_ref_says_what_it_is() {
        let cases = [
            vec![("BUILDKITE", "true"), ("BUILDKITE_BRANCH", "v1"), ("BUILDKITE_TAG", "v1"), ("BUILDKITE_COMMIT", SHA)],
            vec![
                ("GITHUB_ACTIONS", "true"),
                ("GITHUB_REF_TYPE", "tag"),
                ("GITHUB_REF_NAME", "v1"),
                ("GITHUB_SHA", SHA),
            ],
            vec![
                ("GITHUB_ACTIONS", "true"),
                ("GITHUB_REF", "refs/tags/v1"),
                ("GITHUB_REF_NAME", "v1"),
                ("GITHUB_SHA", SHA),
            ],
            vec![("GITLAB_CI", "true"), ("CI_COMMIT_TAG", "v1"), ("CI_COMMIT_REF_NAME", "v1"), ("CI_COMMIT_SHA", SHA)],
        ];
        let name: Branch = "v1".parse().unwrap();
        for vars in cases {
            for given in [None, Some("v1"), Some("refs/tags/v1")] {
                let named = given.map(|text| text.parse::<GitRef>().unwrap());
                let found = origin(&Given { branch: named, commit: None }, &vars).unwrap();
                assert_eq!((&found.branch, found.tag.as_ref()), (&name, Some(&name)), "{vars:?}");
                assert!(found.source.starts_with("tag v1 from "), "{}", found.source);
            }
            let named = Given { branch: Some("master".parse().unwrap()), commit: None };
            assert_eq!(origin(&named, &vars).unwrap().tag, None);
        }
        let full = [("BUILDKITE", "true"), ("BUILDKITE_BRANCH", "refs/heads/x"), ("BUILDKITE_COMMIT", SHA)];
        assert_eq!(origin(&Given::default(), &full).unwrap().branch.as_str(), "x");
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
        let given = Given { branch: Some(GitRef::Branch("v1".parse().unwrap())), commit: None };
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
