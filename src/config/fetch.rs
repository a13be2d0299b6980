//! `[fetch]`: how much downloads and unpacking may take of the network and the machine.

use std::time::Duration;

use serde::Serialize;

use super::ConfigError;
use super::fragment::FetchFragment;
use super::merge::Merged;

/// The smallest bandwidth: a connection that gets less is taken for a broken one by many servers.
const LEAST_BANDWIDTH_BYTES_PER_SEC: u64 = 64 << 10;

/// The default of `spread`: of 300 nodes, 30 a second begin.
const DEFAULT_SPREAD: Duration = Duration::from_secs(10);

/// Limits that all units of a node share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FetchSection {
    /// What all downloads together may take; none for no limit.
    pub(crate) bandwidth_bytes_per_sec: Option<u64>,
    /// How many builds are downloaded and unpacked at the same time; none for no limit.
    pub(crate) parallel: Option<u32>,
    /// The time within which the nodes begin to prefetch a build, each at its own moment; zero to begin at once.
    pub(crate) spread: Duration,
}

pub(super) fn check(merged: &Merged, fragment: &FetchFragment) -> Result<FetchSection, ConfigError> {
    let bandwidth_bytes_per_sec = fragment.bandwidth.map(|size| size.0);
    if bandwidth_bytes_per_sec.is_some_and(|limit| limit < LEAST_BANDWIDTH_BYTES_PER_SEC) {
        let problem = "is too small; write at least \"64KiB\" (per second), or remove the key for no limit".to_owned();
        return Err(merged.error(&["fetch", "bandwidth"], problem));
    }
    if fragment.parallel == Some(0) {
        let problem = "0 would fetch no builds; write at least 1, or remove the key for no limit".to_owned();
        return Err(merged.error(&["fetch", "parallel"], problem));
    }
    Ok(FetchSection {
        bandwidth_bytes_per_sec,
        parallel: fragment.parallel,
        spread: fragment.spread.map_or(DEFAULT_SPREAD, |delay| delay.0),
    })
}
