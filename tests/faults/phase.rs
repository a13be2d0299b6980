//! The phases of a deploy in which a fault can hit, and the gates that hold a deploy in each.

use rustix::process::Signal;

use crate::fleet::{Build, wait_until};
use crate::network::Net;
use crate::proxy::Fault;
use crate::rig::{FIRST_FILE_BYTES, LIMIT, NODES, Rig};

/// How far a fetch comes before it is held: nothing of it is unpacked yet.
const SOME_BYTES: usize = 40_000;
/// How far an unpack comes: beyond the first piece that is handed on (see [`FIRST_FILE_BYTES`]), not to the second's end.
const MANY_BYTES: usize = 1_400_000;

/// Where a deploy is when the fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The request stands, and nobody has taken it: the coordinator is stopped for a moment.
    BeforePrepare,
    /// Every node waits for the store, with a part of the archive.
    Fetching,
    /// Every node has unpacked one file, and waits for the rest.
    Unpacking,
    /// Three have answered prepared; two are in their prepare hook.
    Acknowledged,
    /// The decision stands, and every node is in its switched hook; nobody has answered.
    Committed,
    /// The decision stands; three have switched, and two, which are stopped for a moment, have not.
    HalfSwitched,
    /// The fleet goes back, and every node is in its reverted hook.
    Reverting,
}

/// A deploy that is held in a phase.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) phase: Phase,
    pub(crate) build: Build,
    pub(crate) epoch: u64,
    /// Who coordinates.
    pub(crate) coordinator: usize,
    /// The participant that faults of one node hit: never the coordinator. It has promised in `Acknowledged`, and has
    /// not switched in `HalfSwitched`.
    pub(crate) victim: usize,
    /// The hooks that are held, by node.
    hooks: Vec<(usize, &'static str)>,
    /// The hook that fails, and where.
    failing: Option<(usize, &'static str)>,
    /// Agents that the gates have stopped.
    stopped: Vec<usize>,
    /// The barrier's index at the moment.
    barrier: u64,
    /// What every node's `current` pointed to before the request.
    pub(crate) before: Vec<Option<String>>,
}

impl Phase {
    pub(crate) const ALL: [Self; 7] = [
        Self::BeforePrepare,
        Self::Fetching,
        Self::Unpacking,
        Self::Acknowledged,
        Self::Committed,
        Self::HalfSwitched,
        Self::Reverting,
    ];

    /// As `make faults PHASES=` has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BeforePrepare => "before-prepare",
            Self::Fetching => "fetching",
            Self::Unpacking => "unpacking",
            Self::Acknowledged => "acknowledged",
            Self::Committed => "committed",
            Self::HalfSwitched => "half-switched",
            Self::Reverting => "reverting",
        }
    }

    /// What stands in the barrier meanwhile; none: the record of the deploy before.
    const fn record(self) -> Option<&'static str> {
        match self {
            Self::BeforePrepare => None,
            Self::Fetching | Self::Unpacking | Self::Acknowledged => Some("prepare"),
            Self::Committed | Self::HalfSwitched => Some("commit"),
            Self::Reverting => Some("revert"),
        }
    }

    /// Asks for a deploy of `build`, and holds it in this phase.
    pub(crate) fn hold(self, rig: &Rig, build: &Build) -> Held {
        let coordinator = wait_until(LIMIT, "somebody coordinates", || rig.holder()).0;
        let others: Vec<usize> = (0..NODES).filter(|node| *node != coordinator).collect();
        let before = rig.fleet.nodes.iter().map(crate::fleet::node::Node::current).collect();
        let mut held = Held {
            phase: self,
            build: build.clone(),
            epoch: 0,
            coordinator,
            victim: others[0],
            hooks: Vec::new(),
            failing: None,
            stopped: Vec::new(),
            barrier: 0,
            before,
        };
        match self {
            Self::BeforePrepare => {
                held.stop(rig, &[coordinator]);
                held.epoch = rig.ask(&build.artifact);
            }
            Self::Fetching | Self::Unpacking => {
                let after_bytes = if self == Self::Fetching { SOME_BYTES } else { MANY_BYTES };
                rig.gate.set(Fault::Stall { after_bytes });
                held.epoch = rig.ask(&build.artifact);
            }
            Self::Acknowledged => {
                held.close(rig, &others[1..3], "prepare");
                held.epoch = rig.ask(&build.artifact);
            }
            Self::Committed => {
                held.close(rig, &(0..NODES).collect::<Vec<_>>(), "switched");
                held.epoch = rig.ask(&build.artifact);
            }
            Self::HalfSwitched => {
                held.close(rig, &others[1..2], "prepare");
                held.epoch = rig.ask(&build.artifact);
                for node in [coordinator, others[0], others[2], others[3]] {
                    held.wait_answer(rig, node, "prepared");
                }
                rig.fleet.nodes[others[1]].wait_hook("prepare");
                held.stop(rig, &[others[0], others[2]]);
                held.open(rig);
            }
            Self::Reverting => {
                let culprit = others[1];
                held.close(rig, &(0..NODES).collect::<Vec<_>>(), "reverted");
                rig.fleet.nodes[culprit].hold("check");
                held.epoch = rig.ask(&build.artifact);
                for node in (0..NODES).filter(|node| *node != culprit) {
                    held.wait_answer(rig, node, "switched");
                }
                rig.fleet.nodes[culprit].wait_hook("check");
                rig.fleet.nodes[culprit].fail("check", "no");
                held.failing = Some((culprit, "check"));
                rig.fleet.nodes[culprit].release("check");
            }
        }
        wait_until(LIMIT, &format!("the deploy is {}", self.name()), || held.stands(rig, None).ok());
        held.barrier = rig.barrier().map(|(entry, _)| entry.modify_index).unwrap_or_default();
        held
    }
}

