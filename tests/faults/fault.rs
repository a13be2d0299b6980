//! The faults: what each does, what it waits for while it lasts, and how it is mended.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::consul::Entry;
use crate::fleet::judge::Judge;
use crate::fleet::{PREFIX, UNIT, wait_until};
use crate::phase::{Held, Phase};
use crate::rig::{LIMIT, Rig, SERVERS};

/// Within this a dead coordinator is to be followed by another: 20 s until Consul ends its session, an election of its
/// own for Consul beside, and a busy machine.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(45);
/// How long a cut lasts at most: longer than a session lives without renewal.
const CUT: Duration = Duration::from_secs(30);
/// How long keys are gone, or false.
const FALSE_FOR: Duration = Duration::from_secs(5);
/// The exit code of `cutover recover` where the nodes do not run the same.
const CANNOT_TELL: i32 = 4;
/// How many of a hundred packets are lost.
const LOST_PERCENT: u8 = 20;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL; started again when another coordinates.
    KillCoordinator,
    /// SIGKILL of a participant; started again at once.
    KillParticipant,
    /// SIGSTOP, until another coordinates and has gone on; then it wakes.
    StopCoordinator,
    /// SIGSTOP of a participant, until its session and the deploy have ended without it.
    StopParticipant,
    /// The Consul server that leads is cut off, until another leads and the deploy has ended.
    IsolateLeader,
    /// A participant's host is cut off.
    IsolateNode,
    /// The leading server, the coordinator and a participant on one side; two servers and three nodes on the other.
    Split,
    /// Every host loses 20 % of what comes in.
    Loss,
    /// A participant's token is deleted; it gets another, and is started again.
    RevokeToken,
    /// The same with the coordinator's.
    RevokeCoordinatorToken,
    /// A participant's session is destroyed.
    DestroySession,
    /// The session of the coordinator's lock is destroyed.
    DestroyCoordinatorSession,
    /// Every key of the unit is deleted, and put back byte for byte.
    DeletePrefix,
    /// Every key of the unit is deleted for good, and `cutover recover` begins again.
    LosePrefix,
    /// Another record is put over the barrier, and then the true one again.
    OverwriteDecision,
    /// A participant's Consul agent is killed and started.
    RestartConsul,
    /// Two people ask for a deploy at the same moment.
    TwoRequests,
}

/// A fault that is being suffered.
#[derive(Debug, Default)]
pub(crate) struct Wound {
    /// From the death or sleep of the coordinator to the moment at which another held its lock.
    pub(crate) takeover: Option<Duration>,
    /// The keys as they were.
    keys: Vec<Entry>,
}

impl Fault {
    pub(crate) const ALL: [Self; 17] = [
        Self::KillCoordinator,
        Self::KillParticipant,
        Self::StopCoordinator,
        Self::StopParticipant,
        Self::IsolateLeader,
        Self::IsolateNode,
        Self::Split,
        Self::Loss,
        Self::RevokeToken,
        Self::RevokeCoordinatorToken,
        Self::DestroySession,
        Self::DestroyCoordinatorSession,
        Self::DeletePrefix,
        Self::LosePrefix,
        Self::OverwriteDecision,
        Self::RestartConsul,
        Self::TwoRequests,
    ];

