//! The participant's side of a unit: follows the barrier, prepares and switches releases, answers, and keeps the node's
//! record and its Consul checks up to date.

pub(crate) mod accepted;
mod checking;
pub(crate) mod checks;
pub(crate) mod current_troubles;
mod failures;
pub(crate) mod following;
mod giving_way;
pub(crate) mod health;
mod hook_variables;
pub(crate) mod hooks;
pub(crate) mod inbox;
mod logging;
mod next_look;
pub(crate) mod prefetch;
pub(crate) mod pruning;
pub(crate) mod publisher;
pub(crate) mod reading;
pub(crate) mod rebuild;
pub(crate) mod removing_again;
pub(crate) mod repairing;
pub(crate) mod signatures;
pub(crate) mod slots;
mod spread;
pub(crate) mod stager;
pub(crate) mod staging;
mod telling;
pub(crate) mod troubles;
pub(crate) mod unit;
pub(crate) mod work;
