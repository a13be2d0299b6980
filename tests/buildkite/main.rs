//! The Buildkite hooks, sourced by a shell as the agent does it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// What a hook did.
struct Outcome {
    /// The arguments of `cutover`, if it was called.
    call: Option<Vec<String>>,
    /// The status that the sourcing shell saw.
    status: i32,
    stdout: String,
    stderr: String,
}

/// A checkout with a directory and an archive.
fn checkout() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("my dist")).unwrap();
    fs::write(dir.path().join("shop.tar.gz"), "").unwrap();
    dir
}

/// Sources the hook that publishes.
fn run_hook(checkout: &Path, variables: &[(&str, &str)]) -> Outcome {
    source("post-command", checkout, variables)
}

/// Sources a hook in `checkout`, under strict shell options, as other hooks may have left them.
fn source(hook: &str, checkout: &Path, variables: &[(&str, &str)]) -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let call = checkout.join(".call");
    let path = format!("{}:/usr/bin:/bin", root.join("tests/buildkite/bin").display());
    // What follows the hook in the same shell must still run: the hook does not exit.
    let script = r#"set -uo pipefail; . "$HOOK"; status=$?; echo "after: $status ${path-unset}"; exit $status"#;
    let output = Command::new("bash")
        .args(["-c", script])
        .current_dir(checkout)
        .env_clear()
        .env("PATH", path)
        .env("HOOK", root.join("buildkite/hooks").join(hook))
        .env("TEST_CALL", &call)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let outcome = Outcome {
        call: fs::read_to_string(&call).ok().map(|text| text.lines().map(str::to_owned).collect()),
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(
        outcome.stdout.ends_with(&format!("after: {} unset\n", outcome.status)),
        "the hook ended the agent's shell, or left a variable: {}",
        outcome.stdout
    );
    outcome
}

const BUILT: [(&str, &str); 2] = [("CUTOVER_APP", "shop"), ("BUILDKITE_COMMAND_EXIT_STATUS", "0")];

fn built_with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    BUILT.iter().chain(more).copied().collect()
}

#[test]
fn a_successful_build_is_published() {
    for (variables, expected) in [
        (vec![], vec!["publish", "--app", "shop", "--", "."]),
        (vec![("CUTOVER_PATH", "my dist")], vec!["publish", "--app", "shop", "--", "my dist"]),
        (vec![("CUTOVER_PATH", "shop.tar.gz")], vec!["publish", "--app", "shop", "--file=shop.tar.gz"]),
        (vec![("BUILDKITE_PULL_REQUEST", "false")], vec!["publish", "--app", "shop", "--", "."]),
    ] {
        let outcome = run_hook(checkout().path(), &built_with(&variables));
        assert_eq!(outcome.call.unwrap(), expected, "{variables:?}");
        assert_eq!(outcome.status, 0);
    }
}

#[test]
fn a_job_without_an_app_does_nothing_and_prints_nothing() {
    let outcome = run_hook(checkout().path(), &[("BUILDKITE_COMMAND_EXIT_STATUS", "0")]);
    assert_eq!(outcome.call, None);
    assert_eq!(outcome.status, 0);
    assert_eq!(outcome.stdout, "after: 0 unset\n");
}

#[test]
fn a_failed_build_is_reported_and_not_published_and_stays_the_commands_failure() {
    for (status, reason) in [("1", "1"), ("-1", "-1"), ("", "unknown")] {
        let variables = [("CUTOVER_APP", "shop"), ("BUILDKITE_COMMAND_EXIT_STATUS", status)];
        let outcome = run_hook(checkout().path(), &variables);
        let told = ["build", "fail", "shop", &format!("--reason=exit status {reason}")].map(str::to_owned);
        assert_eq!(outcome.call.unwrap().as_slice(), &told[..], "{status}");
        assert_eq!(outcome.status, 0, "{status}");
    }
    let call = run_hook(checkout().path(), &[("CUTOVER_APP", "shop")]).call.unwrap();
    assert_eq!(call[1], "fail", "no status is no success");
    let untold = [("CUTOVER_APP", "shop"), ("BUILDKITE_COMMAND_EXIT_STATUS", "1"), ("TEST_STATUS", "8")];
    let outcome = run_hook(checkout().path(), &untold);
    assert_eq!(outcome.status, 0, "the job has failed already, and for another reason");
    assert!(outcome.stderr.contains("could not be recorded in Consul"), "{}", outcome.stderr);
}

#[test]
fn a_build_start_is_reported_and_a_failed_report_does_not_stop_the_build() {
    let outcome = source("pre-command", checkout().path(), &[("CUTOVER_APP", "shop")]);
    assert_eq!(outcome.call.unwrap(), ["build", "start", "shop"].map(str::to_owned).to_vec());
    assert_eq!(outcome.status, 0);
    let outcome = source("pre-command", checkout().path(), &[("CUTOVER_APP", "shop"), ("TEST_STATUS", "8")]);
    assert_eq!(outcome.status, 0);
    assert!(outcome.stderr.contains("could not be recorded in Consul"), "{}", outcome.stderr);
    let request = [("CUTOVER_APP", "shop"), ("BUILDKITE_PULL_REQUEST", "7")];
    for variables in [&request[..], &[]] {
        let outcome = source("pre-command", checkout().path(), variables);
        assert_eq!(outcome.call, None);
        assert_eq!(outcome.status, 0);
    }
}

#[test]
fn a_pull_request_is_published_only_when_allowed() {
    let outcome = run_hook(checkout().path(), &built_with(&[("BUILDKITE_PULL_REQUEST", "7")]));
    assert_eq!(outcome.call, None);
    assert_eq!(outcome.status, 0);
    assert!(outcome.stdout.contains("CUTOVER_PULL_REQUESTS=yes"));
    let allowed = [("BUILDKITE_PULL_REQUEST", "7"), ("CUTOVER_PULL_REQUESTS", "yes")];
    assert!(run_hook(checkout().path(), &built_with(&allowed)).call.is_some());
}

#[test]
fn a_failure_to_publish_fails_the_job() {
    assert_eq!(run_hook(checkout().path(), &built_with(&[("TEST_STATUS", "8")])).status, 8);
    let outcome = run_hook(checkout().path(), &built_with(&[("CUTOVER_PATH", "dits")]));
    let told = ["build", "fail", "shop", "--reason=not published"].map(str::to_owned).to_vec();
    assert_eq!(outcome.call, Some(told));
    assert_eq!(outcome.status, 1);
    assert!(outcome.stderr.contains("CUTOVER_PATH is 'dits'"));
}
