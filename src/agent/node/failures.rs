//! The builds that a node could not prefetch: why, and when each is tried again.
//!
//! Each is tried again after a pause that doubles. A build that cannot be used as it was
//! published waits for the next publish, which may have repaired it. Each build waits for itself: one that fails for good does not
//! slow down the others.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::protocol::ids::ArtifactName;
use crate::protocol::record::{Build, Fault, MAX_REFUSED, Refusal, RefusedBuild};

/// The pause after the first failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause where the store, the network or Consul failed.
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// The longest pause where a person has to do something first. On a disk with a quota each try may write much before it fails.
const LONGEST_PATIENT_RETRY: Duration = Duration::from_mins(10);

/// For how long the reason of one step stands, even if it changes: a store that fails may answer differently each time, and each new
/// reason is a write of every node.
const STANDS: Duration = Duration::from_mins(5);

/// What a build that failed waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Another record in the next publish: the content of this one is not accepted.
    OtherRecord(Box<Build>),
    /// The next publish: the archive in the store is not what was published.
    Publish,
    /// A pause: something failed that may work again by itself.
    Soon,
    /// A longer pause: there is no room, or the build's record is gone or not signed as it must be.
    Later,
}

impl Until {
    /// The longest pause until the next try; none if only a publish leads to one.
    const fn longest(&self) -> Option<Duration> {
        match self {
            Self::OtherRecord(_) | Self::Publish => None,
            Self::Soon => Some(LONGEST_RETRY),
            Self::Later => Some(LONGEST_PATIENT_RETRY),
        }
    }
}

/// Whether a failure was known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Known,
    New,
}

#[derive(Clone, Debug)]
struct Failure {
    until: Until,
    backoff: Backoff,
    /// None: not by time.
    due: Option<Instant>,
    /// What others are told; none for a build that only gave way to a deploy.
    told: Option<Told>,
}

#[derive(Clone, Debug)]
struct Told {
    refusal: Refusal,
    since: Instant,
}

impl Told {
    /// Whether a failure is no news.
    fn covers(&self, refusal: &Refusal, now: Instant) -> bool {
        let is_of_the_same_step = self.refusal.step == refusal.step && self.refusal.retry_secs == refusal.retry_secs;
        self.refusal.is_like(refusal) || is_of_the_same_step && now < self.since + STANDS
    }
}

/// The builds that could not be prefetched.
#[derive(Debug, Default)]
pub(super) struct Failures {
    failures: BTreeMap<ArtifactName, Failure>,
}

impl Failures {
    /// Notes a failure, and returns whether it is new.
    pub(super) fn failed(
        &mut self,
        artifact: &ArtifactName,
        until: Until,
        fault: &Fault,
        now: Instant,
        chance: f64,
    ) -> News {
        let refusal = Refusal {
            reason: fault.reason.clone(),
            step: Some(fault.step),
            retry_secs: until.longest().map(|longest| longest.as_secs()),
        };
        if until == Until::Soon && self.stays_final(artifact, now, chance) {
            return News::Known;
        }
        let known = self.failures.get(artifact).and_then(|known| known.told.clone());
        let known = known.filter(|known| known.covers(&refusal, now));
        let is_other_record = matches!(until, Until::OtherRecord(_));
        let news = if known.is_some() && !is_other_record { News::Known } else { News::New };
        self.wait_for(artifact, until, known.or(Some(Told { refusal, since: now })), now, chance);
        news
    }

    /// Notes that a build gave way to a deploy, or that the agent stops. What was told before stays.
    pub(super) fn gave_way(&mut self, artifact: &ArtifactName, now: Instant, chance: f64) {
        if self.stays_final(artifact, now, chance) {
            return;
        }
        let told = self.failures.get(artifact).and_then(|known| known.told.clone());
        self.wait_for(artifact, Until::Soon, told, now, chance);
    }

    /// Whether a build was not accepted before. A passing error says nothing new about it, and only leads to another try.
    fn stays_final(&mut self, artifact: &ArtifactName, now: Instant, chance: f64) -> bool {
        let known = self.failures.get_mut(artifact).filter(|known| known.until.longest().is_none());
        known.map(|known| known.due = Some(now + known.backoff.pause(chance))).is_some()
    }

    fn wait_for(&mut self, artifact: &ArtifactName, until: Until, told: Option<Told>, now: Instant, chance: f64) {
        let longest = until.longest();
        let known = self.failures.remove(artifact).filter(|known| known.until.longest().is_some() == longest.is_some());
        let mut backoff = known.map_or_else(|| Backoff::new(FIRST_RETRY, LONGEST_PATIENT_RETRY), |known| known.backoff);
        let due = longest.map(|longest| now + backoff.pause(chance).min(longest));
        self.failures.insert(artifact.clone(), Failure { until, backoff, due, told });
    }

    /// Forgets a build that is staged.
    pub(super) fn succeeded(&mut self, artifact: &ArtifactName) {
        self.failures.remove(artifact);
    }

    /// Forgets builds that are no longer wanted.
    pub(super) fn keep(&mut self, wanted: &[ArtifactName]) {
        self.failures.retain(|artifact, _| wanted.contains(artifact));
    }

    /// A publish may have repaired every build: all of them are due.
    pub(super) fn published(&mut self, now: Instant) {
        self.failures.values_mut().for_each(|failure| failure.due = Some(now));
    }

    /// A deploy has ended, and may have made room: every build that is retried by itself is due.
    pub(super) fn deploy_ended(&mut self, now: Instant) {
        self.failures.values_mut().filter(|it| it.until.longest().is_some()).for_each(|it| it.due = Some(now));
    }

    pub(super) fn is_due(&self, artifact: &ArtifactName, now: Instant) -> bool {
        self.failures.get(artifact).is_none_or(|failure| failure.due.is_some_and(|due| due <= now))
    }

