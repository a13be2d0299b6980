//! Agents, nodes and coordinators that stop, come back, or lose their state.

pub(crate) mod agent_restarts;
mod catch_up;
mod coordinator_change;
mod forget;
mod local_state;
mod recover;
