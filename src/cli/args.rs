//! The command line as it is typed. Names and flags are a contract with users' scripts.
//!
//! Everything that can be checked without Consul is checked here, so that a typo ends with exit code 2 before
//! anything is read or written.
#![expect(clippy::doc_markdown, reason = "these comments are the text of --help, which shows backticks as they are")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

use super::exit;
use super::output::Format;
use crate::config;
use crate::protocol::ids::{App, ArtifactName, Branch, Node, Unit};
use crate::protocol::record::Selector;

/// Deploys a build to every node of a Consul fleet at the same moment, or to none.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = exit::TABLE)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// For every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags that every command takes. Consul's are called as those of the `consul` command, and stand above its
/// `CONSUL_*` variables.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Global {
    /// How results are printed; talk goes to stderr
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Address of Consul, as host:port or URL [env: CONSUL_HTTP_ADDR]
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Consul", hide_short_help = true)]
    pub http_addr: Option<String>,
    /// ACL token; other users of the machine can see it here, `--token-file` hides it [env: CONSUL_HTTP_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Consul", hide_short_help = true)]
    pub token: Option<String>,
    /// File that holds the ACL token [env: CONSUL_HTTP_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub token_file: Option<PathBuf>,
    /// CA certificates in PEM [env: CONSUL_CACERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate in PEM [env: CONSUL_CLIENT_CERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub client_cert: Option<PathBuf>,
    /// Key of the client certificate in PEM [env: CONSUL_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub client_key: Option<PathBuf>,
    /// Name that Consul's certificate must carry [env: CONSUL_TLS_SERVER_NAME]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub tls_server_name: Option<String>,
    /// Datacenter to ask; the agent's own otherwise
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub datacenter: Option<String>,
    /// Prefix of Cutover's keys
    #[arg(
        long,
        global = true,
        value_name = "PREFIX",
        env = "CUTOVER_PREFIX",
        hide_env_values = true,
        help_heading = "Consul",
        hide_short_help = true
    )]
    #[arg(default_value = "cutover/", value_parser = parse_prefix)]
    pub prefix: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The daemon: runs on every node, under systemd
    Agent(AgentArgs),
    /// Pack, upload, record, and announce a build
    Publish(Publish),
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
    /// Begin again from what the nodes run, after the keys in Consul were lost or restored
    Recover(Recover),
    /// Show a whole small fleet on this machine: real Consul, agents and apps, deploys, a refusal, a rollback
    Demo(Demo),
    /// The app that the demo deploys
    #[command(hide = true)]
    DemoApp(DemoApp),
    /// Pass Consul's watch payload from stdin on to the local agent: the script form of the watch handler
    WatchHandler(WatchHandler),
    /// Check the agent's config, drop-ins included, as the agent would
    CheckConfig(CheckConfig),
    /// Print what Consul is to be given: watches and ACL policies
    #[command(subcommand)]
    Consul(Consul),
}

/// `cutover agent`.
#[derive(Clone, Debug, ClapArgs)]
pub struct AgentArgs {
    /// Settings; drop-ins are read from conf.d/ beside it
    #[arg(long, value_name = "FILE", default_value = "/etc/cutover/cutover.toml")]
    pub config: PathBuf,
}

/// `cutover publish`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Publish {
    /// Directory to pack
    #[arg(value_name = "DIR", default_value = ".", conflicts_with = "file")]
    pub dir: PathBuf,
    /// Archive that is packed already, tar in gzip or Zstandard
    #[arg(long, value_name = "ARCHIVE")]
    pub file: Option<PathBuf>,
    /// App that the build is of
    #[arg(long)]
    pub app: App,
    /// Branch; else from the CI's environment, else from git
    #[arg(long)]
    pub branch: Option<Branch>,
    /// Commit, in full; else from the CI's environment, else from git
    #[arg(long, value_name = "SHA", value_parser = parse_commit)]
    pub commit: Option<crate::protocol::ids::Commit>,
    /// How to compress DIR
    #[arg(long, value_enum, default_value = "tar.gz", conflicts_with = "file")]
    pub format: PackFormat,
    /// What kind of build it is, for example `release`; groups can require one
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Publish other content of a commit that is published already, as ARTIFACT.2 and so on
    #[arg(long)]
    pub rebuild: bool,
    /// Where archives lie
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Where archives lie: the flag or variable, else the config's `[store]`.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct StoreArgs {
    /// Artifact store, s3://bucket/prefix or dir:///path
    #[arg(long, value_name = "URL", env = "CUTOVER_STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// Take the store from this config, whatever CUTOVER_STORE says; /etc/cutover/cutover.toml is the last resort
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Region of the bucket; else from the config, AWS_REGION, or the machine
    #[arg(long, value_name = "REGION")]
    pub store_region: Option<String>,
    /// Address of an S3 server other than Amazon's
    #[arg(long, value_name = "URL")]
    pub store_endpoint: Option<String>,
    /// Put the bucket into the path, as most other S3 servers need it
    #[arg(long)]
    pub store_path_style: bool,
}

