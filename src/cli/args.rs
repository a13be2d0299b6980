//! Arguments of the command line. Names and flags are a contract with users' scripts.
//!
//! Every check that needs no Consul is made here, so that a typo ends with exit code 2 before anything is read or
//! written.
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

pub(crate) use consul::{AclPolicy, Consul, Global, Handler, Role, WatchConfig};
pub(crate) use operating::{
    Build, BuildMark, BuildOrigin, BuildShow, Completions, Doctor, Freeze, Man, NodeCommand, NodeRepair, SignedText,
    Unfreeze,
};
pub(crate) use publishing::{IamPolicy, IamRole, LinkChoice, PackFormat, Prune, Publish, StoreArgs};

/// The version, with the commit in release builds (set by build.rs).
const VERSION: &str = match option_env!("CUTOVER_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Deploys a build to every node of a Consul fleet at the same moment, or to none.
#[derive(Debug, Parser)]
#[command(name = "cutover", version = VERSION, max_term_width = 100, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = exit::TABLE)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// For every command.
    #[command(flatten)]
    pub(crate) global: Global,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent, the daemon of every node, under systemd
    Agent(AgentArgs),
    /// Pack, upload, record, and announce a build
    Publish(Publish),
    /// Report how a CI build went, show what a build changes, mark it bad or good, or remove old builds
    #[command(subcommand)]
    Build(Build),
    /// List builds: building, failed or published, and on how many nodes each is prefetched
    Builds(Builds),
    /// Deploy a build to every node of a group at the same moment, or to none
    Deploy(Deploy),
    /// Roll back to a release that was deployed successfully before
    Rollback(Rollback),
    /// Abort the running deploy: before the commit no node switches; after it every node reverts
    Abort(Abort),
    /// Show what each node runs, and the deploy in progress
    Status(StatusArgs),
    /// Show who deployed what and when, the outcome, and how long it took
    History(HistoryArgs),
    /// Refuse deploys to a group for a while; rollbacks are still allowed
    Freeze(Freeze),
    /// Allow deploys to a group again
    Unfreeze(Unfreeze),
    /// Manage a node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Rebuild a group's state from what its nodes run, after its keys in Consul were lost or restored
    Recover(Recover),
    /// Check Consul, permissions, keys, store and clock, let every node check itself, and print how to fix each problem
    Doctor(Doctor),
    /// Print how to get the demo
    #[command(hide = true)]
    Demo(Demo),
    /// Forward Consul's watch payload from stdin to the local agent (the script form of the watch handler)
    WatchHandler(WatchHandler),
    /// Check the agent's config and its drop-ins exactly as the agent does
    CheckConfig(CheckConfig),
    /// Test the receivers of notifications
    #[command(subcommand)]
    Notify(Notify),
    /// Print configuration for Consul: watches and ACL policies
    #[command(subcommand)]
    Consul(Consul),
    /// Print the IAM policy that a role needs for the artifact store in S3
    IamPolicy(IamPolicy),
    /// Print a shell's completion script
    Completions(Completions),
    /// Print the manual page, or write one page per command
    Man(Man),
}

/// `cutover agent`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct AgentArgs {
    /// Config file; drop-ins are read from conf.d/ next to it
    #[arg(long, value_name = "FILE", default_value = "/etc/cutover/cutover.toml")]
    pub(crate) config: PathBuf,
}

/// `cutover builds`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Builds {
    /// App
    pub(crate) app: App,
}

/// `cutover deploy`.
#[derive(Clone, Debug, ClapArgs)]
#[command(group = ArgGroup::new("what").required(true).args(["reference", "from"]))]
#[command(override_usage = "cutover deploy [OPTIONS] <APP/GROUP> <REF | --from <APP/GROUP>>")]
pub(crate) struct Deploy {
    /// Group to deploy to, for example shop/production
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Unit,
    /// Branch, tag, artifact or full commit; write `branch:…`, `tag:…`, `commit:…` or `artifact:…` to be explicit
    #[arg(value_name = "REF", value_parser = Selector::parse)]
    pub(crate) reference: Option<Selector>,
    /// Deploy the build that this group of the same app runs, if its last deploy succeeded
    #[arg(long, value_name = "APP/GROUP")]
    pub(crate) from: Option<Unit>,
    /// How to ask and wait
    #[command(flatten)]
    pub(crate) options: RequestOptions,
    /// Deploy despite a freeze, a bad mark, or a newer commit that is not published
    #[arg(long)]
    pub(crate) force: bool,
    /// Make a new release even if the build runs already
    #[arg(long)]
    pub(crate) again: bool,
}

