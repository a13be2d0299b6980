//! Figures as people say them: the same words in documents, on the command line and on pages.

use jiff::Timestamp;

/// A size in decimal units: `12 B`, `4.10 MB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}

/// A moment as people compare it: UTC, to the second.
#[must_use]
pub fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `1 node`, `3 nodes`.
#[must_use]
pub fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// Up to three names, and how many more.
#[must_use]
pub fn named(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = names.iter().take(SHOWN).copied().collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_as_people_say_them() {
        assert_eq!([12, 345_047, 28_572_946_432].map(bytes), ["12 B", "345.05 kB", "28.57 GB"]);
        assert_eq!([0, 1, 2].map(|count| counted(count, "node", "nodes")), ["0 nodes", "1 node", "2 nodes"]);
        let at = "2026-11-25T18:52:10.691093726Z".parse().unwrap();
        assert_eq!(moment(at), "2026-11-25T18:52:10Z");
    }
}
