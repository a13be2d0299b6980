//! Proves the barrier with the product's own state machines: `src/protocol`, compiled here a second time.
//!
//! | Part | Contents |
//! |---|---|
//! | [`traces`] | readable runs, one per rule; `UPDATE_TRACES=1` writes them anew, for review in the diff |
//! | [`model`] | every way in which a small fleet can go: `make model` |
//! | [`simulator`] | whole fleets in virtual time with every kind of fault, from a seed: `make simulate` |
//!
//! Unlike in the product, [`protocol::rule`] can remove a rule here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a proof that cannot go on has failed")]

#[path = "../../../src/backoff.rs"]
#[allow(dead_code, reason = "the product uses what the proofs do not")]
mod backoff;
#[path = "../../../src/kind.rs"]
#[allow(dead_code, unreachable_pub, reason = "the product uses what the proofs do not")]
mod kind;
#[path = "../../../src/protocol/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "the product uses what the proofs do not")]
#[allow(
    clippy::enum_variant_names,
    clippy::struct_field_names,
    clippy::unused_self,
    reason = "in the product these names are public"
)]
mod protocol;
#[path = "../../../src/plan/retention.rs"]
#[allow(dead_code, unreachable_pub, reason = "in the product these names are public")]
mod retention;

#[allow(dead_code, reason = "tests/consul/fake.rs compares more than is used here")]
mod consul;
#[cfg(test)]
mod coordination;
mod invariant;
mod kv;
mod model;
mod receipt;
mod simulator;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod world;

use std::process::ExitCode;

/// The checker makes and drops millions of small states: this allocator halves the cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Proves Cutover's barrier with its own state machines.

";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((command, rest)) if command == "model" => model::command::model(rest),
        Some((command, rest)) if command == "simulate" => simulator::command::simulate(rest),
        Some((command, _)) if matches!(command.as_str(), "--help" | "-h" | "help") => {
            println!("{HELP}{}{}", model::command::HELP, simulator::command::HELP);
            return ExitCode::SUCCESS;
        }
        Some((command, _)) => Err(format!("there is no command {command:?}; see --help")),
        None => Err("which proof? see --help".to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(wrong) => {
            eprintln!("{wrong}");
            ExitCode::from(64)
        }
    }
}
