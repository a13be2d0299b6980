//! `runs/<artifact>`: the state of a CI build, whether or not it is published later.
//!
//! A published build stays published, even if a start or a failure is reported late. A canceled build stays canceled if a
//! failure is reported afterwards, because that failure is usually the result of canceling.

use std::time::Duration;

use jiff::Timestamp;

use super::access::Access;
use super::code::{Code, Failure};
use super::kv::Replaced;
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, ModifyIndex};
use crate::protocol::record::{Run, RunState, Summary, check_labels, clip, decode, encode};

/// The default time without an end after which a build counts as lost.
pub(crate) const LOST_AFTER: Duration = Duration::from_hours(6);
/// How often the write is tried when it conflicts with another one for the same build. CI sends only a start and an end.
const TRIES: usize = 8;
/// The longest reason that is kept, in bytes.
const MAX_REASON_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Begun {
        /// When the build counts as lost if it has no end by then; none: never.
        lost_at: Option<Timestamp>,
    },
    Canceled,
    Failed,
}

/// Whether a build has a record, which means that the build is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BuildRecord {
    Absent,
    Present,
}

/// A report of CI about a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CiReport {
    /// The name that follows from branch and commit.
    pub(crate) artifact: ArtifactName,
    pub(crate) branch: Branch,
    pub(crate) commit: Commit,
    /// Subject and author of the commit. Missing parts keep their earlier values.
    pub(crate) summary: Summary,
    /// CI's page of the build; none keeps the earlier value.
    pub(crate) url: Option<String>,
    /// The author, as CI reports it.
    pub(crate) by: String,
    /// Why the build failed or was canceled.
    pub(crate) reason: String,
}

/// Records a report, and returns the resulting run. A published build is returned unchanged.
///
/// # Errors
///
/// [`Code::Busy`] after too many conflicts, [`Code::NotAllowed`] without the right to write `runs/`, [`Code::Usage`] for an
/// invalid `by`. A reason that is too long is cut instead, because it may be a tool's output.
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or may still happen. Repeating it is harmless.
pub(crate) async fn record(
    access: &Access,
    app: &App,
    report: &CiReport,
    event: Event,
    now: Timestamp,
) -> Result<Run, Failure> {
    check_labels([("by", &report.by)])
        .map_err(|invalid| Failure::new(Code::Usage, invalid.to_string()).hint("use a shorter name"))?;
    let key = access.keys.run(app, &report.artifact);
    for _ in 0..TRIES {
        let entry = access.kv.entry(&key).await?;
        let index = entry.as_ref().map_or(ModifyIndex(0), |entry| entry.modify_index);
        // An unreadable run is replaced.
        let standing: Option<Run> = entry.and_then(|entry| decode(&key, &entry.value).ok());
        let build = match access.kv.entry(&access.keys.build(app, &report.artifact)).await? {
            Some(_) => BuildRecord::Present,
            None => BuildRecord::Absent,
        };
        let next = next(standing.as_ref(), report, event, build, now);
        if standing.as_ref() == Some(&next) {
            return Ok(next);
        }
        if access.kv.replace(&key, &encode(&next), index).await? != Replaced::Lost {
            return Ok(next);
        }
    }
    let what = format!("other clients keep writing the state of {}", report.artifact);
    Err(Failure::new(Code::Busy, what).hint("try again"))
}

/// The run after `event`. Pure.
fn next(standing: Option<&Run>, report: &CiReport, event: Event, build: BuildRecord, now: Timestamp) -> Run {
    if let Some(run) = standing.filter(|run| run.state == RunState::Published) {
        return run.clone();
    }
    let state = match (event, standing.map(|run| run.state)) {
        _ if build == BuildRecord::Present => RunState::Published,
        (Event::Begun { .. }, _) => RunState::Building,
        (Event::Canceled, _) => RunState::Canceled,
        (Event::Failed, Some(RunState::Canceled)) => return standing.cloned().unwrap_or_else(|| fresh(report, now)),
        (Event::Failed, _) => RunState::Failed,
    };
    let begun_at = match event {
        Event::Begun { .. } if state == RunState::Building => Some(now),
        _ => standing.and_then(|run| run.begun_at),
    };
    let lost_at = match event {
        Event::Begun { lost_at } if state == RunState::Building => lost_at,
        _ => None,
    };
    let reason = if state == RunState::Building { String::new() } else { clip(&report.reason, MAX_REASON_BYTES) };
    let url = report.url.clone().or_else(|| standing.and_then(|run| run.url.clone()));
    let summary = report.summary.clone().or(standing.map(|run| run.summary.clone()).unwrap_or_default());
    Run { summary, state, url, reason, begun_at, lost_at, ..fresh(report, now) }
}

fn fresh(report: &CiReport, now: Timestamp) -> Run {
    Run {
        branch: report.branch.clone(),
        commit: report.commit.clone(),
        summary: report.summary.clone(),
        state: RunState::Building,
        url: report.url.clone(),
        by: report.by.clone(),
        reason: String::new(),
        begun_at: None,
        lost_at: None,
        at: now,
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn report(reason: &str) -> CiReport {
        CiReport {
            artifact: "master-15e9f13a".parse().unwrap(),
            branch: "master".parse().unwrap(),
            commit: format!("15e9f13a{}", "0".repeat(32)).parse().unwrap(),
            summary: Summary::new(Some("Fix the till"), Some("Ann")),
            url: Some("https://ci/7".to_owned()),
            by: "ann".to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(secs)
    }

    const BEGUN: Event = Event::Begun { lost_at: Some(Timestamp::constant(61, 0)) };

    #[test]
    fn a_failed_build_keeps_its_start_time_and_page() {
        let begun = next(None, &report(""), BEGUN, BuildRecord::Absent, at(1));
        assert_eq!((begun.state, begun.begun_at, begun.lost_at), (RunState::Building, Some(at(1)), Some(at(61))));
        let shorter = CiReport { url: None, summary: Summary::default(), ..report("tests") };
        let failed = next(Some(&begun), &shorter, Event::Failed, BuildRecord::Absent, at(9));
        assert_eq!(failed.summary, begun.summary);
        assert_eq!((failed.state, failed.begun_at, failed.at), (RunState::Failed, Some(at(1)), at(9)));
        assert_eq!(
            (failed.reason.as_str(), failed.url.as_deref(), failed.lost_at),
            ("tests", Some("https://ci/7"), None)
        );
        let again = next(Some(&failed), &report(""), BEGUN, BuildRecord::Absent, at(20));
        assert_eq!((again.state, again.begun_at, again.reason.as_str()), (RunState::Building, Some(at(20)), ""));
    }

    #[test]
    fn a_published_build_stays_published() {
        let published = Run { state: RunState::Published, ..fresh(&report(""), at(5)) };
        for event in [BEGUN, Event::Failed, Event::Canceled] {
            assert_eq!(next(Some(&published), &report("late"), event, BuildRecord::Present, at(9)), published);
            // Without a run record, the build record shows that the build is published.
            assert_eq!(next(None, &report(""), event, BuildRecord::Present, at(9)).state, RunState::Published);
        }
    }

    #[test]
    fn a_canceled_build_stays_canceled() {
        let canceled = next(None, &report("stop"), Event::Canceled, BuildRecord::Absent, at(1));
        assert_eq!(next(Some(&canceled), &report("exit 143"), Event::Failed, BuildRecord::Absent, at(2)), canceled);
    }
}
