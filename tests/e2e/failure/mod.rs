//! Deploys that fail, and what becomes of each node then.

mod fail_static;
mod newer_format;
mod prepare;
mod revert;
mod timeouts;
