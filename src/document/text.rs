//! Numbers, times and steps in words: the same in documents, on the command line and on the page.

use jiff::Timestamp;

use crate::protocol::record::{Fetching, Refusal, Step};

/// A size in decimal units: `12 B`, `4.10 MB`.
#[must_use]
pub(crate) fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}

/// A time in UTC, to the second.
#[must_use]
pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `1 node`, `3 nodes`.
#[must_use]
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// A list of names, cut after three: `web-1, web-2, web-3 and 4 more`.
#[must_use]
pub(crate) fn named(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = names.iter().take(SHOWN).copied().collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// How far a node is with a build that it downloads and unpacks.
#[must_use]
pub(crate) fn fetching_words(fetching: &Fetching) -> String {
    let Fetching { received_bytes, packed_bytes, .. } = fetching;
    let (received, all) = (bytes(*received_bytes), bytes(*packed_bytes));
    if received_bytes < packed_bytes {
        format!("downloading, {received} of {all}")
    } else {
        format!("unpacking, all {all} downloaded")
    }
}

/// Why a node could not unpack a build ahead of a deploy, in one line: the step, the reason, and when it tries again.
#[must_use]
pub(crate) fn refusal_words(why: &Refusal) -> String {
    let reason = &why.reason;
    let Some(step) = why.step else { return reason.clone() };
    let again = match why.retry_secs.map(|secs| secs.div_ceil(60)) {
        None => "not tried again before the next publish".to_owned(),
        Some(0 | 1) => "tried again within a minute".to_owned(),
        Some(minutes) => format!("tried again within {minutes} minutes"),
    };
    format!("{}: {reason} ({again})", step_words(step))
}

/// The step of a fault in words; JSON has [`Step::as_str`].
#[must_use]
pub(crate) const fn step_words(step: Step) -> &'static str {
    match step {
        Step::Abort => "abort",
        Step::BadMark => "bad mark",
        Step::CheckHook => "check hook",
        Step::Deadline => "deadline",
        Step::Fetch => "download",
        Step::Floor => "epoch check",
        Step::Freeze => "freeze",
        Step::Link => "linking of shared files",
        Step::NotFound | Step::Request => "request",
        Step::Preflight => "preflight check",
        Step::PrepareHook => "prepare hook",
        Step::RevertedHook => "reverted hook",
        Step::Session => "session",
        Step::Switch => "switch",
        Step::SwitchedHook => "switched hook",
        Step::Sync => "sync to disk",
        Step::Unpack => "unpacking",
        Step::Verify => "verification",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_times_are_readable() {
        assert_eq!([12, 345_047, 28_572_946_432].map(bytes), ["12 B", "345.05 kB", "28.57 GB"]);
        assert_eq!([0, 1, 2].map(|count| counted(count, "node", "nodes")), ["0 nodes", "1 node", "2 nodes"]);
        let at = "2026-11-25T18:52:10.691093726Z".parse().unwrap();
        assert_eq!(moment(at), "2026-11-25T18:52:10Z");
    }
}
