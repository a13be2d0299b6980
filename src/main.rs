//! The `cutover` command: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cutover::cli::execute(std::env::args_os())
}
