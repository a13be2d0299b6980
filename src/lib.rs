//! Cutover deploys a build to every node of a fleet at the same moment, or to none.

pub mod protocol;