/// `cutover rollback`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Rollback {
    /// Group to roll back, for example shop/production
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Unit,
    /// Artifact to roll back to; default: the last successful release before the current one
    #[arg(long, value_name = "ARTIFACT")]
    pub(crate) to: Option<ArtifactName>,
    /// How to ask and wait
    #[command(flatten)]
    pub(crate) options: RequestOptions,
}

/// Options that `deploy` and `rollback` share.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct RequestOptions {
    /// Reason, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// Wait for the outcome and return it as exit code (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub(crate) wait: bool,
    /// Return as soon as the request is written
    #[arg(long, overrides_with = "wait")]
    pub(crate) no_wait: bool,
    /// How long to wait for the outcome; the deploy continues after that
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = config::time_span)]
    pub(crate) timeout: Duration,
    /// Wait while another deploy runs, instead of ending with exit code 6
    #[arg(long)]
    pub(crate) queue: bool,
    /// Ask every node what would happen, and change nothing; exit code 4 if a node refuses or does not answer
    #[arg(long, conflicts_with_all = ["no_wait", "queue"])]
    pub(crate) dry_run: bool,
}

/// `cutover abort`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Abort {
    /// Group whose deploy to abort, for example shop/production
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Unit,
    /// Reason, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// How long to wait for the outcome
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = config::time_span)]
    pub(crate) timeout: Duration,
}

/// `cutover status`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// Group, for example shop/production; default: every group
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Option<Unit>,
    /// Print each change until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
}

/// `cutover history`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct HistoryArgs {
    /// Group, for example shop/production
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Unit,
    /// How many entries to show, newest first: requests and other actions
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) limit: usize,
    /// The store that holds the records which Consul no longer has.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// `cutover node forget`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Forget {
    /// Node, as named by `cutover status`
    #[arg(value_name = "NODE")]
    pub(crate) node: Node,
    /// Only in this group, for example shop/production; default: every group of the node
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Option<Unit>,
    /// Reason, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

/// `cutover recover`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = exit::RECOVER)]
pub(crate) struct Recover {
    /// Group whose keys were lost or restored, for example shop/production
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Unit,
    /// Release or artifact that every node is to run, if the nodes run different ones; one node must run it already
    #[arg(long, value_name = "RELEASE")]
    pub(crate) to: Option<String>,
    /// Reason, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// Write without asking for confirmation; required without a terminal
    #[arg(long)]
    pub(crate) yes: bool,
    /// How long to wait until every live node follows the rebuilt state
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = config::time_span)]
    pub(crate) timeout: Duration,
}

/// `cutover demo`. The demo is a separate program; this command only prints how to start it.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Demo {
    /// Arguments of the demo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<String>,
}

/// `cutover watch-handler`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct WatchHandler {
    /// Address of the local agent
    #[arg(
        long,
        value_name = "URL",
        env = "CUTOVER_AGENT",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8740"
    )]
    pub(crate) agent: http::Uri,
}

/// `cutover check-config`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct CheckConfig {
    /// Config file; drop-ins are read from conf.d/ next to it
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub(crate) config: PathBuf,
}

/// `cutover notify`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Notify {
    /// Send a test event to one receiver, and print its answer
    Test(NotifyTest),
}

/// `cutover notify test`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = exit::NOTIFY_TEST)]
pub(crate) struct NotifyTest {
    /// Receiver: NAME of [notify.NAME] in the config
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Config file of the agent; drop-ins are read from conf.d/ next to it
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub(crate) config: PathBuf,
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
    fn the_argument_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn invalid_arguments_are_usage_errors_before_consul_is_queried() {
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
    fn deploy_waits_by_default() {
        let Command::Deploy(deploy) = parse("cutover deploy shop/production master --no-wait").unwrap().command else {
            panic!("another command");
        };
        assert!(deploy.options.no_wait);
        let Command::Deploy(deploy) = parse("cutover deploy shop/production v1 --no-wait --wait").unwrap().command
        else {
            panic!("another command");
        };
        assert!(!deploy.options.no_wait);
        assert_eq!(deploy.options.timeout, Duration::from_mins(15));
    }

    #[test]
    fn global_flags_are_accepted_before_and_after_the_command() {
        for line in ["cutover --output json status", "cutover status --output json"] {
            assert_eq!(parse(line).unwrap().global.output, Format::Json, "{line}");
        }
    }
}