    /// Whether only a publish leads to another try.
    pub(super) fn is_final(&self, artifact: &ArtifactName) -> bool {
        self.failures.get(artifact).is_some_and(|failure| failure.until.longest().is_none())
    }

    /// Whether the content of this very record was not accepted. It then waits for another publish.
    pub(super) fn refuses(&mut self, build: &Build) -> bool {
        let Some(failure) = self.failures.get_mut(&build.artifact) else { return false };
        let is_same = matches!(&failure.until, Until::OtherRecord(refused) if **refused == *build);
        if is_same {
            failure.due = None;
        }
        is_same
    }

    /// The time until the next build is due; none if none is retried by itself.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.failures.values().filter_map(|failure| failure.due).min().map(|due| due.saturating_duration_since(now))
    }

    /// What others are told, the first of the `wanted` builds first.
    pub(super) fn told(&self, wanted: &[ArtifactName]) -> Vec<RefusedBuild> {
        let told = |artifact: &ArtifactName| {
            let why = self.failures.get(artifact)?.told.clone()?.refusal;
            Some(RefusedBuild { artifact: artifact.clone(), why })
        };
        wanted.iter().filter_map(told).take(MAX_REFUSED).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::Step;

    fn build(number: u32) -> Build {
        Build::sample(&format!("a-{number:08}"))
    }

    fn fetch(reason: &str) -> Fault {
        Fault::new(Step::Fetch, reason)
    }

    /// The seconds between the tries of a build that always fails.
    fn pauses(until: &Until, tries: usize) -> Vec<u64> {
        let (mut failures, artifact, mut now) = (Failures::default(), build(1).artifact, Instant::now());
        let mut pause = || {
            failures.failed(&artifact, until.clone(), &fetch("no"), now, 1.0);
            let pause = failures.wait(now).unwrap();
            assert!(!failures.is_due(&artifact, now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(failures.is_due(&artifact, now));
            pause.as_secs()
        };
        std::iter::repeat_with(&mut pause).take(tries).collect()
    }

    #[test]
    fn pauses_grow_to_a_minute_and_where_a_person_must_act_to_ten() {
        assert_eq!(pauses(&Until::Soon, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses(&Until::Later, 12), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    #[test]
    fn what_is_final_is_not_tried_again_before_a_publish() {
        let (mut failures, now, build) = (Failures::default(), Instant::now(), build(1));
        let day = now + Duration::from_hours(24);
        for until in [Until::Publish, Until::OtherRecord(Box::new(build.clone()))] {
            let fault = Fault::new(Step::Verify, "its digest is wrong");
            failures.failed(&build.artifact, until, &fault, now, 1.0);
            failures.deploy_ended(now);
            assert!(!failures.is_due(&build.artifact, day) && failures.is_final(&build.artifact));
            assert_eq!(failures.wait(now), None);
            failures.published(now);
            assert!(failures.is_due(&build.artifact, now));
        }
        // A passing error, as of the disk or Consul, says nothing about the build.
        let told = failures.told(std::slice::from_ref(&build.artifact));
        assert_eq!(failures.failed(&build.artifact, Until::Soon, &fetch("no route"), now, 1.0), News::Known);
        failures.gave_way(&build.artifact, now, 1.0);
        assert!(failures.is_final(&build.artifact) && failures.wait(now).is_some());
        assert_eq!(failures.told(std::slice::from_ref(&build.artifact)), told);
        // The publish was of another build, and this record's content is still not accepted.
        assert!(failures.refuses(&build));
        assert!(!failures.is_due(&build.artifact, day));
        failures.published(now);
        assert!(!failures.refuses(&Build { by: "another".to_owned(), ..build }));
    }

    #[test]
    fn a_reason_is_told_until_the_build_is_staged_and_changes_of_its_figures_are_no_news() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let builds: Vec<Build> = (0..20).map(build).collect();
        let wanted: Vec<ArtifactName> = builds.iter().map(|build| build.artifact.clone()).collect();
        assert_eq!(failures.failed(&wanted[1], Until::Later, &fetch("12.5 MiB are free"), now, 0.0), News::New);
        let first = failures.told(&wanted);
        assert_eq!((first[0].artifact.clone(), first[0].why.retry_secs), (wanted[1].clone(), Some(600)));
        assert_eq!(failures.failed(&wanted[1], Until::Later, &fetch("7.25 MiB are free"), now, 0.0), News::Known);
        assert_eq!(failures.told(&wanted), first, "each change would cost a write");
        failures.gave_way(&wanted[1], now, 0.0);
        failures.gave_way(&wanted[0], now, 0.0);
        assert_eq!(failures.told(&wanted), first, "to give way is no failure");
        // A store that fails answers now this and now that.
        for (after, news) in [(0, News::Known), (299, News::Known), (300, News::New)] {
            let later = now + Duration::from_secs(after);
            assert_eq!(failures.failed(&wanted[1], Until::Later, &fetch("no route"), later, 0.0), news, "{after} s");
        }
        assert_eq!(failures.failed(&wanted[1], Until::Soon, &fetch("access denied"), now, 0.0), News::New);
        assert_eq!(failures.told(&wanted)[0].why.reason, "access denied");
        failures.succeeded(&wanted[1]);
        assert_eq!(failures.told(&wanted), []);
        for artifact in &wanted {
            failures.failed(artifact, Until::Soon, &fetch("access denied"), now, 0.0);
        }
        let told: Vec<ArtifactName> = failures.told(&wanted).into_iter().map(|it| it.artifact).collect();
        assert_eq!(told, wanted[..MAX_REFUSED]);
        failures.keep(&wanted[..1]);
        assert_eq!(failures.told(&wanted).len(), 1);
    }
}
