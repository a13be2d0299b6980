//! Arguments of the commands that manage groups, nodes and builds.
//!
//! The doc comments of fields are the texts of `--help`. Names and defaults are a contract with users and scripts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::StoreArgs;
use super::publishing::parse_commit;
use crate::cli::exit;
use crate::config::{self, InvalidValue};
use crate::protocol::git_ref::GitRef;
use crate::protocol::ids::{App, ArtifactName, Commit, Node, Unit};

/// The longest freeze that can be given as a time span, 90 days. A longer span is probably a typo in the unit of time, or
/// the freeze is meant to be lifted by hand.
const LONGEST_FREEZE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// `cutover build show`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct BuildShow {
    /// App of the build
    pub(crate) app: App,
    /// Build to show, as named by `cutover builds`
    #[arg(value_name = "BUILD")]
    pub(crate) artifact: ArtifactName,
    /// Build to compare with; default: the build before it on its branch
    #[arg(long, value_name = "BUILD")]
    pub(crate) against: Option<ArtifactName>,
    /// The store that holds the lists of files.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// `cutover freeze`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Freeze {
    /// Group to freeze, for example shop/production
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Unit,
    /// Reason, shown to people whose deploys are refused
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// How long (4h) or until when (2026-11-30T08:00:00Z); default: until someone unfreezes the group
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    pub(crate) until: Option<Until>,
}

/// `cutover unfreeze`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Unfreeze {
    /// Group to unfreeze, for example shop/production
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Unit,
    /// Reason, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

/// The end of a freeze, as given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// A time span from now on.
    After(SignedDuration),
    /// A point in time.
    Moment(Timestamp),
}

impl Until {
    /// The point in time at which the freeze ends.
    ///
    /// # Errors
    ///
    /// One sentence if that time is in the past.
    pub(crate) fn moment(self, now: Timestamp) -> Result<Timestamp, InvalidValue> {
        let moment = match self {
            Self::After(span) => now.checked_add(span).map_err(|error| InvalidValue::from(error.to_string()))?,
            Self::Moment(moment) => moment,
        };
        if moment <= now {
            return Err(format!("{moment} is in the past").into());
        }
        Ok(moment)
    }
}

fn parse_until(text: &str) -> Result<Until, InvalidValue> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(Until::Moment(moment));
    }
    let wrong =
        || format!("{text:?} is neither a time span such as 4h or 1h30m, nor a time such as 2026-11-30T08:00:00Z");
    // jiff also reads clock notation, but "1:30" could mean hours or minutes here.
    let span: SignedDuration =
        if text.contains(':') { return Err(wrong().into()) } else { text.parse().map_err(|_| wrong())? };
    if span <= SignedDuration::ZERO || span > LONGEST_FREEZE {
        return Err(format!(
            "{text:?} is out of range: use a time span of up to 2160h (90 days), or a time such as 2026-11-30T08:00:00Z"
        )
        .into());
    }
    Ok(Until::After(span))
}

/// `cutover build`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Build {
    /// Record that CI started a build; a published build stays published
    Start(BuildStart),
    /// Record that a build failed
    Fail(BuildEnd),
    /// Record that a build was canceled
    Cancel(BuildEnd),
    /// Mark a build bad: deploys of it are refused, in every group of the app
    MarkBad(BuildMark),
    /// Remove the bad mark of a build
    MarkGood(BuildMark),
    /// Show a build, and the commits and files that changed since the build before it
    Show(BuildShow),
    /// Print the text that the signature of a build covers, so that minisign itself can check or make one
    SignedText(SignedText),
    /// Remove old builds from the store and from Consul, except those that a group runs, can roll back to, or may deploy next
    Prune(super::Prune),
}

/// The build that CI reports about, named as `publish` would name it.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct BuildOrigin {
    /// App of the build
    pub(crate) app: App,
    /// Page of the build in CI; default: from CI's environment
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Branch, or a tag as refs/tags/TAG; default: from CI's environment, else from git
    #[arg(long)]
    pub(crate) branch: Option<GitRef>,
    /// Full commit; default: from CI's environment, else from git
    #[arg(long, value_name = "SHA", value_parser = parse_commit)]
    pub(crate) commit: Option<Commit>,
}

/// `cutover build start`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct BuildStart {
    /// Which build
    #[command(flatten)]
    pub(crate) origin: BuildOrigin,
    /// Show the build as lost if it has not ended after this time [default: 6h]
    #[arg(long, value_name = "TIME", value_parser = config::time_span)]
    pub(crate) lost_after: Option<Duration>,
}

/// `cutover build fail` and `cancel`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct BuildEnd {
    /// Which build
    #[command(flatten)]
    pub(crate) origin: BuildOrigin,
    /// Reason, shown with the build
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

/// `cutover build mark-bad` and `mark-good`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct BuildMark {
    /// App of the build
    pub(crate) app: App,
    /// Build to mark
    pub(crate) artifact: ArtifactName,
    /// Reason, shown to people whose deploys are refused
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

/// `cutover build signed-text`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct SignedText {
    /// App of the build
    pub(crate) app: App,
    /// Build to print the text of
    pub(crate) artifact: ArtifactName,
    /// Print the signature instead, as a .minisig file
    #[arg(long)]
    pub(crate) signature: bool,
}

/// `cutover node`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Stop waiting for a node that will not come back, so that deploys no longer fail because of it
    Forget(super::Forget),
    /// Point current back at the release that the node's journal names, after it was moved by hand
    ///
    /// The node makes the change itself, and refuses while a deploy is unfinished there. No hook runs, because the
    /// release was switched to before. Reload every service that has read the moved link in the meantime.
    Repair(NodeRepair),
}

/// `cutover node repair`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct NodeRepair {
    /// Node to repair
    pub(crate) node: Node,
    /// Group, for example shop/production; default: every group of the node
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Option<Unit>,
    /// How long to wait for the node's answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::time_span)]
    pub(crate) timeout: Duration,
}

/// `cutover doctor`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = exit::DOCTOR)]
pub(crate) struct Doctor {
    /// Group, for example shop/production; default: every group
    #[arg(value_name = "APP/GROUP")]
    pub(crate) unit: Option<Unit>,
    /// How long to wait for the nodes' answers
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::time_span)]
    pub(crate) timeout: Duration,
    /// The artifact store, to be checked from this machine too
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// `cutover completions`.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct Completions {
    /// Shell that runs the script
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `cutover man`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Man {
    /// Write one page per command into this directory, created if missing, instead of printing the main page
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_takes_a_time_span_or_a_point_in_time() {
        let now: Timestamp = "2026-11-25T08:00:00Z".parse().unwrap();
        let until = |text: &str| parse_until(text).and_then(|until| until.moment(now)).map(|at| at.to_string());
        assert_eq!(until("4h").unwrap(), "2026-11-25T12:00:00Z");
        assert_eq!(until("1h30m").unwrap(), "2026-11-25T09:30:00Z");
        assert_eq!(until("2026-11-30T09:00:00+01:00").unwrap(), "2026-11-30T08:00:00Z");
        for wrong in ["", "soon", "1:30:00", "0s", "-4h", "9999h", "2026-11-25", "2026-11-25T07:59:59Z"] {
            let refused = until(wrong).expect_err("an invalid time was accepted");
            assert!(!refused.to_string().is_empty(), "{wrong}");
        }
    }
}
