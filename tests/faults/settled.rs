//! Rest: nothing runs, nothing waits, everybody is there and well.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::wait_until;
use crate::rig::{NODES, Rig, SERVERS};

/// Waits for rest, and tells how long that took.
pub(crate) fn wait(rig: &Rig, limit: Duration) -> Duration {
    let since = Instant::now();
    // The look itself gives up, because it knows what is missing.
    wait_until(limit * 2, "rest", || match missing(rig) {
        Ok(()) => Some(()),
        Err(why) => {
            assert!(since.elapsed() < limit, "not at rest within {limit:?}: {why}");
            None
        }
    });
    since.elapsed()
}

/// What is missing until all is at rest and healthy, in words.
fn missing(rig: &Rig) -> Result<(), String> {
    let consul = &rig.fleet.consul;
    let json = |path: &str| -> Result<Value, String> {
        let reply = consul.call("GET", path, b"").map_err(|error| format!("{path}: {error}"))?;
        serde_json::from_slice(&reply.body).map_err(|_| format!("{path}: status {}", reply.status))
    };
    // Before the barrier: a request that is taken in between is seen running.
    let deploy = rig.fleet.entry("deploy").ok_or("deploy cannot be read")?;
    if !deploy.value.is_empty() {
        return Err("a request waits".to_owned());
    }
    let (_, barrier) = rig.barrier().ok_or("the barrier cannot be read")?;
    let phase = barrier["phase"].as_str().unwrap_or_default();
    if !["idle", "done", "aborted", "reverted"].contains(&phase) {
        return Err(format!("the barrier is in {phase}"));
    }
    let committed = barrier["committed"]["release"].as_str().map(|release| format!("releases/{release}"));
    for node in &rig.fleet.nodes {
        if !node.is_running() {
            return Err(format!("the agent of {} has ended", node.name));
        }
        if committed.is_some() && node.current() != committed {
            return Err(format!("{} is on {:?}, and {committed:?} is committed", node.name, node.current()));
        }
    }
    rig.holder().ok_or("nobody coordinates")?;
    let present = (0..NODES).filter(|node| rig.session(*node).is_some()).count();
    if present != NODES {
        return Err(format!("{present} of {NODES} nodes have a session"));
    }
    for node in &rig.fleet.nodes {
        let record = rig.fleet.json(&format!("nodes/{}", node.name)).ok_or("a node's record cannot be read")?;
        if !record["alarm"].is_null() {
            return Err(format!("{} is alarmed: {}", node.name, record["alarm"]));
        }
    }
    let instances = json("health/service/cutover?consistent")?;
    let is_well = |instance: &&Value| {
        instance["Checks"].as_array().is_some_and(|checks| checks.iter().all(|check| check["Status"] == "passing"))
    };
    let well = instances.as_array().into_iter().flatten().filter(is_well).count();
    if well != NODES {
        return Err(format!("Consul calls {well} of {NODES} nodes healthy"));
    }
    let raft = json("operator/raft/configuration")?;
    let voters = raft["Servers"].as_array().into_iter().flatten().filter(|server| server["Voter"] == true).count();
    if voters != SERVERS {
        return Err(format!("{voters} of {SERVERS} servers vote"));
    }
    let members = json("agent/members")?;
    let alive = members.as_array().into_iter().flatten().filter(|member| member["Status"] == 1).count();
    if alive != SERVERS + NODES {
        return Err(format!("{alive} of {} Consul agents are alive", SERVERS + NODES));
    }
    Ok(())
}
