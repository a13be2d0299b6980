//! What a CI system says about its build in the environment.
//!
//! Branch, commit, tag and links are read from Buildkite, GitHub Actions and GitLab CI. Whether a pull request is built is
//! recognized on more systems, because a build of a pull request must never count as one of the branch, also where the
//! branch is given by a flag. On some systems the branch of such a build is the one that the pull request would be merged
//! into.

use std::fs;

use serde_json::Value;

/// The build as a CI system describes it in its environment.
pub(super) struct Ci {
    pub(super) name: &'static str,
    pub(super) branch: Option<String>,
    /// The tag, if CI builds one.
    pub(super) tag: Option<String>,
    pub(super) commit: Option<String>,
    pub(super) message: Option<String>,
    pub(super) author: Option<String>,
    pub(super) pull_request: Option<String>,
    pub(super) url: Option<String>,
    pub(super) by: Option<String>,
}

/// Variables of further systems: one that every build has, and one that is set in builds of pull requests only.
const PULL_REQUESTS: [(&str, &str); 10] = [
    // docs.appveyor, "Environment variables".
    ("APPVEYOR", "APPVEYOR_PULL_REQUEST_NUMBER"),
    // Azure Pipelines, "Predefined variables".
    ("TF_BUILD", "SYSTEM_PULLREQUEST_PULLREQUESTID"),
    ("BITBUCKET_BUILD_NUMBER", "BITBUCKET_PR_ID"),
    // CircleCI sets it in builds of forks only; a branch of the own repository is built as that branch.
    ("CIRCLECI", "CIRCLE_PR_NUMBER"),
    ("CIRRUS_CI", "CIRRUS_PR"),
    ("DRONE", "DRONE_PULL_REQUEST"),
    // Multibranch pipelines.
    ("JENKINS_URL", "CHANGE_ID"),
    ("SEMAPHORE", "SEMAPHORE_GIT_PR_NUMBER"),
    ("TRAVIS", "TRAVIS_PULL_REQUEST"),
    // Woodpecker sets CI to its own name or to true, by version; nothing else has this variable.
    ("CI_PIPELINE_NUMBER", "CI_COMMIT_PULL_REQUEST"),
];

/// The pull request that is built, by the known system or by one of [`PULL_REQUESTS`].
pub(super) fn pull_request(ci: Option<&Ci>, env: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let number = |(system, variable): (&str, &str)| env(system).and_then(|_| env(variable));
    match ci {
        Some(ci) => ci.pull_request.clone(),
        // Travis writes "false" where there is none.
        None => PULL_REQUESTS.into_iter().find_map(number).filter(|number| number != "false"),
    }
}

impl Ci {
    /// The system that runs this program; none if it is unknown.
    pub(super) fn find(env: &impl Fn(&str) -> Option<String>) -> Option<Self> {
        if env("BUILDKITE").is_some() || env("BUILDKITE_COMMIT").is_some() {
            return Some(buildkite(env));
        }
        if env("GITHUB_ACTIONS").is_some() {
            return Some(github(env));
        }
        env("GITLAB_CI").map(|_| gitlab(env))
    }
}

fn buildkite(env: &impl Fn(&str) -> Option<String>) -> Ci {
    // Buildkite can put the owner of a fork in front: `stranger:main`. No branch of the own repository has a colon.
    let branch = env("BUILDKITE_BRANCH");
    let fork = branch.clone().filter(|branch| branch.contains(':'));
    // Buildkite writes "false" where there is none.
    let number = env("BUILDKITE_PULL_REQUEST").filter(|number| number != "false");
    Ci {
        name: "Buildkite",
        branch: branch.map(|branch| branch.replace(':', "/")),
        tag: env("BUILDKITE_TAG"),
        commit: env("BUILDKITE_COMMIT"),
        message: env("BUILDKITE_MESSAGE"),
        author: env("BUILDKITE_BUILD_AUTHOR"),
        pull_request: number.or(fork),
        url: env("BUILDKITE_BUILD_URL"),
        by: env("BUILDKITE_BUILD_CREATOR").or_else(|| env("BUILDKITE_BUILD_AUTHOR")),
    }
}

fn github(env: &impl Fn(&str) -> Option<String>) -> Ci {
    let run = || {
        let (server, repo) = (env("GITHUB_SERVER_URL")?, env("GITHUB_REPOSITORY")?);
        Some(format!("{server}/{repo}/actions/runs/{}", env("GITHUB_RUN_ID")?))
    };
    let reference = env("GITHUB_REF");
    let is_tag = env("GITHUB_REF_TYPE").as_deref() == Some("tag")
        || reference.as_ref().is_some_and(|reference| reference.starts_with("refs/tags/"));
    Ci {
        name: "GitHub Actions",
        // In a pull request REF_NAME is `7/merge`; HEAD_REF is the branch, and set only there.
        branch: env("GITHUB_HEAD_REF").or_else(|| env("GITHUB_REF_NAME")),
        tag: env("GITHUB_REF_NAME").filter(|_| is_tag),
        commit: env("GITHUB_SHA"),
        // GitHub Actions sets no variable for these; git has both.
        message: None,
        author: None,
        pull_request: github_pull_request(env, reference.as_deref()),
        url: run(),
        by: env("GITHUB_ACTOR"),
    }
}

/// The pull request, else the name of its branch. The events `pull_request_target` and `workflow_run` run as the base branch,
/// and may well have built what the pull request contains.
fn github_pull_request(env: &impl Fn(&str) -> Option<String>, reference: Option<&str>) -> Option<String> {
    let of_ref = reference.and_then(|reference| reference.strip_prefix("refs/pull/")?.split('/').next());
    if let Some(number) = of_ref {
        return Some(number.to_owned());
    }
    let event = || {
        let text = fs::read_to_string(env("GITHUB_EVENT_PATH")?).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    };
    let at = |event: &Value, path: &str| match event.pointer(path)? {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    if let Some(branch) = env("GITHUB_HEAD_REF") {
        let number = event().and_then(|event| at(&event, "/pull_request/number"));
        return Some(number.unwrap_or(branch));
    }
    if env("GITHUB_EVENT_NAME").as_deref() != Some("workflow_run") {
        return None;
    }
    let event = event()?;
    let trigger = at(&event, "/workflow_run/event").filter(|trigger| trigger.starts_with("pull_request"))?;
    let number = at(&event, "/workflow_run/pull_requests/0/number");
    // GitHub lists no pull request of a fork.
    Some(number.or_else(|| at(&event, "/workflow_run/head_branch")).unwrap_or(trigger))
}

fn gitlab(env: &impl Fn(&str) -> Option<String>) -> Ci {
    Ci {
        name: "GitLab CI",
        branch: env("CI_COMMIT_REF_NAME"),
        tag: env("CI_COMMIT_TAG"),
        commit: env("CI_COMMIT_SHA"),
        message: env("CI_COMMIT_TITLE"),
        // `Ann <ann@example.com>`
        author: env("CI_COMMIT_AUTHOR").and_then(|author| Some(author.split(" <").next()?.to_owned())),
        // The second one is of a pull request at GitHub, for a mirrored repository.
        pull_request: env("CI_MERGE_REQUEST_IID").or_else(|| env("CI_EXTERNAL_PULL_REQUEST_IID")),
        url: env("CI_JOB_URL").or_else(|| env("CI_PIPELINE_URL")),
        by: env("GITLAB_USER_LOGIN"),
    }
}
