//! `cutover builds` as text.

use super::{moment, problems};
use crate::cli::output::{Table, Tone, bytes};
use crate::document::{BuildRow, BuildState, BuildsDocument};

/// One line per build.
#[must_use]
pub fn builds(document: &BuildsDocument) -> String {
    let heading = ["ARTIFACT", "STATE", "BRANCH", "COMMIT", "SIZE", "PREFETCHED", "BY", "WHEN", "NOTES"];
    let mut table = Table::with_heading(&heading);
    for row in &document.builds {
        table.row([
            (row.artifact.to_string(), Tone::Plain),
            (row.state.as_str().to_owned(), tone(row.state)),
            (row.branch.to_string(), Tone::Plain),
            (row.commit.short().to_owned(), Tone::Plain),
            (row.record.as_ref().map_or_else(String::new, |r| bytes(r.packed_bytes).replace(' ', "")), Tone::Plain),
            (prefetched(row), Tone::Plain),
            (row.by.clone(), Tone::Plain),
            (moment(row.at), Tone::Plain),
            (notes(row), Tone::Plain),
        ]);
    }
    table.render() + &problems(&document.problems)
}

const fn tone(state: BuildState) -> Tone {
    match state {
        BuildState::Published => Tone::Good,
        BuildState::Building | BuildState::Canceled => Tone::Warn,
        BuildState::Bad | BuildState::Failed => Tone::Bad,
    }
}

/// `production=3/3,canary=0/1`: one word, so that columns can be counted.
fn prefetched(row: &BuildRow) -> String {
    if row.record.is_none() {
        return String::new();
    }
    let groups = row.prefetched.iter().map(|(group, p)| format!("{group}={}/{}", p.on, p.of));
    groups.collect::<Vec<_>>().join(",")
}

fn notes(row: &BuildRow) -> String {
    let bad = row.bad.as_ref().map(|mark| format!("marked bad by {}: {}", mark.by, mark.reason));
    let profile = row.record.as_ref().and_then(|r| r.profile.as_ref()).map(|p| format!("profile {p}"));
    bad.into_iter().chain(profile).chain(row.url.clone()).collect::<Vec<_>>().join("; ")
}
