//! Arguments about Consul: the flags for its address, token and certificates, and `cutover consul`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::output::Format;
use crate::config::InvalidValue;
use crate::protocol::ids::{App, Node, Unit};

/// Flags of every command. Those for Consul have the names of the `consul` command's flags, and take precedence over its
/// `CONSUL_*` variables.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct Global {
    /// Format of results on stdout; messages go to stderr
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Address of Consul, as host:port or URL [env: CONSUL_HTTP_ADDR]
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Consul", hide_short_help = true)]
    pub(crate) http_addr: Option<String>,
    /// ACL token, visible to other users of this machine; prefer `--token-file` [env: CONSUL_HTTP_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Consul", hide_short_help = true)]
    pub(crate) token: Option<String>,
    /// File that holds the ACL token [env: CONSUL_HTTP_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// CA certificates in PEM [env: CONSUL_CACERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Directory of CA certificates in PEM; `--ca-file` takes precedence [env: CONSUL_CAPATH]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Consul", hide_short_help = true)]
    pub(crate) ca_path: Option<PathBuf>,
    /// Client certificate in PEM [env: CONSUL_CLIENT_CERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub(crate) client_cert: Option<PathBuf>,
    /// Private key of the client certificate in PEM [env: CONSUL_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Consul", hide_short_help = true)]
    pub(crate) client_key: Option<PathBuf>,
    /// Name that Consul's certificate must carry [env: CONSUL_TLS_SERVER_NAME]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub(crate) tls_server_name: Option<String>,
    /// Datacenter to query; default: that of the Consul agent
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub(crate) datacenter: Option<String>,
    /// Namespace (Consul Enterprise) [env: CONSUL_NAMESPACE]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub(crate) namespace: Option<String>,
    /// Admin partition (Consul Enterprise) [env: CONSUL_PARTITION]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub(crate) partition: Option<String>,
    /// Prefix of Cutover's keys in Consul
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
    pub(crate) prefix: String,
}

/// `cutover consul`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Consul {
    /// Print the watch that notifies agents of new builds, for /etc/consul.d
    WatchConfig(WatchConfig),
    /// Print the ACL policy of a role, for `consul acl policy create -rules`
    AclPolicy(AclPolicy),
}

/// `cutover consul watch-config`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct WatchConfig {
    /// How the Consul agent calls the Cutover agent
    #[arg(long, value_enum, default_value = "http")]
    pub(crate) handler: Handler,
}

/// The forms of a watch handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Handler {
    /// By HTTP on 127.0.0.1
    Http,
    /// Through `cutover watch-handler`
    Script,
}

/// `cutover consul acl-policy`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct AclPolicy {
    /// Role that the policy is for
    #[arg(value_enum)]
    pub(crate) role: Role,
    /// Group that the policy is for, for example shop/production
    #[arg(long, value_name = "APP/GROUP")]
    pub(crate) unit: Option<Unit>,
    /// App that the policy is for, if the role has no group
    #[arg(long, conflicts_with = "unit")]
    pub(crate) app: Option<App>,
    /// Node that the policy is for
    #[arg(long)]
    pub(crate) node: Option<Node>,
}

/// Roles that need permissions in Consul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// A node that does not coordinate
    Agent,
    /// A node without groups that only serves the API and the page
    Api,
    /// A node that may coordinate
    Coordinator,
    /// People and bots who deploy
    Deployer,
    /// People who may also recover lost keys
    Operator,
    /// CI
    Publisher,
    /// Everyone else: read only
    Viewer,
}

/// Accepts only the characters of names, and `/`: a prefix becomes part of URLs and ACL rules.
fn parse_prefix(text: &str) -> Result<String, InvalidValue> {
    let inner = text.trim_matches('/');
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if inner.is_empty() || inner.contains("//") || !inner.chars().all(fine) {
        return Err("a prefix consists of A-Z a-z 0-9 . _ - and single slashes, for example cutover/"
            .to_owned()
            .into());
    }
    Ok(format!("{inner}/"))
}
