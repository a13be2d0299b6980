//! `barrier`: the one record that all participants watch.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FORMAT, RecordError};
use crate::kind::HasKind;
use crate::protocol::ids::{ArtifactName, Epoch, ReleaseName, Sha256};
use crate::protocol::rule::{Rule, holds};

/// A release: its build, its directory on every node, and the epoch that decided it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// The epoch that deploys it. A rollback has an epoch of its own, with an older `release`.
    #[serde(flatten)]
    pub epoch: Epoch,
    /// The build.
    pub artifact: ArtifactName,
    /// The SHA-256 of the build's archive.
    pub sha256: Sha256,
    /// The directory under `releases/`.
    pub release: ReleaseName,
}

impl Release {
    /// Whether both name the same tree on disk, whatever epochs decided them.
    #[must_use]
    pub(crate) fn same_tree(&self, other: &Self) -> bool {
        self.release == other.release && self.sha256 == other.sha256 && self.artifact == other.artifact
    }
}

/// The phase of a deploy. PROTOCOL.md, Phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// No deploy of this era yet.
    Idle,
    /// Members make the release ready and acknowledge; no node switches.
    Prepare,
    /// Decided: every node switches.
    Commit,
    /// Ended: every member has switched.
    Done,
    /// Ended: no node has switched, and none will.
    Aborted,
    /// Decided: every node rolls back.
    Revert,
    /// Ended: every node that could has rolled back.
    Reverted,
}

/// A phase in which a deploy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RunningPhase {
    Prepare,
    Commit,
    Revert,
}

/// A phase in which no deploy runs: the next one may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SettledPhase {
    Aborted,
    Done,
    Idle,
    Reverted,
}

/// A running phase has deadlines and members, a settled one has neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Running(RunningPhase),
    Settled(SettledPhase),
}

impl Phase {
    /// Whether a new prepare may follow.
    #[must_use]
    pub(crate) const fn is_settled(self) -> bool {
        match self.stage() {
            Stage::Settled(_) => true,
            Stage::Running(_) => false,
        }
    }

    #[must_use]
    pub(crate) const fn stage(self) -> Stage {
        match self {
            Self::Aborted => Stage::Settled(SettledPhase::Aborted),
            Self::Commit => Stage::Running(RunningPhase::Commit),
            Self::Done => Stage::Settled(SettledPhase::Done),
            Self::Idle => Stage::Settled(SettledPhase::Idle),
            Self::Prepare => Stage::Running(RunningPhase::Prepare),
            Self::Revert => Stage::Running(RunningPhase::Revert),
            Self::Reverted => Stage::Settled(SettledPhase::Reverted),
        }
    }

    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Revert => "revert",
            Self::Reverted => "reverted",
        }
    }
}

/// How a deploy treats members that are registered and not alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AbsentNodes {
    Fail,
    /// The deploy goes on without them; they catch up when they return.
    Skip,
}

/// The coordinator's settings, frozen into each deploy: a change of coordinator changes none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub(crate) prepare_timeout_secs: u64,
    pub(crate) switch_timeout_secs: u64,
    pub(crate) revert_timeout_secs: u64,
    /// How long a member may be without a live session.
    pub(crate) absence_grace_secs: u64,
    pub(crate) absent_nodes: AbsentNodes,
    /// The least number of members, with [`AbsentNodes::Skip`].
    pub(crate) min_nodes: u32,
}

impl Policy {
    #[must_use]
    pub(crate) const fn time_for(&self, phase: RunningPhase) -> Duration {
        Duration::from_secs(match phase {
            RunningPhase::Prepare => self.prepare_timeout_secs,
            RunningPhase::Commit => self.switch_timeout_secs,
            RunningPhase::Revert => self.revert_timeout_secs,
        })
    }
}

/// The record of the barrier. Differs in bytes at every transition, and is never rewritten within a phase.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Barrier {
    /// The deploy's epoch; in idle, the era with number 0.
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
    /// The release and its policy; none in idle.
    ///
    /// Invariant: its epoch is `epoch`.
    pub(crate) deploy: Option<(Release, Policy)>,
    /// The release that was committed when the deploy began.
    pub(crate) from: Option<Release>,
    /// The release that every node runs; none: each node's origin.
    ///
    /// Invariant: equals the deploy's release in commit and done, and `from` in every other phase but idle.
    pub(crate) committed: Option<Release>,
}

impl Barrier {
    /// A record without a deploy: the first of an era.
    #[must_use]
    pub(crate) const fn idle(era: u32, committed: Option<Release>) -> Self {
        Self { epoch: Epoch { era, number: 0 }, phase: Phase::Idle, deploy: None, from: None, committed }
    }