/// How `publish` compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PackFormat {
    /// tar in gzip
    #[value(name = "tar.gz")]
    TarGz,
    /// tar in Zstandard
    #[value(name = "tar.zst")]
    TarZst,
}

/// `cutover builds`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Builds {
    /// App
    pub app: App,
}

/// `cutover deploy`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Deploy {
    /// Group to deploy to, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// Branch or artifact; `branch:…`, `commit:…` and `artifact:…` say which
    #[arg(value_name = "REF", value_parser = Selector::parse)]
    pub reference: Selector,
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
    /// How many requests to show, newest first
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
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

/// `cutover demo`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Demo {
    /// Leave everything running after the show, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// How many nodes
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub nodes: u8,
    /// Where archives lie: a directory, or an S3 server within the demo
    #[arg(long, value_enum, default_value = "dir")]
    pub store: DemoStore,
}

/// Where the demo's archives lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DemoStore {
    /// A directory
    Dir,
    /// An S3 server within the demo
    S3,
}

/// `cutover demo-app`.
#[derive(Clone, Debug, ClapArgs)]
pub struct DemoApp {
    /// What to do
    #[command(subcommand)]
    pub action: DemoAppAction,
}

/// What the demo's app can do.
#[derive(Clone, Debug, Subcommand)]
pub enum DemoAppAction {
    /// Answer with the version that `current` has, loaded at start and on SIGHUP
    Serve {
        /// Where to listen
        #[arg(long, value_name = "IP:PORT")]
        listen: std::net::SocketAddr,
        /// The directory that holds `current` and `shared`
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
    },
    /// Fail unless the app answers as the release says, and is well
    Check {
        /// Where the app listens
        #[arg(long)]
        url: String,
        /// The release that it should run
        #[arg(long, value_name = "DIR")]
        release: PathBuf,
    },
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

/// `cutover consul`.
#[derive(Clone, Debug, Subcommand)]
pub enum Consul {
    /// The watch that tells agents of new builds, for /etc/consul.d
    WatchConfig(WatchConfig),
    /// The ACL policy of a role, for `consul acl policy create -rules`
    AclPolicy(AclPolicy),
}

/// `cutover consul watch-config`.
#[derive(Clone, Debug, ClapArgs)]
pub struct WatchConfig {
    /// How Consul's agent reaches Cutover's
    #[arg(long, value_enum, default_value = "http")]
    pub handler: Handler,
}

/// The forms of a watch handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Handler {
    /// By HTTP on 127.0.0.1
    Http,
    /// Through `cutover watch-handler`
    Script,
}

/// `cutover consul acl-policy`.
#[derive(Clone, Debug, ClapArgs)]
pub struct AclPolicy {
    /// Whose policy
    #[arg(value_enum)]
    pub role: Role,
    /// Group that it is for, as shop/production
    #[arg(long, value_name = "APP/GROUP")]
    pub unit: Option<Unit>,
    /// App that it is for, where the role has no group
    #[arg(long, conflicts_with = "unit")]
    pub app: Option<App>,
    /// Node that it is for
    #[arg(long)]
    pub node: Option<Node>,
}

/// Who needs rights in Consul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// A node that does not coordinate
    Agent,
    /// A node that has no group, and serves API and page alone
    Api,
    /// A node that may coordinate
    Coordinator,
    /// People and bots who deploy
    Deployer,
    /// Those who may also begin again when the keys were lost
    Operator,
    /// CI
    Publisher,
    /// Everyone else
    Viewer,
}

fn parse_commit(text: &str) -> Result<crate::protocol::ids::Commit, crate::protocol::ids::InvalidName> {
    text.to_ascii_lowercase().parse()
}

/// A prefix ends up in URLs and ACL rules: the characters that names may have, and `/`.
fn parse_prefix(text: &str) -> Result<String, String> {
    let inner = text.trim_matches('/');
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if inner.is_empty() || inner.contains("//") || !inner.chars().all(fine) {
        return Err("a prefix is made of A-Z a-z 0-9 . _ - and single /, as cutover/".to_owned());
    }
    Ok(format!("{inner}/"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

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
