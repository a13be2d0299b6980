//! The command line: arguments, one file per command, output, exit codes.
//!
//! Results go to stdout, talk to stderr. A command returns the code to exit with, or the one error that `main` prints.

pub mod args;
pub mod commands;
pub mod context;
pub mod exit;
pub mod follow;
pub mod origin;
pub mod output;
pub mod progress;
pub mod request;
pub mod store;
pub mod view;

use crate::control::{Code, Failure};
use args::{Args, Command, Consul};
use commands::{
    abort, agent, builds, check_config, consul, demo, deploy, history, publish, recover, rollback, status,
    watch_handler,
};
use context::Context;

/// Runs the command.
///
/// # Errors
///
/// [`Failure`], with the exit code that says what kind it is.
pub async fn run(args: Args) -> Result<Code, Failure> {
    // One TLS provider for everything; that it is installed already is as good.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let context = || Context::new(&args.global);
    match &args.command {
        Command::Agent(agent_args) => agent::run(&args.global, agent_args).await,
        Command::Deploy(args) => deploy::run(&context()?, args).await,
        Command::Rollback(args) => rollback::run(&context()?, args).await,
        Command::Abort(args) => abort::run(&context()?, args).await,
        Command::Status(args) => status::run(&context()?, args).await,
        Command::Recover(args) => recover::run(&context()?, args).await,
        Command::Builds(args) => builds::run(&context()?, args).await,
        Command::History(args) => history::run(&context()?, args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::DemoApp(args) => demo::app(args).await,
        Command::WatchHandler(args) => watch_handler::run(args).await,
        Command::Publish(args) => publish::run(&context()?, args).await,
        Command::Consul(Consul::WatchConfig(args)) => consul::watch_config(args),
        Command::Consul(Consul::AclPolicy(policy)) => consul::acl_policy(policy, &args.global.prefix),
        Command::CheckConfig(check) => check_config::run(args.global.output, check).await,
    }
}
