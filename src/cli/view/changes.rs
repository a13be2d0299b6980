//! What a build changes, as text.

use super::{line, moment, problems};
use crate::cli::output::{Tone, clean};
use crate::document::{BuildDocument, Files, bytes, changes_line, commits_line, files_line};
use crate::protocol::git_ref::BuildRef;
use crate::protocol::record::{Build, CommitLine, CommitList, Commits, FileChanges, FileList};

/// `cutover build show`: the build, then the commits, then the files.
#[must_use]
pub(crate) fn build(document: &BuildDocument) -> String {
    let row = &document.build;
    let mut out =
        line("build", &format!("{}  {}", row.artifact, super::builds::tone(row.state).paint(row.state.as_str())));
    let of = BuildRef::new(&row.branch, row.tag.as_ref(), row.pull_request.as_deref());
    out += &line("commit", &clean(&format!("{} of {of}", row.commit)));
    if !row.summary.is_empty() {
        out += &line("subject", &clean(&row.summary.to_string()));
    }
    out += &line("by", &format!("{}  {}", clean(&row.by), moment(row.at)));
    if let Some(url) = &row.url {
        out += &line("url", &clean(url));
    }
    if let Some(record) = &row.record {
        let (packed, unpacked) = (bytes(record.packed_bytes), bytes(record.unpacked_bytes));
        out += &line("size", &format!("{packed} packed, {unpacked} unpacked, {} entries", record.entries));
    }
    if let Some(against) = &document.against {
        out += &line("against", against.as_str());
    }
    out + &commits(&document.commits) + &files(&document.files) + &problems(&document.problems)
}

/// `publish`: what is new since the build before, in one line; empty if the record does not have it.
#[must_use]
pub(crate) fn since(build: &Build) -> String {
    let Some(since) = &build.since else { return String::new() };
    let base = since.base.as_ref().map_or_else(String::new, |base| format!(" since {}", base.artifact));
    let why = match &since.changes.commits {
        Commits::Unknown { reason, .. } => format!(" ({reason})"),
        Commits::First | Commits::Known { .. } => String::new(),
    };
    line("changes", &clean(&format!("{}{base}{why}", changes_line(&since.changes))))
}

/// One line about the commits, then one for each.
#[must_use]
pub(super) fn commits(commits: &Commits) -> String {
    let head = |why: &str| line("commits", &format!("{}{}", commits_line(commits), clean(why)));
    match commits {
        Commits::First => head(""),
        Commits::Known { added, removed } => head("") + &commit_lines(' ', added) + &commit_lines('-', removed),
        Commits::Unknown { reason, added } => head(&format!(": {reason}")) + &commit_lines(' ', added),
    }
}

fn commit_lines(mark: char, commits: &CommitList) -> String {
    let CommitList { count, list } = commits;
    let shown =
        |CommitLine { id, summary }: &CommitLine| format!("  {mark} {} {}\n", id.short(), clean(&summary.to_string()));
    list.iter().map(shown).collect::<String>() + &more(*count, list.len())
}

/// One line about the files, then one for each: `A` is added, `D` removed, `M` changed.
#[must_use]
pub(super) fn files(files: &Files) -> String {
    match files {
        Files::Listed { changes } => line("files", &files_line(changes.counts())) + &file_lines(changes),
        Files::Counted { changes, reason } => {
            line("files", &files_line(changes.counts()))
                + &line("note", &clean(&format!("files are not listed: {reason}")))
        }
        Files::Unknown { reason } => line("files", &clean(&format!("unknown: {reason}"))),
    }
}

/// One line for each file.
fn file_lines(changes: &FileChanges) -> String {
    let FileChanges { added, removed, changed } = changes;
    let lines = |mark: char, tone: Tone, FileList { count, list }: &FileList| {
        let shown = |path: &String| format!("  {}\n", tone.paint(&format!("{mark} {}", clean(path))));
        list.iter().map(shown).collect::<String>() + &more(*count, list.len())
    };
    lines('A', Tone::Good, added) + &lines('D', Tone::Bad, removed) + &lines('M', Tone::Plain, changed)
}

/// How many of `count` are not among the `shown`.
fn more(count: u64, shown: usize) -> String {
    match count.saturating_sub(shown as u64) {
        0 => String::new(),
        more => format!("    and {more} more\n"),
    }
}
