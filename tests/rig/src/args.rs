//! The command line of `cutover-demo`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use cutover_rig::demo::{Afterwards, Options, StoreKind};

/// Shows a small fleet on this machine: real Consul, agents and apps, deploys, a refusal, a rollback
#[derive(Debug, Parser)]
#[command(name = "cutover-demo", max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) demo: Demo,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The app that the demo deploys
    #[command(subcommand, hide = true)]
    App(App),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Leave everything running after the last step, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Number of nodes
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,
    /// Where to store archives: in a directory, or in an S3 server within the demo
    #[arg(long, value_enum, default_value = "dir")]
    store: Store,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Store {
    /// A directory
    Dir,
    /// An S3 server within the demo
    S3,
}

#[derive(Debug, Subcommand)]
pub(crate) enum App {
    /// Answer with the version that `current` has, loaded at start and on SIGHUP
    Serve {
        /// Where to listen
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
        /// The directory that holds `current` and `shared`
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
    },
    /// Fail unless the app answers with the release's version, and is healthy
    Check {
        /// Where the app listens
        #[arg(long)]
        url: String,
        /// The release that it should run
        #[arg(long, value_name = "DIR")]
        release: PathBuf,
    },
}

impl From<Demo> for Options {
    fn from(demo: Demo) -> Self {
        let store = match demo.store {
            Store::Dir => StoreKind::Directory,
            Store::S3 => StoreKind::S3,
        };
        let afterwards = if demo.keep { Afterwards::Keep } else { Afterwards::End };
        Self { nodes: demo.nodes.into(), store, afterwards }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }
}