impl Held {
    /// Whether the deploy is in its phase now, from Consul, the disks and the gates; otherwise where it is. A node that
    /// is `dead` waits for nothing any more.
    pub(crate) fn stands(&self, rig: &Rig, dead: Option<usize>) -> Result<(), String> {
        let (entry, record) = rig.barrier().ok_or("the barrier cannot be read")?;
        if self.barrier != 0 && entry.modify_index != self.barrier {
            return Err(format!("the barrier has moved on: {record}"));
        }
        match self.phase.record() {
            Some(phase) if record["epoch"] == self.epoch && record["phase"] == phase => {}
            None if record["epoch"].as_u64() < Some(self.epoch) => {}
            Some(_) | None => return Err(format!("the barrier is elsewhere: {record}")),
        }
        let nodes = &rig.fleet.nodes;
        let answers =
            |wanted: &str| (0..NODES).filter(|n| rig.answer(*n, self.epoch).as_deref() == Some(wanted)).count();
        let is_stalled = {
            let stalled = rig.gate.stalled();
            let address = |node| Net::address(Some(Rig::host(node))).into();
            (0..NODES).all(|node| Some(node) == dead || stalled.contains(&address(node)))
        };
        let is_held = self.hooks.iter().all(|(node, hook)| nodes[*node].is_at(hook));
        let sound = match self.phase {
            Phase::BeforePrepare => rig.fleet.entry("deploy").is_some_and(|it| !it.value.is_empty()),
            Phase::Fetching => is_stalled && answers("prepared") == 0 && unpacked(rig) == 0,
            Phase::Unpacking => is_stalled && answers("prepared") == 0 && unpacked(rig) == NODES,
            Phase::Acknowledged => is_held && answers("prepared") == 3,
            Phase::Committed => is_held && answers("switched") == 0 && self.moved(rig) == NODES,
            Phase::HalfSwitched => self.moved(rig) == 3,
            Phase::Reverting => is_held && answers("reverted") == 0,
        };
        if sound { Ok(()) } else { Err(format!("the gates do not hold it in {:?}", self.phase)) }
    }

    /// Opens every gate; a second time, nothing is left to open.
    pub(crate) fn let_go(&mut self, rig: &Rig) {
        rig.gate.release();
        self.open(rig);
        if let Some((node, hook)) = self.failing.take() {
            rig.fleet.nodes[node].mend(hook);
        }
        for node in self.stopped.drain(..) {
            rig.signal(node, Signal::CONT);
        }
    }

    /// A fault that stops this node itself: the gates leave it so.
    pub(crate) fn leave_stopped(&mut self, node: usize) {
        self.stopped.retain(|it| *it != node);
    }

    /// How many nodes point elsewhere than before.
    fn moved(&self, rig: &Rig) -> usize {
        rig.fleet.nodes.iter().zip(&self.before).filter(|(node, before)| node.current() != **before).count()
    }

    fn wait_answer(&self, rig: &Rig, node: usize, answer: &str) {
        wait_until(LIMIT, &format!("node {node} answers {answer}"), || {
            rig.answer(node, self.epoch).filter(|it| it == answer)
        });
    }

    fn close(&mut self, rig: &Rig, nodes: &[usize], hook: &'static str) {
        for node in nodes {
            rig.fleet.nodes[*node].hold(hook);
            self.hooks.push((*node, hook));
        }
    }

    fn open(&mut self, rig: &Rig) {
        for (node, hook) in self.hooks.drain(..) {
            rig.fleet.nodes[node].release(hook);
        }
    }

    fn stop(&mut self, rig: &Rig, nodes: &[usize]) {
        for node in nodes {
            rig.signal(*node, Signal::STOP);
            self.stopped.push(*node);
        }
    }
}

/// How many nodes have the first file of a build whole in a directory that is not yet a staged build.
fn unpacked(rig: &Rig) -> usize {
    let has_first = |node: &&crate::fleet::node::Node| {
        node.list(".cutover/tmp").iter().any(|name| {
            let path = node.deploy_to.join(".cutover/tmp").join(name).join("a-first");
            std::fs::metadata(path).is_ok_and(|meta| meta.len() == FIRST_FILE_BYTES as u64)
        })
    };
    rig.fleet.nodes.iter().filter(has_first).count()
}
