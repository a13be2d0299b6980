//! One file per command.

pub mod abort;
pub mod agent;
pub mod builds;
pub mod check_config;
pub mod consul;
pub mod demo;
pub mod deploy;
pub mod history;
pub mod publish;
pub mod recover;
pub mod rollback;
pub mod status;
pub mod watch_handler;
