//! The `cutover` command: everything is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use cutover::cli::{self, args::Args, output};
use cutover::control::Code;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help that nobody reads any more is no failure.
            let _unheard = error.print();
            return if error.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::say(&format!("cutover: cannot start its threads: {error}"));
            return Code::Failed.into();
        }
    };
    match runtime.block_on(cli::run(args)) {
        Ok(code) => code.into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("cutover: {}", output::clean(&error.chain())));
            if let Some(hint) = &error.hint {
                output::say(&format!("hint: {}", output::clean(hint)));
            }
            error.code.into()
        }
    }
}
