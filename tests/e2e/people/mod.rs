//! What people see and may do: policies, authors, notifications, commands of operators.

mod action_history;
mod attestation;
mod chat;
mod deploy_rules;
mod doctor;
pub(crate) mod metrics;
pub(crate) mod notifications;
mod operator_commands;
pub(crate) mod policies;
mod rights;
