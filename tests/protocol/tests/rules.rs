//! Proofs that cannot fail prove nothing: each rule that is taken out of the protocol is found, by the model check and by
//! the simulator.
#![allow(clippy::unwrap_used, reason = "a proof that cannot go on has failed")]

use std::process::Command;

/// Rules are removed for a whole process: each proof gets its own.
fn finds_each_removed_rule(proof: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_cutover-protocol")).args([proof, "rules"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("found ")).count(), 12, "{text}");
}

#[test]
fn the_model_check_finds_each_removed_rule() {
    finds_each_removed_rule("model");
}

#[test]
fn the_simulator_finds_each_removed_rule() {
    finds_each_removed_rule("simulate");
}
