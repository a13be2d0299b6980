//! `runs/<artifact>`: the state of a CI build, whether or not it is published later.
//!
//! A published build stays published, even if a start or a failure is reported late. A canceled build stays canceled if a
//! failure is reported afterwards, because that failure is usually the result of canceling.

use std::time::Duration;

use jiff::Timestamp;

use super::access::Access;
use super::code::{Code, Failure};
use super::kv::Replaced;
use super::naming::{self, Siblings};
use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, ModifyIndex};
use crate::protocol::record::{Place, Run, RunState, Summary, check_labels, clip, decode, encode};

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
    pub(crate) branch: Branch,
    pub(crate) commit: Commit,
    /// The tag, if CI builds one; then `branch` has the same name.
    pub(crate) tag: Option<Branch>,
    pub(crate) pull_request: Option<String>,
    /// The nearest ancestors of the commit, as far as git knows them; none keeps the earlier value.
    pub(crate) ancestors: Vec<String>,
    /// Subject and author of the commit. Missing parts keep their earlier values.
    pub(crate) summary: Summary,
    /// CI's page of the build; none keeps the earlier value.
    pub(crate) url: Option<String>,
    /// The author, as CI reports it.
    pub(crate) by: String,
    /// Why the build failed or was canceled.
    pub(crate) reason: String,
}

/// The stored run, and the name that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) artifact: ArtifactName,
    pub(crate) run: Run,
}

impl CiReport {
    fn of(&self) -> BuildRef<'_> {
        BuildRef::new(&self.branch, self.tag.as_ref(), self.pull_request.as_deref())
    }
}

/// Records a report, and returns the resulting run. A published build is returned unchanged. The first report of a build
/// takes its name and its place.
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
) -> Result<Recorded, Failure> {
    check_labels([("by", &report.by)])
        .map_err(|invalid| Failure::new(Code::Usage, invalid.to_string()).hint("use a shorter name"))?;
    let of = report.of();
    for _ in 0..TRIES {
        let artifact = naming::form(access, app, of, &report.commit).await?.name(of, &report.commit, None);
        let key = access.keys.run(app, &artifact);
        let entry = access.kv.entry(&key).await?;
        let index = entry.as_ref().map_or(ModifyIndex(0), |entry| entry.modify_index);
        // An unreadable run is replaced.
        let standing: Option<Run> = entry.and_then(|entry| decode(&key, &entry.value).ok());
        // Another branch took the name after the look at it.
        if standing.as_ref().is_some_and(|run| run.of() != of) {
            continue;
        }
        let build = match access.kv.entry(&access.keys.build(app, &artifact)).await? {
            Some(_) => BuildRecord::Present,
            None => BuildRecord::Absent,
        };
        let mut run = next(standing.as_ref(), report, event, build, now);
        if run.place.order.is_none() {
            run.place.order = Some(Siblings::read(access, app, of).await?.order_of(of, &report.commit, now));
        }
        if standing.as_ref() == Some(&run) || access.kv.replace(&key, &encode(&run), index).await? != Replaced::Lost {
            return Ok(Recorded { artifact, run });
        }
    }
    let what = format!("other clients keep writing the state of {} of {of}", report.commit.short());
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
    let mut place = standing.map(|run| run.place.clone()).unwrap_or_default();
    if !report.ancestors.is_empty() {
        place.ancestors.clone_from(&report.ancestors);
    }
    Run { summary, state, url, reason, place, begun_at, lost_at, ..fresh(report, now) }
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
        pull_request: report.pull_request.clone(),
        tag: report.tag.clone(),
        place: Place { order: None, ancestors: report.ancestors.clone() },
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
            branch: "master".parse().unwrap(),
            commit: format!("15e9f13a{}", "0".repeat(32)).parse().unwrap(),
            tag: None,
            pull_request: None,
            ancestors: Vec::new(),
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
