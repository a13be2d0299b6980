//! The command line as it is typed. Names and flags are a contract with users' scripts.
//!
//! Everything that can be checked without Consul is checked here, so that a typo ends with exit code 2 before
//! anything is read or written.
#![expect(clippy::doc_markdown, reason = "these comments are the text of --help, which shows backticks as they are")]

mod consul;
mod operating;
mod publishing;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args as ClapArgs, Parser, Subcommand};

use super::exit;
use crate::config;
use crate::protocol::ids::{App, ArtifactName, Node, Unit};
use crate::protocol::record::Selector;

pub use consul::{AclPolicy, Consul, Global, Handler, Role, WatchConfig};
pub use operating::{
    Build, BuildEnd, BuildMark, BuildOrigin, BuildStart, Completions, Doctor, Freeze, Man, NodeCommand, NodeRepair,
    Unfreeze, Until,
};
pub use publishing::{PackFormat, Prune, Publish, StoreArgs};

/// With the commit where that is known: in release builds, from build.rs.
const VERSION: &str = match option_env!("CUTOVER_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Deploys a build to every node of a Consul fleet at the same moment, or to none.
#[derive(Debug, Parser)]
#[command(name = "cutover", version = VERSION, max_term_width = 100, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = exit::TABLE)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// For every command.
    #[command(flatten)]
    pub global: Global,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The daemon: runs on every node, under systemd
    Agent(AgentArgs),
    /// Pack, upload, record, and announce a build
    Publish(Publish),
    /// Say how a build goes in CI, or mark one as bad
    #[command(subcommand)]
    Build(Build),
    /// Every build: running, failed, published; and on how many nodes it is prefetched
    Builds(Builds),
    /// Deploy to every node of a group at the same moment, or to none
    Deploy(Deploy),
    /// Go back to a release that was done before
    Rollback(Rollback),
    /// Stop the deploy that runs: before the commit nobody switches; after it everyone goes back
    Abort(Abort),
    /// What runs, per node, and the deploy that is under way
    Status(StatusArgs),
    /// Who deployed what, when, how it ended, and how long it took
    History(HistoryArgs),
    /// Refuse deploys to a group for a while; rollbacks still go
    Freeze(Freeze),
    /// Allow deploys to a group again
    Unfreeze(Unfreeze),
    /// Look after one node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Begin again from what the nodes run, after the keys in Consul were lost or restored
    Recover(Recover),
    /// Check Consul, rights, keys, store and clock, have every node check itself, and say how to mend what is wrong
    Doctor(Doctor),
    /// Say how to get the demo
    #[command(hide = true)]
    Demo(Demo),
    /// Pass Consul's watch payload from stdin on to the local agent: the script form of the watch handler
    WatchHandler(WatchHandler),
    /// Check the agent's config, drop-ins included, as the agent would
    CheckConfig(CheckConfig),
    /// Try the receivers of notifications
    #[command(subcommand)]
    Notify(Notify),
    /// Print what Consul is to be given: watches and ACL policies
    #[command(subcommand)]
    Consul(Consul),
    /// Print the completion script of a shell
    Completions(Completions),
    /// Print the manual page, or write one per command
    Man(Man),
}

/// `cutover agent`.
#[derive(Clone, Debug, ClapArgs)]
pub struct AgentArgs {
    /// Settings; drop-ins are read from conf.d/ beside it
    #[arg(long, value_name = "FILE", default_value = "/etc/cutover/cutover.toml")]
    pub config: PathBuf,
}

/// `cutover builds`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Builds {
    /// App
    pub app: App,
}

/// `cutover deploy`.
#[derive(Clone, Debug, ClapArgs)]
#[command(group = ArgGroup::new("what").required(true).args(["reference", "from"]))]
#[command(override_usage = "cutover deploy [OPTIONS] <APP/GROUP> <REF | --from <APP/GROUP>>")]
pub struct Deploy {
    /// Group to deploy to, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// Branch or artifact; `branch:…`, `commit:…` and `artifact:…` say which
    #[arg(value_name = "REF", value_parser = Selector::parse)]
    pub reference: Option<Selector>,
    /// Deploy exactly what this group of the same app runs, if its last deploy was done
    #[arg(long, value_name = "APP/GROUP")]
    pub from: Option<Unit>,
    /// How to ask and wait
    #[command(flatten)]
    pub asking: Asking,
    /// Override a freeze, a bad mark, and a newer build that is not published
    #[arg(long)]
    pub force: bool,
    /// Make a new release of what runs already
    #[arg(long)]
    pub again: bool,
}

/// `cutover rollback`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Rollback {
    /// Group to roll back, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// Artifact to go back to; else the newest release that was done before the one that runs
    #[arg(long, value_name = "ARTIFACT")]
    pub to: Option<ArtifactName>,
    /// How to ask and wait
    #[command(flatten)]
    pub asking: Asking,
}

