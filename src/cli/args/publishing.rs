//! Publishing and removing builds, as it is typed, and where archives lie.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::protocol::ids::{App, Branch, Commit, InvalidName};

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
    pub commit: Option<Commit>,
    /// How to compress DIR
    #[arg(long, value_enum, default_value = "tar.gz", conflicts_with = "file")]
    pub format: PackFormat,
    /// What kind of build it is, for example `release`; groups can require one
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Publish other content of a commit that is published already, as ARTIFACT.2 and so on
    #[arg(long)]
    pub rebuild: bool,
    /// Then remove older builds of the app from the store and from Consul, all but the newest N and those that a group
    /// runs, can go back to, or may take up; else as keep_builds of the config says, if one is read
    #[arg(long, value_name = "N", env = "CUTOVER_KEEP_BUILDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_builds: Option<u32>,
    /// Where archives lie
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `cutover build prune`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Prune {
    /// App
    pub app: App,
    /// How many of the newest builds to keep
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: u32,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
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

pub(super) fn parse_commit(text: &str) -> Result<Commit, InvalidName> {
    text.to_ascii_lowercase().parse()
}
