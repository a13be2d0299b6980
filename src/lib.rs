//! Cutover deploys a build to every node of a fleet at the same moment, or to none.

pub mod agent;
pub mod api;
mod archive;
pub mod artifact;
mod backoff;
pub mod chat;
pub mod cli;
pub mod config;
pub mod consul;
pub mod control;
pub mod document;
pub mod kind;
pub mod metrics;
pub mod notify;
pub mod plan;
pub mod protocol;
pub mod release;
mod signing;
pub mod telemetry;
pub mod ui;
