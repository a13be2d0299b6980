//! What runs around Cutover on one machine: for the tests, and for the demo.
//!
//! Real processes throughout. Nothing here is part of the binary that nodes run.

pub mod build;
pub mod cluster;
pub mod demo;
pub mod git;
pub mod iam;
pub mod process;
pub mod s3;
pub mod slots;
pub mod tmpfs;
