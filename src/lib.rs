//! Cutover deploys a build to every node of a fleet at the same moment, or to none.

pub mod agent;
pub mod artifact;
pub mod cli;
pub mod config;
pub mod consul;
pub mod control;
pub mod demo;
pub mod document;
pub mod plan;
pub mod protocol;
pub mod release;
pub mod telemetry;