    /// As `make faults FAULTS=` has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KillCoordinator => "kill-coordinator",
            Self::KillParticipant => "kill-participant",
            Self::StopCoordinator => "stop-coordinator",
            Self::StopParticipant => "stop-participant",
            Self::IsolateLeader => "isolate-leader",
            Self::IsolateNode => "isolate-node",
            Self::Split => "split",
            Self::Loss => "loss",
            Self::RevokeToken => "revoke-token",
            Self::RevokeCoordinatorToken => "revoke-coordinator-token",
            Self::DestroySession => "destroy-session",
            Self::DestroyCoordinatorSession => "destroy-coordinator-session",
            Self::DeletePrefix => "delete-prefix",
            Self::LosePrefix => "lose-prefix",
            Self::OverwriteDecision => "overwrite-decision",
            Self::RestartConsul => "restart-consul",
            Self::TwoRequests => "two-requests",
        }
    }

    /// The node that is dead after the damage, and holds no connection any more.
    pub(crate) fn dead(self, held: &Held) -> Option<usize> {
        match self {
            Self::KillCoordinator => Some(held.coordinator),
            Self::KillParticipant => Some(held.victim),
            _ => None,
        }
    }

    /// Whether the damage itself moves the barrier, so that the phase can only be proven before it.
    pub(crate) const fn hits_barrier(self) -> bool {
        matches!(self, Self::DeletePrefix | Self::LosePrefix | Self::OverwriteDecision)
    }

    /// Does the damage, and nothing else.
    pub(crate) fn inject(self, rig: &mut Rig, held: &mut Held, judge: &Judge) -> Wound {
        let mut wound = Wound::default();
        let (coordinator, victim) = (held.coordinator, held.victim);
        match self {
            Self::KillCoordinator => {
                rig.fleet.kill(coordinator);
                held.leave_stopped(coordinator);
            }
            Self::KillParticipant => {
                rig.fleet.kill(victim);
                held.leave_stopped(victim);
            }
            Self::StopCoordinator => {
                rig.signal(coordinator, Signal::STOP);
                held.leave_stopped(coordinator);
            }
            Self::StopParticipant => {
                rig.signal(victim, Signal::STOP);
                held.leave_stopped(victim);
            }
            Self::IsolateLeader => {
                let leader = wait_until(LIMIT, "Consul has a leader", || rig.leader());
                rig.look_through((leader + 1) % SERVERS);
                rig.net.isolate(leader);
                wait_for_another(rig, leader);
            }
            Self::IsolateNode => rig.net.isolate(Rig::host(victim)),
            Self::Split => {
                let leader = wait_until(LIMIT, "Consul has a leader", || rig.leader());
                rig.look_through((leader + 1) % SERVERS);
                let minority = [leader, Rig::host(coordinator), Rig::host(victim)];
                let majority: Vec<usize> = (0..rig.net.places().len()).filter(|it| !minority.contains(it)).collect();
                rig.net.split(&minority, &majority);
                wait_for_another(rig, leader);
            }
            Self::Loss => rig.net.lose(LOST_PERCENT),
            Self::RevokeToken => revoke(rig, victim),
            Self::RevokeCoordinatorToken => revoke(rig, coordinator),
            Self::DestroySession => {
                let session = wait_until(LIMIT, "the node has a session", || rig.session(victim));
                rig.must("PUT", &format!("session/destroy/{session}"), b"");
            }
            Self::DestroyCoordinatorSession => {
                let (_, session) = wait_until(LIMIT, "somebody coordinates", || rig.holder());
                rig.must("PUT", &format!("session/destroy/{session}"), b"");
            }
            Self::DeletePrefix | Self::LosePrefix => {
                wound.keys = rig.fleet.consul.keys(PREFIX, "recurse&consistent").unwrap().1;
                rig.must("DELETE", &format!("kv/{PREFIX}?recurse"), b"");
            }
            Self::OverwriteDecision => {
                let (entry, record) = rig.barrier().unwrap();
                let forged = forge(&record);
                wound.keys = vec![entry];
                rig.must("PUT", &format!("kv/{PREFIX}barrier"), forged.to_string().as_bytes());
                judge.disown(rig.barrier().unwrap().0.modify_index);
            }
            Self::RestartConsul => {
                rig.fleet.with_cluster(async |cluster| cluster.restart(Rig::host(victim)).await.unwrap());
            }
            Self::TwoRequests => ask_twice(rig, held),
        }
        wound
    }

    /// Lets the fault last, with the gates open where it is to be told how the fleet fares in the middle of it.
    pub(crate) fn suffer(self, rig: &Rig, held: &mut Held, wound: &mut Wound) {
        match self {
            Self::KillCoordinator => wound.takeover = Some(wait_takeover(rig, held.coordinator)),
            Self::StopCoordinator => {
                wound.takeover = Some(wait_takeover(rig, held.coordinator));
                held.let_go(rig);
                wait_end(rig, held, CUT);
            }
            Self::StopParticipant => {
                held.let_go(rig);
                let victim = held.victim;
                wait_until(LIMIT, "the session of the stopped node ends", || {
                    rig.session(victim).is_none().then_some(())
                });
                wait_end(rig, held, CUT);
            }
            Self::IsolateLeader
            | Self::IsolateNode
            | Self::Split
            | Self::Loss
            | Self::RevokeToken
            | Self::RevokeCoordinatorToken => {
                held.let_go(rig);
                wait_end(rig, held, CUT);
            }
            Self::DeletePrefix | Self::LosePrefix | Self::OverwriteDecision => {
                held.let_go(rig);
                let since = Instant::now();
                let stay = held.links_that_must_stay(rig);
                // Not waiting for time: for as long as the keys are not as they should be, nothing moves.
                wait_until(LIMIT, "the keys have been wrong for a while", || {
                    for (node, link) in &stay {
                        let now = rig.fleet.nodes[*node].current();
                        assert_eq!(now, *link, "node {node} has changed what runs while its keys were {}", self.name());
                    }
                    (since.elapsed() >= FALSE_FOR).then_some(())
                });
            }
            Self::KillParticipant
            | Self::DestroySession
            | Self::DestroyCoordinatorSession
            | Self::RestartConsul
            | Self::TwoRequests => {}
        }
    }

    /// Mends it.
    pub(crate) fn heal(self, rig: &Rig, held: &Held, wound: &Wound) {
        match self {
            Self::KillCoordinator => rig.restart(held.coordinator),
            Self::KillParticipant => rig.restart(held.victim),
            Self::StopCoordinator => rig.signal(held.coordinator, Signal::CONT),
            Self::StopParticipant => rig.signal(held.victim, Signal::CONT),
            Self::IsolateLeader | Self::IsolateNode | Self::Split | Self::Loss => rig.net.heal(),
            Self::RevokeToken => {
                rig.grant(held.victim);
                rig.restart(held.victim);
            }
            Self::RevokeCoordinatorToken => {
                rig.grant(held.coordinator);
                rig.restart(held.coordinator);
            }
            Self::DeletePrefix => {
                // The barrier last, so that whoever sees it sees the rest; and nothing over what an agent has written.
                let (barrier, others): (Vec<_>, Vec<_>) =
                    wound.keys.iter().partition(|it| it.key.ends_with("/barrier"));
                for entry in others.into_iter().chain(barrier).filter(|it| !it.key.ends_with("/coordinator")) {
                    rig.must("PUT", &format!("kv/{}?cas=0", entry.key), &entry.value);
                }
            }
            Self::LosePrefix => recover(rig, held),
            Self::OverwriteDecision => {
                for entry in &wound.keys {
                    rig.must("PUT", &format!("kv/{}", entry.key), &entry.value);
                }
            }
            Self::DestroySession | Self::DestroyCoordinatorSession | Self::RestartConsul | Self::TwoRequests => {}
        }
    }
}

