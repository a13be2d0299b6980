//! One file per command.

pub mod abort;
pub mod agent;
pub mod build;
pub mod builds;
pub mod check_config;
pub mod completions;
pub mod consul;
pub mod demo;
pub mod deploy;
pub mod doctor;
mod forget;
pub mod freeze;
pub mod history;
pub mod node;
pub mod notify;
mod prune;
pub mod publish;
pub mod recover;
pub mod rollback;
pub mod status;
pub mod watch_handler;
