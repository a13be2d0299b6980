//! `cutover builds` as text.

use super::{line, moment, problems};
use crate::cli::output::{Table, Tone, clean};
use crate::control::retention::Pruned;
use crate::document::{BuildRow, BuildState, BuildsDocument, Deployed, bytes};

/// One line per build.
#[must_use]
pub(crate) fn builds(document: &BuildsDocument) -> String {
    let heading = ["ARTIFACT", "STATE", "BRANCH", "COMMIT", "SIZE", "PREFETCHED", "DEPLOYED", "BY", "WHEN", "NOTES"];
    let mut table = Table::with_heading(&heading);
    for row in &document.builds {
        table.row([
            (row.artifact.to_string(), Tone::Plain),
            (row.state.as_str().to_owned(), tone(row.state)),
            (row.branch.to_string(), Tone::Plain),
            (row.commit.short().to_owned(), Tone::Plain),
            (row.record.as_ref().map_or_else(String::new, |r| bytes(r.packed_bytes).replace(' ', "")), Tone::Plain),
            (prefetched(row), Tone::Plain),
            (deployed(row), Tone::Plain),
            (row.by.clone(), Tone::Plain),
            (moment(row.at), Tone::Plain),
            (notes(row), Tone::Plain),
        ]);
    }
    table.render() + &problems(&document.problems)
}

pub(super) const fn tone(state: BuildState) -> Tone {
    match state {
        BuildState::Published => Tone::Good,
        BuildState::Building | BuildState::Canceled => Tone::Warn,
        BuildState::Bad | BuildState::Damaged | BuildState::Failed | BuildState::Gone | BuildState::Lost => Tone::Bad,
    }
}

/// `production=3/3,canary=0/1`: without blanks, so that `awk` can count columns.
fn prefetched(row: &BuildRow) -> String {
    if row.record.is_none() {
        return String::new();
    }
    let groups = row.prefetched.iter().map(|(group, p)| format!("{group}={}/{}", p.on, p.of));
    groups.collect::<Vec<_>>().join(",")
}

/// `production=now,canary=2026-11-23T09:15:00Z`: the groups that the build was deployed to, with the time, or `now` if it
/// runs there.
fn deployed(row: &BuildRow) -> String {
    let when = |at: &Deployed| match (at.runs, at.at) {
        (true, _) => "now".to_owned(),
        (false, Some(at)) => moment(at),
        (false, None) => at.release.to_string(),
    };
    row.deployed.iter().map(|(group, at)| format!("{group}={}", when(at))).collect::<Vec<_>>().join(",")
}

fn notes(row: &BuildRow) -> String {
    let bad = row.bad.as_ref().map(|mark| format!("marked bad by {}: {}", mark.author.by, mark.author.reason));
    let gone = (!row.gone.is_empty())
        .then(|| "its archive is missing from the store: publish the same archive again".to_owned());
    let damaged = row.damaged.values().max();
    let damaged = damaged
        .map(|damage| format!("its archive in the store is {}: publish the same archive again", damage.as_str()));
    let lost = row.lost_at.filter(|_| row.state == BuildState::Lost);
    let lost = lost.map(|at| format!("CI reported no result by {}", moment(at)));
    let took = row.took_secs.map(|secs| format!("took {}", span(secs)));
    let refused = row.refused.iter().map(|(group, on)| format!("{group}: {}", on.sentence()));
    let refused = Some(refused.collect::<Vec<_>>().join("; ")).filter(|refused| !refused.is_empty());
    let reason = Some(row.reason.clone()).filter(|reason| !reason.is_empty());
    let pull_request = row.pull_request.as_ref().map(|number| format!("pull request {number}"));
    let newest = row.newest.then(|| match row.tag {
        Some(_) => format!("newest of tag {}", row.branch),
        None => format!("newest of {}", row.branch),
    });
    let profile = row.record.as_ref().and_then(|r| r.profile.as_ref()).map(|p| format!("profile {p}"));
    let summary = Some(row.summary.to_string()).filter(|summary| !summary.is_empty());
    let said =
        [bad, gone, damaged, refused, lost, reason, pull_request, newest, summary, took, profile, row.url.clone()];
    said.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// `45s`, `4m05s`: whole seconds are precise enough, since builds take minutes.
fn span(secs: u64) -> String {
    if secs < 60 { format!("{secs}s") } else { format!("{}m{:02}s", secs / 60, secs % 60) }
}

/// One line per build that was or would be removed, and per build that could not be; empty if there is none.
#[must_use]
pub(crate) fn pruned(pruned: &Pruned) -> String {
    let how = if pruned.dry_run { "would remove" } else { "removed" };
    let removed = pruned.removed.iter().map(|artifact| line(how, artifact.as_str()));
    let left = pruned.left.iter().map(|(artifact, why)| line("not removed", &format!("{artifact}  {}", clean(why))));
    removed.chain(left).collect()
}
