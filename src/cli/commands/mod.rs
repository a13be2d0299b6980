//! One file per command.

pub(crate) mod abort;
pub(crate) mod agent;
pub(crate) mod build;
pub(crate) mod builds;
pub(crate) mod check_config;
pub(crate) mod completions;
pub(crate) mod consul;
pub(crate) mod demo;
pub(crate) mod deploy;
pub(crate) mod doctor;
mod forget;
pub(crate) mod freeze;
pub(crate) mod history;
pub(crate) mod iam_policy;
pub(crate) mod node;
pub(crate) mod notify;
mod prune;
pub(crate) mod publish;
pub(crate) mod recover;
pub(crate) mod rollback;
mod show;
pub(crate) mod status;
pub(crate) mod watch_handler;
