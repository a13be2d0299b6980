//! Proofs that cannot fail prove nothing: model check and simulator find the damage of each removed rule.
#![allow(clippy::unwrap_used, reason = "a proof that cannot go on has failed")]

use std::process::Command;

/// Rules are removed for a whole process: each proof gets its own.
fn finds_each_removed_rule(proof: &str, rules: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_cutover-protocol")).args([proof, "rules"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("found ")).count(), rules, "{text}");
}

#[test]
fn the_model_check_finds_each_removed_rule() {
    finds_each_removed_rule("model", 15);
}

/// All rules except the one that `simulator/command.rs` leaves to the model check.
#[test]
fn the_simulator_finds_each_removed_rule() {
    // And those of the shell, which the model check does not run.
    finds_each_removed_rule("simulate", 14 + 8);
}