/// What `deploy` and `rollback` share.
#[derive(Clone, Debug, ClapArgs)]
pub struct Asking {
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Wait for the outcome and return it as exit code; the default
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return as soon as the request is written
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
    /// How long to wait for the outcome; the deploy goes on
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = config::time_span)]
    pub timeout: Duration,
    /// Wait for one's turn while another deploy runs, instead of ending with exit code 6
    #[arg(long)]
    pub queue: bool,
    /// Ask every node what would happen, and change nothing; exit code 4 if a node objects or does not answer
    #[arg(long, conflicts_with_all = ["no_wait", "queue"])]
    pub dry_run: bool,
}

/// `cutover abort`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Abort {
    /// Group whose deploy is to stop, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// How long to wait for the end
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = config::time_span)]
    pub timeout: Duration,
}

/// `cutover status`.
#[derive(Clone, Debug, ClapArgs)]
pub struct StatusArgs {
    /// Group, as shop/production; every group if none is given
    #[arg(value_name = "APP/GROUP")]
    pub unit: Option<Unit>,
    /// Show each change until Ctrl-C
    #[arg(long)]
    pub follow: bool,
}

/// `cutover history`.
#[derive(Clone, Debug, ClapArgs)]
pub struct HistoryArgs {
    /// Group, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// How many lines to show, newest first: requests, and what was done besides
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
    /// Where the part lies that Consul does not keep.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `cutover node forget`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Forget {
    /// Node, as `cutover status` names it
    #[arg(value_name = "NODE")]
    pub node: Node,
    /// Only in this group, as shop/production; otherwise in every group that has the node
    #[arg(value_name = "APP/GROUP")]
    pub unit: Option<Unit>,
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `cutover recover`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = exit::RECOVER)]
pub struct Recover {
    /// Group whose keys were lost or restored, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// What every node is to run, where the nodes do not run the same: a release or artifact that one of them runs
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<String>,
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Write without asking; needed where there is no terminal
    #[arg(long)]
    pub yes: bool,
    /// How long to wait until every live node follows
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = config::time_span)]
    pub timeout: Duration,
}

/// `cutover demo`. The demo is another program, and people type this all the same.
#[derive(Clone, Debug, ClapArgs)]
pub struct Demo {
    /// Arguments of the demo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<String>,
}

/// `cutover watch-handler`.
#[derive(Clone, Debug, ClapArgs)]
pub struct WatchHandler {
    /// Address of the local agent
    #[arg(
        long,
        value_name = "URL",
        env = "CUTOVER_AGENT",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8740"
    )]
    pub agent: http::Uri,
}

/// `cutover check-config`.
#[derive(Clone, Debug, ClapArgs)]
pub struct CheckConfig {
    /// The file; its drop-ins in conf.d/ beside it are read too
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// `cutover notify`.
#[derive(Clone, Debug, Subcommand)]
pub enum Notify {
    /// Send a test event to one receiver, and show exactly what came back
    Test(NotifyTest),
}

/// `cutover notify test`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = exit::NOTIFY_TEST)]
pub struct NotifyTest {
    /// Receiver, as the config's [notify.NAME] calls it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The agent's config; its drop-ins in conf.d/ beside it are read too
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::output::Format;

    fn parse(line: &str) -> Result<Args, ErrorKind> {
        Args::try_parse_from(line.split(' ')).map_err(|e| e.kind())
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn rubbish_is_a_usage_error_before_anything_is_asked() {
        for line in [
            "cutover",
            "cutover deploy",
            "cutover deploy shop/production",
            "cutover deploy shop/production master --from shop/canary",
            "cutover deploy shop/production master --dry-run --no-wait",
            "cutover freeze shop/production --until soon",
            "cutover build start",
            "cutover build mark-bad shop",
            "cutover node repair",
            "cutover completions cobol",
            "cutover deploy shop master",
            "cutover deploy shop/builds master",
            "cutover deploy shop/production -- -rf",
            "cutover deploy shop/production commit:xyz",
            "cutover deploy shop/production master --timeout soon",
            "cutover rollback shop/production --to a/b",
            "cutover publish .",
            "cutover publish --app shop . --file x.tar.gz",
            "cutover publish --app shop --commit 15e9f13a .",
            "cutover status --prefix a//b",
            "cutover history shop/production -n many",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn deploy_waits_unless_told_not_to() {
        let Command::Deploy(deploy) = parse("cutover deploy shop/production master --no-wait").unwrap().command else {
            panic!("another command");
        };
        assert!(deploy.asking.no_wait);
        let Command::Deploy(deploy) = parse("cutover deploy shop/production v1 --no-wait --wait").unwrap().command
        else {
            panic!("another command");
        };
        assert!(!deploy.asking.no_wait);
        assert_eq!(deploy.asking.timeout, Duration::from_mins(15));
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in ["cutover --output json status", "cutover status --output json"] {
            assert_eq!(parse(line).unwrap().global.output, Format::Json, "{line}");
        }
    }
}