    /// The same deploy in another phase, with `committed` as that phase has it.
    #[must_use]
    pub(crate) fn in_phase(&self, phase: Phase) -> Self {
        let committed = match phase {
            Phase::Revert | Phase::Reverted if !holds(Rule::RevertSetsBack) => self.committed.clone(),
            Phase::Commit | Phase::Done => self.deploy.as_ref().map(|(release, _)| release.clone()),
            Phase::Prepare | Phase::Aborted | Phase::Revert | Phase::Reverted => self.from.clone(),
            Phase::Idle => self.committed.clone(),
        };
        Self { phase, committed, ..self.clone() }
    }

    /// The release of the deploy; none in idle.
    #[must_use]
    pub(crate) fn target(&self) -> Option<&Release> {
        self.deploy.as_ref().map(|(release, _)| release)
    }

    #[must_use]
    pub(crate) fn policy(&self) -> Option<&Policy> {
        self.deploy.as_ref().map(|(_, policy)| policy)
    }

    /// Reads the record.
    ///
    /// # Errors
    ///
    /// [`RecordError`] naming `key`: not JSON, a format that this program does not speak, or a record that breaks the
    /// invariants above.
    pub(crate) fn decode(key: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        super::decode(key, bytes)
    }
}

/// The record as it stands in KV.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Wire {
    format: u32,
    #[serde(flatten)]
    epoch: Epoch,
    phase: Phase,
    artifact: Option<ArtifactName>,
    sha256: Option<Sha256>,
    release: Option<ReleaseName>,
    policy: Option<Policy>,
    from: Option<Release>,
    committed: Option<Release>,
}

/// The rule of PROTOCOL.md, Records, that a record breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidBarrier {
    /// `committed` is not the release that the phase requires.
    #[error("committed is not what phase {} has", .0.as_str())]
    Committed(Phase),
    #[error("artifact, sha256, release and policy stand together or not at all")]
    HalfADeploy,
    #[error("phase idle with a deploy")]
    IdleWithDeploy,
    /// The release that ran before is not older than the deploy.
    #[error("what ran before is not of an older epoch")]
    NotOlder,
    #[error("phase {} without a deploy", .0.as_str())]
    WithoutDeploy(Phase),
}

impl HasKind for InvalidBarrier {
    fn kind(&self) -> &'static str {
        match self {
            Self::Committed(_) => "committed",
            Self::HalfADeploy => "half_a_deploy",
            Self::IdleWithDeploy => "idle_with_deploy",
            Self::NotOlder => "not_older",
            Self::WithoutDeploy(_) => "without_deploy",
        }
    }
}

impl TryFrom<Wire> for Barrier {
    type Error = InvalidBarrier;

    fn try_from(wire: Wire) -> Result<Self, InvalidBarrier> {
        let Wire { epoch, phase, from, committed, .. } = wire;
        let deploy = match (wire.artifact, wire.sha256, wire.release, wire.policy) {
            (Some(artifact), Some(sha256), Some(release), Some(policy)) => {
                Some((Release { epoch, artifact, sha256, release }, policy))
            }
            (None, None, None, None) => None,
            _ => return Err(InvalidBarrier::HalfADeploy),
        };
        let barrier = Self { epoch, phase, deploy, from, committed };
        match (phase == Phase::Idle, barrier.deploy.is_some()) {
            (true, false) | (false, true) => {}
            (true, true) => return Err(InvalidBarrier::IdleWithDeploy),
            (false, false) => return Err(InvalidBarrier::WithoutDeploy(phase)),
        }
        if barrier.in_phase(phase).committed != barrier.committed {
            return Err(InvalidBarrier::Committed(phase));
        }
        let older = |release: &Option<Release>| release.as_ref().is_none_or(|r| r.epoch < epoch);
        if phase == Phase::Idle && !older(&barrier.committed) || phase != Phase::Idle && !older(&barrier.from) {
            return Err(InvalidBarrier::NotOlder);
        }
        Ok(barrier)
    }
}

impl From<Barrier> for Wire {
    fn from(barrier: Barrier) -> Self {
        let Barrier { epoch, phase, deploy, from, committed } = barrier;
        let (release, policy) = deploy.map_or((None, None), |(release, policy)| (Some(release), Some(policy)));
        Self {
            format: FORMAT,
            epoch,
            phase,
            artifact: release.as_ref().map(|r| r.artifact.clone()),
            sha256: release.as_ref().map(|r| r.sha256.clone()),
            release: release.map(|r| r.release),
            policy,
            from,
            committed,
        }
    }
}
