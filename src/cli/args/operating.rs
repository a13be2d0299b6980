//! The commands of whoever looks after groups and builds, as they are typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::StoreArgs;
use super::publishing::parse_commit;
use crate::cli::exit;
use crate::config::{self, InvalidValue};
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, Node, Unit};

/// The longest freeze that is given as a time span; a longer one is a slip of the unit, or meant to be lifted by hand.
const LONGEST_FREEZE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// `cutover freeze`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Freeze {
    /// Group in which nothing is to be deployed, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// Why, for those who are refused
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// How long, as 4h, or until when, as 2026-11-30T08:00:00Z; else until somebody unfreezes it
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    pub until: Option<Until>,
}

/// `cutover unfreeze`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Unfreeze {
    /// Group whose freeze is to be lifted, as shop/production
    #[arg(value_name = "APP/GROUP")]
    pub unit: Unit,
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// Until when a freeze holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// From now on for this long.
    After(SignedDuration),
    /// Until this moment.
    Moment(Timestamp),
}

impl Until {
    /// The moment.
    ///
    /// # Errors
    ///
    /// One sentence where it is over already.
    pub fn moment(self, now: Timestamp) -> Result<Timestamp, InvalidValue> {
        let moment = match self {
            Self::After(span) => now.checked_add(span).map_err(|error| InvalidValue::from(error.to_string()))?,
            Self::Moment(moment) => moment,
        };
        if moment <= now {
            return Err(format!("{moment} is over already").into());
        }
        Ok(moment)
    }
}

fn parse_until(text: &str) -> Result<Until, InvalidValue> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(Until::Moment(moment));
    }
    let wrong = || format!("{text:?} is neither a time span, as 4h or 1h30m, nor a moment, as 2026-11-30T08:00:00Z");
    // Clock notation would leave open whether hours or minutes are meant.
    let span: SignedDuration =
        if text.contains(':') { return Err(wrong().into()) } else { text.parse().map_err(|_| wrong())? };
    if span <= SignedDuration::ZERO || span > LONGEST_FREEZE {
        return Err(format!(
            "{text:?} is out of range; allowed is more than nothing, up to 2160h (90 days), or a moment"
        )
        .into());
    }
    Ok(Until::After(span))
}

/// `cutover build`.
#[derive(Clone, Debug, Subcommand)]
pub enum Build {
    /// CI has begun to build; never takes back what is published
    Start(BuildStart),
    /// A build ended without an artifact
    Fail(BuildEnd),
    /// A build was stopped by somebody
    Cancel(BuildEnd),
    /// A build must not be deployed any more, to any group of the app
    MarkBad(BuildMark),
    /// Take the bad mark of a build away
    MarkGood(BuildMark),
    /// Remove old builds from the store and from Consul, but none that a group runs, can go back to, or may take up
    Prune(super::Prune),
}

/// Which build CI means: what `publish` would call it.
#[derive(Clone, Debug, ClapArgs)]
pub struct BuildOrigin {
    /// App that the build is of
    pub app: App,
    /// CI's page of the build; else from the CI's environment
    #[arg(long)]
    pub url: Option<String>,
    /// Branch; else from the CI's environment, else from git
    #[arg(long)]
    pub branch: Option<Branch>,
    /// Commit, in full; else from the CI's environment, else from git
    #[arg(long, value_name = "SHA", value_parser = parse_commit)]
    pub commit: Option<Commit>,
}

/// `cutover build start`.
#[derive(Clone, Debug, ClapArgs)]
pub struct BuildStart {
    /// Which build
    #[command(flatten)]
    pub origin: BuildOrigin,
    /// After this time without an end it is shown as lost [default: 6h]
    #[arg(long, value_name = "TIME", value_parser = config::time_span)]
    pub lost_after: Option<Duration>,
}

/// `cutover build fail` and `cancel`.
#[derive(Clone, Debug, ClapArgs)]
pub struct BuildEnd {
    /// Which build
    #[command(flatten)]
    pub origin: BuildOrigin,
    /// Why, for those who look for the build
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `cutover build mark-bad` and `mark-good`.
#[derive(Clone, Debug, ClapArgs)]
pub struct BuildMark {
    /// App that the build is of
    pub app: App,
    /// The build
    pub artifact: ArtifactName,
    /// Why, for those who are refused
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `cutover node`.
#[derive(Clone, Debug, Subcommand)]
pub enum NodeCommand {
    /// Wait no longer for a node that will not come back, nor refuse deploys for it
    Forget(super::Forget),
    /// Put current back to what the node runs by its own journal, after it was moved by hand
    ///
    /// The node does it itself, and not while a deploy is unfinished there. No hook runs: it is the release that was
    /// switched to before. A service that has read the moved link in the meantime is yours to reload.
    Repair(NodeRepair),
}

/// `cutover node repair`.
#[derive(Clone, Debug, ClapArgs)]
pub struct NodeRepair {
    /// The node
    pub node: Node,
    /// Group, as shop/production; every group that the node is registered in if none is given
    #[arg(value_name = "APP/GROUP")]
    pub unit: Option<Unit>,
    /// How long to wait for its answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::time_span)]
    pub timeout: Duration,
}

/// `cutover doctor`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = exit::DOCTOR)]
pub struct Doctor {
    /// Group, as shop/production; every group if none is given
    #[arg(value_name = "APP/GROUP")]
    pub unit: Option<Unit>,
    /// How long to wait for the nodes' answers
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::time_span)]
    pub timeout: Duration,
    /// Where archives lie, to be looked at from here too
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `cutover completions`.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Completions {
    /// For which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `cutover man`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Man {
    /// Write one page per command into this directory, which is made, instead of the main page to stdout
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_ends_after_a_time_or_at_a_moment() {
        let now: Timestamp = "2026-11-25T08:00:00Z".parse().unwrap();
        let until = |text: &str| parse_until(text).and_then(|until| until.moment(now)).map(|at| at.to_string());
        assert_eq!(until("4h").unwrap(), "2026-11-25T12:00:00Z");
        assert_eq!(until("1h30m").unwrap(), "2026-11-25T09:30:00Z");
        assert_eq!(until("2026-11-30T09:00:00+01:00").unwrap(), "2026-11-30T08:00:00Z");
        for wrong in ["", "soon", "1:30:00", "0s", "-4h", "9999h", "2026-11-25", "2026-11-25T07:59:59Z"] {
            let refused = until(wrong).expect_err("rubbish was taken");
            assert!(!refused.to_string().is_empty(), "{wrong}");
        }
    }
}
