//! The invariants of PROTOCOL.md, each written once.
//!
//! Pure predicates over views of a fleet from outside: the log of Consul, and each node's journal and disk. Model check,
//! simulator and traces call them after every step. No predicate knows how a state came about.

mod disk;
mod log;
mod rest;

pub(crate) use self::disk::{
    DiskView, Releases, check_i6, check_i6_journal, check_i7, check_i9, check_i11, check_i11_disk,
};
pub(crate) use self::log::{
    check_i1, check_i2, check_i3, check_i4, check_i5, check_i5_taken, check_i12, check_p3, check_s3,
};
pub(crate) use self::rest::{RestView, RestingNode, check_i8};

use std::sync::Arc;

use crate::protocol::ids::{Epoch, Node};
use crate::protocol::journal::Journal;
use crate::protocol::record::{Answer, Barrier, Release, Wanted};

/// One applied write to a key that an invariant is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    /// `acks/<node>`.
    Ack { node: Node, epoch: Epoch, answer: Answer },
    /// `barrier`.
    Barrier(Arc<Barrier>),
    /// `members/<epoch>`.
    Members { epoch: Epoch, members: Vec<Node> },
    /// `deploy`.
    Request {
        /// The waiting request from now on; none: `deploy` holds no readable request.
        wanted: Option<Wanted>,
    },
}

/// One node's journal and link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeView<'a> {
    pub(crate) name: &'a Node,
    /// As it would be read after a crash now.
    pub(crate) journal: &'a Journal,
    /// What `current` points to now; none: its origin.
    pub(crate) current: Option<&'a Release>,
}

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FleetView<'a> {
    /// Every applied write, oldest first.
    pub(crate) log: &'a [Write],
    pub(crate) nodes: Vec<NodeView<'a>>,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is broken: {what}")]
pub(crate) struct Broken {
    /// The name in PROTOCOL.md, for example "I1".
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

fn holds(is_so: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if is_so { Ok(()) } else { Err(Broken { invariant, what: what() }) }
}

fn in_short(barrier: &Barrier) -> String {
    format!("{} {}", barrier.epoch, barrier.phase.as_str())
}

impl FleetView<'_> {
    fn barriers(&self) -> impl Iterator<Item = (usize, &Barrier)> {
        self.log.iter().enumerate().filter_map(|(at, write)| match write {
            Write::Barrier(barrier) => Some((at, barrier.as_ref())),
            Write::Ack { .. } | Write::Members { .. } | Write::Request { .. } => None,
        })
    }

    /// The last answer of `node` to `epoch` before the write at `at`.
    fn answer_before(&self, at: usize, node: &Node, epoch: Epoch) -> Option<Answer> {
        self.log.iter().take(at).rev().find_map(|write| match write {
            Write::Ack { node: by, epoch: to, answer } if by == node && *to == epoch => Some(*answer),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } | Write::Request { .. } => None,
        })
    }

    /// The members of `epoch`, where they were written before `at`.
    fn members_before(&self, at: usize, epoch: Epoch) -> Option<&[Node]> {
        self.log.iter().take(at).find_map(|write| match write {
            Write::Members { epoch: of, members } if *of == epoch => Some(members.as_slice()),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } | Write::Request { .. } => None,
        })
    }

    /// The request that waited when the write at `at` was applied.
    fn waiting_at(&self, at: usize) -> Option<&Wanted> {
        self.log.iter().take(at).rev().find_map(|write| match write {
            Write::Request { wanted } => Some(wanted.as_ref()),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } => None,
        })?
    }
}

/// Every check of one moment.
///
/// # Errors
///
/// The first [`Broken`].
pub(crate) fn check_moment(view: &FleetView<'_>) -> Result<(), Broken> {
    check_i1(view)?;
    check_i2(view)?;
    check_i3(view)?;
    check_i5(view)?;
    check_i9(view)?;
    check_i11(view)?;
    check_i12(view)
}
