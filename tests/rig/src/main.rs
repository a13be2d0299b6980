//! `cutover-demo`: the demo, the app that it deploys, and, under the name `cutover`, Cutover itself.
//!
//! One program, so that building and starting it is one step, and the demo never runs a `cutover` of another build:
//! what it starts as `cutover` is a link to this program, and that does what the `cutover` binary does.

mod args;

use std::error::Error;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use cutover::telemetry::chain;
use cutover_rig::demo::{self, app};

use args::{App, Args, Command};

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new(demo::CUTOVER)) {
        return cutover::cli::execute(std::env::args_os());
    }
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr only the exit code is left.
            _ = writeln!(std::io::stderr(), "cutover-demo: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.command {
            None => demo::run(&args.demo.into()).await?,
            Some(Command::App(App::Serve { listen, root })) => app::serve(listen, &root).await?,
            Some(Command::App(App::Check { url, release })) => app::check(&url, &release).await?,
        }
        Ok(())
    })
}
