//! `--help` is where names and flags are promised; a change of it is a change of the contract.

use cutover::control::Code;

use crate::support::{cutover, ends_now};

const COMMANDS: [&str; 21] = [
    "agent",
    "publish",
    "build",
    "builds",
    "deploy",
    "rollback",
    "abort",
    "status",
    "history",
    "freeze",
    "unfreeze",
    "node",
    "recover",
    "doctor",
    "watch-handler",
    "check-config",
    "notify",
    "consul",
    "iam-policy",
    "completions",
    "man",
];

/// Commands below those.
const SUBCOMMANDS: [[&str; 2]; 13] = [
    ["build", "start"],
    ["build", "fail"],
    ["build", "cancel"],
    ["build", "mark-bad"],
    ["build", "mark-good"],
    ["build", "show"],
    ["build", "signed-text"],
    ["build", "prune"],
    ["node", "forget"],
    ["node", "repair"],
    ["notify", "test"],
    ["consul", "watch-config"],
    ["consul", "acl-policy"],
];

#[test]
fn the_help_of_every_command_matches_its_snapshot() {
    insta::assert_snapshot!("cutover", ends_now(cutover(&["--help"]), Code::Done).stdout);
    for command in COMMANDS {
        insta::assert_snapshot!(command, ends_now(cutover(&[command, "-h"]), Code::Done).stdout);
    }
    for [command, below] in SUBCOMMANDS {
        let help = ends_now(cutover(&[command, below, "-h"]), Code::Done).stdout;
        insta::assert_snapshot!(format!("{command}-{below}"), help);
    }
}

#[test]
fn the_help_lists_no_command_that_is_not_tested_here() {
    let help = ends_now(cutover(&["-h"]), Code::Done).stdout;
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // Continuation lines are indented deeper than the names.
    let names: Vec<&str> =
        listed.lines().filter(|l| !l.starts_with("   ")).filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(names, COMMANDS);
}

#[test]
fn the_help_never_shows_what_the_environment_holds() {
    let mut command = cutover(&["publish", "--help"]);
    command.env("CUTOVER_STORE", "s3://confidential").env("CONSUL_HTTP_TOKEN", "confidential");
    assert!(!ends_now(command, Code::Done).stdout.contains("confidential"));
}
