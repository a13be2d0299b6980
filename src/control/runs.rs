//! `runs/<artifact>`: the state of a CI build, before it is published or where it never is.
//!
//! A build that is published stays published: neither a start nor a failure that comes late takes that back. Who cancels
//! stands above what fails because of it.

use std::time::Duration;

use jiff::Timestamp;

use super::access::Access;
use super::code::{Code, Failure};
use super::kv::Replaced;
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, ModifyIndex};
use crate::protocol::record::{Run, RunState, Summary, check_labels, clip, decode, encode};

/// After how long without an end a build is taken for lost, where nothing else is said.
pub(crate) const LOST_AFTER: Duration = Duration::from_hours(6);
/// How often the write is tried that lost against another of the same build: CI sends a start and an end.
const TRIES: usize = 8;
/// The longest reason that is kept, in bytes.
const MAX_REASON_BYTES: usize = 512;

/// What happened to the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It began.
    Begun {
        /// From when on it is taken for lost without an end; none: never.
        lost_at: Option<Timestamp>,
    },
    /// It was stopped by somebody.
    Canceled,
    /// It ended without an artifact.
    Failed,
}

/// What CI says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CiReport {
    /// The name that branch and commit make.
    pub(crate) artifact: ArtifactName,
    /// The exact branch.
    pub(crate) branch: Branch,
    /// The full commit.
    pub(crate) commit: Commit,
    /// What the commit says; what is not known of it: as it was.
    pub(crate) summary: Summary,
    /// CI's page; none: as it was.
    pub(crate) url: Option<String>,
    /// Who, as CI reports it.
    pub(crate) by: String,
    /// Why it failed or was canceled.
    pub(crate) reason: String,
}

/// Records it, and returns the run as it stands then: `published`, where it is that already.
///
/// # Errors
///
/// [`Code::Busy`] after too many lost tries, [`Code::NotAllowed`] without the right to write `runs/`, [`Code::Usage`] for a
/// `by` that no request may have. A reason is cut instead: it may be a tool's output.
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or happen yet. The same again is harmless.
pub(crate) async fn record(
    access: &Access,
    app: &App,
    report: &CiReport,
    event: Event,
    now: Timestamp,
) -> Result<Run, Failure> {
    check_labels([("by", &report.by)])
        .map_err(|invalid| Failure::new(Code::Usage, invalid.to_string()).hint("name who it was in fewer words"))?;
    let key = access.keys.run(app, &report.artifact);
    for _ in 0..TRIES {
        let entry = access.kv.entry(&key).await?;
        let index = entry.as_ref().map_or(ModifyIndex(0), |entry| entry.modify_index);
        // What cannot be read says nothing, and is written over.
        let standing: Option<Run> = entry.and_then(|entry| decode(&key, &entry.value).ok());
        let is_published = access.kv.entry(&access.keys.build(app, &report.artifact)).await?.is_some();
        let next = next(standing.as_ref(), report, event, is_published, now);
        if standing.as_ref() == Some(&next) {
            return Ok(next);
        }
        if access.kv.replace(&key, &encode(&next), index).await? != Replaced::Lost {
            return Ok(next);
        }
    }
    let what = format!("the state of {} is written by others all the time", report.artifact);
    Err(Failure::new(Code::Busy, what).hint("say it again"))
}

/// The run after `event`. Pure.
fn next(standing: Option<&Run>, report: &CiReport, event: Event, is_published: bool, now: Timestamp) -> Run {
    if let Some(run) = standing.filter(|run| run.state == RunState::Published) {
        return run.clone();
    }
    let state = match (event, standing.map(|run| run.state)) {
        _ if is_published => RunState::Published,
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
    fn a_build_that_fails_keeps_when_it_began_and_where_its_page_is() {
        let begun = next(None, &report(""), BEGUN, false, at(1));
        assert_eq!((begun.state, begun.begun_at, begun.lost_at), (RunState::Building, Some(at(1)), Some(at(61))));
        let shorter = CiReport { url: None, summary: Summary::default(), ..report("tests") };
        let failed = next(Some(&begun), &shorter, Event::Failed, false, at(9));
        assert_eq!(failed.summary, begun.summary);
        assert_eq!((failed.state, failed.begun_at, failed.at), (RunState::Failed, Some(at(1)), at(9)));
        assert_eq!(
            (failed.reason.as_str(), failed.url.as_deref(), failed.lost_at),
            ("tests", Some("https://ci/7"), None)
        );
        let again = next(Some(&failed), &report(""), BEGUN, false, at(20));
        assert_eq!((again.state, again.begun_at, again.reason.as_str()), (RunState::Building, Some(at(20)), ""));
    }

    #[test]
    fn what_is_published_stays_published() {
        let published = Run { state: RunState::Published, ..fresh(&report(""), at(5)) };
        for event in [BEGUN, Event::Failed, Event::Canceled] {
            assert_eq!(next(Some(&published), &report("late"), event, true, at(9)), published);
            // The run was lost, or CI said it before the run was there: the build record tells.
            assert_eq!(next(None, &report(""), event, true, at(9)).state, RunState::Published);
        }
    }

    #[test]
    fn what_was_canceled_does_not_fail_besides() {
        let canceled = next(None, &report("stop"), Event::Canceled, false, at(1));
        assert_eq!(next(Some(&canceled), &report("exit 143"), Event::Failed, false, at(2)), canceled);
    }
}
