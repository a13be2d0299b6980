//! The daemon that runs on every node.
//!
//! | Room | What it does |
//! |---|---|
//! | `daemon` | start, stop, systemd, and the agent as the HTTP API sees it |
//! | `node` | the participant's side of each unit: follow, prepare, switch, answer, presence, Consul checks |
//! | `coordinator` | the coordinator's side: the lock, leading deploys, and the duties that come with the lock |
//! | `answering` | answers to questions that only this node can answer (`doctor`, dry run, repair) |
//!
//! `lane` serves the drivers of both sides.

pub(crate) mod answering;
pub(crate) mod coordinator;
pub(crate) mod daemon;
pub(crate) mod lane;
pub(crate) mod node;

pub(crate) use self::daemon::run;
