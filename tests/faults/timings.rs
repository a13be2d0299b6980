//! How long things take: taking over, giving up, going back.

use jiff::Timestamp;
use serde_json::Value;
use std::os::unix::fs::MetadataExt as _;

use crate::cell::{REST_LIMIT, millis};
use crate::fault::wait_takeover;
use crate::fleet::wait_until;
use crate::rig::{LIMIT, NODES, Rig};
use crate::settled;

/// Milliseconds, many times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// From the coordinator's SIGKILL to another's first write, the lock.
    pub(crate) takeover: Vec<u64>,
    /// From a node's no to the record that aborts.
    pub(crate) abort: Vec<u64>,
    /// From the record that reverts to the last link that goes back.
    pub(crate) revert: Vec<u64>,
}

/// Median, worst, and how many.
pub(crate) fn shown(name: &str, values: &[u64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    match sorted.last() {
        None => format!("{name}: not measured"),
        Some(worst) => {
            format!("{name}: median {} ms, worst {worst} ms, {} times", sorted[sorted.len() / 2], sorted.len())
        }
    }
}

/// Deploys that one node refuses, and deploys that one node's check takes back, so many of each.
pub(crate) fn give_up_and_go_back(rig: &mut Rig, rounds: usize) -> Figures {
    let mut figures = Figures::default();
    let build = rig.publish("refused");
    for round in 0..rounds {
        let node = &rig.fleet.nodes[round % NODES];
        node.fail("prepare", "no");
        let record = ended(rig, &build.artifact);
        node.mend("prepare");
        assert_eq!(record["outcome"], "aborted", "{record:#}");
        let no = rig.fleet.json(&format!("acks/{}", node.name)).unwrap();
        assert_eq!(no["answer"], "refused", "{no:#}");
        figures.abort.push(between(at(&no["at"]), at(&record["ended_at"])));
    }
    for round in 0..rounds {
        let node = &rig.fleet.nodes[round % NODES];
        node.fail("check", "no");
        let record = ended(rig, &build.artifact);
        node.mend("check");
        assert_eq!(record["outcome"], "reverted", "{record:#}");
        let links =
            rig.fleet.nodes.iter().map(|node| std::fs::symlink_metadata(node.deploy_to.join("current")).unwrap());
        let last = links.map(|meta| i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec())).max();
        figures.revert.push(between(at(&record["reverted_at"]), last.unwrap()));
    }
    figures
}

/// Kills whoever coordinates, so many times, between deploys.
pub(crate) fn take_over(rig: &mut Rig, rounds: usize) -> Vec<u64> {
    let round = |_| {
        let (former, _) = wait_until(LIMIT, "somebody coordinates", || rig.holder());
        rig.fleet.kill(former);
        let took = wait_takeover(rig, former);
        rig.restart(former);
        settled::wait(rig, REST_LIMIT);
        millis(took)
    };
    (0..rounds).map(round).collect()
}

/// Asks, and waits for the end.
fn ended(rig: &Rig, artifact: &str) -> Value {
    let epoch = rig.ask(artifact);
    wait_until(LIMIT, "the deploy ends", || rig.outcome(epoch))
}

fn at(text: &Value) -> i128 {
    text.as_str().unwrap().parse::<Timestamp>().unwrap().as_nanosecond()
}

fn between(earlier: i128, later: i128) -> u64 {
    // Links bear the time of the kernel's last tick, which can be before the record's own time.
    u64::try_from((later - earlier) / 1_000_000).unwrap_or(0)
}