impl Held {
    /// What runs and may not change while the keys are wrong: everything; but a node that was stopped before the
    /// decision reached it finds the decision, and not what came after, in its socket.
    fn links_that_must_stay(&self, rig: &Rig) -> Vec<(usize, Option<String>)> {
        if self.phase == Phase::HalfSwitched {
            return Vec::new();
        }
        rig.fleet.nodes.iter().map(crate::fleet::node::Node::current).enumerate().collect()
    }
}

/// Another record of the same deploy: one that its phase excludes, or another archive.
fn forge(record: &Value) -> Value {
    let mut forged = record.clone();
    match record["phase"].as_str().unwrap() {
        "commit" => {
            forged["phase"] = "aborted".into();
            forged["committed"] = record["from"].clone();
        }
        "revert" => {
            forged["phase"] = "done".into();
            let own = ["era", "epoch", "artifact", "sha256", "release"];
            forged["committed"] = own.iter().map(|name| ((*name).to_owned(), record[*name].clone())).collect();
        }
        _ => {
            let sha256 = record["sha256"].as_str().unwrap();
            let other: String = sha256.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
            forged = serde_json::from_str(&record.to_string().replace(sha256, &other)).unwrap();
        }
    }
    forged
}

/// Begins again from what the nodes run; where they do not run the same, from what ran before the deploy.
fn recover(rig: &Rig, held: &Held) {
    let is_back = |node: &crate::fleet::node::Node| rig.fleet.json(&format!("nodes/{}", node.name)).is_some();
    wait_until(LIMIT, "every node has written its record again", || rig.fleet.nodes.iter().all(is_back).then_some(()));
    let line = ["recover", UNIT, "--yes", "--reason", "the keys were lost"];
    let mut output = rig.fleet.cutover(&line);
    if output.code == CANNOT_TELL {
        let before = held.before[held.victim].as_deref().unwrap().trim_start_matches("releases/");
        output = rig.fleet.cutover(&[&line[..], &["--to", before]].concat());
    }
    assert_eq!(output.code, 0, "{output}");
}

/// Two requests for what ran before, put at the same moment over what the gates may hold there.
fn ask_twice(rig: &Rig, held: &Held) {
    let earlier = rig.barrier().and_then(|(_, record)| record["from"]["artifact"].as_str().map(str::to_owned));
    let earlier = earlier.unwrap_or_else(|| held.build.artifact.clone());
    std::thread::scope(|scope| {
        for artifact in [&earlier, &held.build.artifact] {
            scope.spawn(|| rig.ask(artifact));
        }
    });
}

/// Waits until a server that is not cut off leads. What was asked of the former leader hangs for half a minute, at the
/// server that passed it on: it is asked anew.
fn wait_for_another(rig: &Rig, former: usize) {
    wait_until(LIMIT, "another server leads", || rig.leader().filter(|now| *now != former));
    rig.look_through((former + 1) % SERVERS);
}

/// Deletes the token of a node's agent.
fn revoke(rig: &Rig, node: usize) {
    let token = std::fs::read_to_string(rig.fleet.nodes[node].dir.join("token")).unwrap();
    let reply = rig.consul_as(token).call("GET", "acl/token/self", b"").unwrap();
    let token: Value = serde_json::from_slice(&reply.body).unwrap();
    rig.must("DELETE", &format!("acl/token/{}", token["AccessorID"].as_str().unwrap()), b"");
}

/// Waits until another node coordinates, and tells how long that took.
pub(crate) fn wait_takeover(rig: &Rig, former: usize) -> Duration {
    let since = Instant::now();
    wait_until(TAKEOVER_LIMIT, "another node takes over", || rig.holder().filter(|(node, _)| *node != former));
    since.elapsed()
}

/// Waits until the deploy has ended, or for so long.
fn wait_end(rig: &Rig, held: &Held, most: Duration) {
    let since = Instant::now();
    wait_until(LIMIT, "the deploy ends or time passes", || {
        let ended = rig.outcome(held.epoch).is_some();
        (ended || since.elapsed() >= most).then_some(())
    });
}
