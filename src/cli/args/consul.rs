//! What has to do with Consul, as it is typed: where it is, and what it is to be given.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::output::Format;
use crate::config::InvalidValue;
use crate::protocol::ids::{App, Node, Unit};

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
    /// Directory of CA certificates in PEM; `--ca-file` stands above it [env: CONSUL_CAPATH]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Consul", hide_short_help = true)]
    pub ca_path: Option<PathBuf>,
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
    /// Namespace, of Consul Enterprise [env: CONSUL_NAMESPACE]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub namespace: Option<String>,
    /// Admin partition, of Consul Enterprise [env: CONSUL_PARTITION]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Consul", hide_short_help = true)]
    pub partition: Option<String>,
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

/// A prefix ends up in URLs and ACL rules: the characters that names may have, and `/`.
fn parse_prefix(text: &str) -> Result<String, InvalidValue> {
    let inner = text.trim_matches('/');
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if inner.is_empty() || inner.contains("//") || !inner.chars().all(fine) {
        return Err("a prefix is made of A-Z a-z 0-9 . _ - and single /, as cutover/".to_owned().into());
    }
    Ok(format!("{inner}/"))
}
