//! Spreads prefetches over time, so that the nodes of a large fleet do not ask the store in the same second.
//!
//! Each node has its own moment for each build, which follows from their names: the moments of a fleet are spread evenly, and no
//! node is always the last. Only prefetches are put off: a deploy that waits fetches at once.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::protocol::ids::{ArtifactName, Node};

/// When each missing build is due.
#[derive(Debug)]
pub(super) struct Spread {
    longest: Duration,
    node: Node,
    due: BTreeMap<ArtifactName, Instant>,
}

impl Spread {
    pub(super) fn new(longest: Duration, node: &Node) -> Self {
        Self { longest, node: node.clone(), due: BTreeMap::new() }
    }

    /// Whether a missing build may be fetched. The first call for a build begins its time.
    pub(super) fn is_due(&mut self, artifact: &ArtifactName, now: Instant) -> bool {
        let delay = delay(self.longest, &self.node, artifact);
        *self.due.entry(artifact.clone()).or_insert(now + delay) <= now
    }

    /// Forgets builds that are no longer wanted.
    pub(super) fn keep(&mut self, wanted: &[ArtifactName]) {
        self.due.retain(|artifact, _| wanted.contains(artifact));
    }

    /// The time until the next build is due; none if none is put off.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.due.values().filter(|due| **due > now).min().map(|due| *due - now)
    }
}

/// The delay of a build on a node, less than `longest`.
fn delay(longest: Duration, node: &Node, artifact: &ArtifactName) -> Duration {
    let digest = Sha256::digest(format!("{node}/{artifact}"));
    let share = digest.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let nanos = (longest.as_nanos() * u128::from(share)) >> u64::BITS;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn artifact(number: u32) -> ArtifactName {
        format!("a-{number:08}").parse().unwrap()
    }

    #[test]
    fn each_build_is_put_off_once() {
        let (mut spread, now) = (Spread::new(MINUTE, &"n1".parse().unwrap()), Instant::now());
        let builds = [artifact(1), artifact(2)];
        let mut delays = builds.clone().map(|build| delay(MINUTE, &spread.node, &build));
        assert!(!builds.iter().any(|build| spread.is_due(build, now)));
        delays.sort();
        assert_eq!(spread.wait(now), Some(delays[0]));
        let later = now + delays[0];
        assert_eq!(builds.iter().filter(|build| spread.is_due(build, later)).count(), 1);
        assert_eq!(spread.wait(later), Some(delays[1].saturating_sub(delays[0])));
        spread.keep(&[]);
        assert_eq!(spread.wait(later), None);
    }

    #[test]
    fn without_a_spread_nothing_is_put_off() {
        let (mut spread, now) = (Spread::new(Duration::ZERO, &"n1".parse().unwrap()), Instant::now());
        assert!(spread.is_due(&artifact(1), now));
        assert_eq!(spread.wait(now), None);
    }

    #[test]
    fn the_nodes_of_a_fleet_begin_one_after_the_other_and_in_another_order_for_each_build() {
        let nodes: Vec<Node> = (0..300).map(|number| format!("web{number}").parse().unwrap()).collect();
        for build in (0..10).map(artifact) {
            let mut seconds = [0; 60];
            for node in &nodes {
                seconds[usize::try_from(delay(MINUTE, node, &build).as_secs()).unwrap()] += 1;
            }
            // Five on average.
            assert!(seconds.iter().all(|begin| *begin <= 20), "{seconds:?}");
        }
        let last = |build| nodes.iter().max_by_key(|node| delay(MINUTE, node, &artifact(build))).unwrap();
        assert_ne!(last(1), last(2));
    }
}
