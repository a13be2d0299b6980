//! The command line: arguments, one file per command, output, exit codes.
//!
//! Results go to stdout, messages to stderr. A command returns its exit code, or the one error that `main` prints.

pub(crate) mod args;
pub(crate) mod commands;
mod commits;
pub(crate) mod context;
mod dry_run;
pub(crate) mod exit;
pub(crate) mod follow;
mod git;
pub(crate) mod origin;
pub(crate) mod output;
pub(crate) mod packing;
pub(crate) mod progress;
pub(crate) mod request;
mod ships;
mod signer;
pub(crate) mod store;
pub(crate) mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::control::{Code, Failure};
use crate::telemetry;
use args::{Args, Command, Consul, Notify};
use commands::{
    abort, agent, build, builds, check_config, completions, consul, demo, deploy, doctor, freeze, history, iam_policy,
    node, notify, publish, recover, rollback, status, watch_handler,
};
use context::Context;

/// Runs a command line, which starts with the program's name, and returns the exit code. `main` only calls this.
#[must_use]
pub fn execute(command_line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(command_line) {
        Ok(args) => args,
        Err(error) => {
            // A closed pipe while printing help is not a failure.
            let _ignored = error.print();
            return if error.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::say(&format!("cutover: cannot start the runtime's threads: {error}"));
            return Code::Failed.into();
        }
    };
    match runtime.block_on(run(args)) {
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

async fn run(args: Args) -> Result<Code, Failure> {
    // All TLS clients use this provider. An error only means that it is already installed.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    if !matches!(args.command, Command::Agent(_)) {
        telemetry::init_if_asked();
    }
    let context = || Context::new(&args.global);
    match &args.command {
        Command::Agent(agent_args) => agent::run(&args.global, agent_args).await,
        Command::Deploy(args) => deploy::run(&context()?, args).await,
        Command::Rollback(args) => rollback::run(&context()?, args).await,
        Command::Abort(args) => abort::run(&context()?, args).await,
        Command::Status(args) => status::run(&context()?, args).await,
        Command::Recover(args) => recover::run(&context()?, args).await,
        Command::Build(args) => build::run(&context()?, args).await,
        Command::Builds(args) => builds::run(&context()?, args).await,
        Command::History(args) => history::run(&context()?, args).await,
        Command::Freeze(args) => freeze::freeze(&context()?, args).await,
        Command::Unfreeze(args) => freeze::unfreeze(&context()?, args).await,
        Command::Node(args) => node::run(&context()?, args).await,
        Command::Doctor(args) => doctor::run(&context()?, args).await,
        Command::Demo(args) => demo::run(args),
        Command::WatchHandler(args) => watch_handler::run(args).await,
        Command::Publish(args) => publish::run(&context()?, args).await,
        Command::Consul(Consul::WatchConfig(args)) => consul::watch_config(args),
        Command::Consul(Consul::AclPolicy(policy)) => consul::acl_policy(policy, &args.global.prefix),
        Command::IamPolicy(policy) => iam_policy::run(policy).await,
        Command::Notify(Notify::Test(test)) => notify::test(args.global.output, test).await,
        Command::Completions(args) => completions::print(*args),
        Command::Man(args) => completions::man(args),
        Command::CheckConfig(check) => check_config::run(args.global.output, check).await,
    }
}
