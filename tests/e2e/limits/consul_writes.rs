//! What a deploy costs Consul: entries in its log, counted by Consul itself.

use crate::fleet::counters::{self, Log, Mark, rest};
use crate::fleet::{Fleet, FleetSpec};

/// Deploys that are counted.
const DEPLOYS: u64 = 2;

/// What Consul's log has got by some deploys of builds that every node has staged.
fn written_by(fleet: &Fleet, versions: impl Iterator<Item = String>, outcome: &str) -> Log {
    let mut total = Log::default();
    for version in versions {
        let build = fleet.publish_and_stage(&version);
        rest(fleet);
        let before = Mark::of(&fleet.consul);
        let record = fleet.put_deploy(&build.artifact);
        assert_eq!(record["outcome"], outcome, "{record:#}");
        rest(fleet);
        total += Mark::of(&fleet.consul).since(&before);
    }
    eprintln!("{total:?}");
    assert_eq!(total.puts + total.txns + total.sessions + total.registrations, total.entries, "all are accounted for");
    total
}

#[test]
fn a_deploy_of_a_prefetched_build_writes_two_n_and_four_entries() {
    let fleet = Fleet::start(&FleetSpec { consul: vec![counters::settings()], ..FleetSpec::default() });
    fleet.deployed("first");
    let log = written_by(&fleet, (0..DEPLOYS).map(|round| format!("v{round}")), "done");
    let nodes = fleet.nodes.len() as u64;
    // The request; prepare, commit and done; each node's two answers, which bring its own record along.
    assert_eq!(log.puts, DEPLOYS, "{log:?}");
    assert_eq!(log.txns, DEPLOYS * (2 * nodes + 3), "{log:?}");
    assert_eq!(log.sessions, 0, "{log:?}");
    // The check says that the node switches, and what it runs then.
    assert!(log.registrations <= DEPLOYS * 2 * nodes, "{log:?}");
}
