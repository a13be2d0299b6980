//! The text that a signature covers.

use std::fmt::{Display, Write as _};

use crate::protocol::ids::App;
use crate::protocol::record::Build;

/// The first line. Another version would have another one, so that no signature fits texts of two versions.
const FIRST_LINE: &str = "cutover build 1";

/// The text that is signed for a build: a first line, then one line `name: value` for each signed field that the record
/// has, in this order.
///
/// Every field that decides which bytes are deployed, or whether and where they may be, is part of it. Of the others,
/// whoever can write Consul may choose any value.
#[must_use]
pub(crate) fn signed_text(app: &App, build: &Build) -> String {
    // Without `..`, so that a new field must be listed here: as a line, or as one that is deliberately not signed.
    let Build {
        artifact,
        branch,
        commit,
        sha256,
        packed_bytes,
        unpacked_bytes,
        entries,
        format,
        tree,
        object,
        manifest,
        profile,
        tag,
        pull_request,
        // Which build of its branch is the newest. The records of other builds decide that as well.
        place: _,
        // For people only.
        summary: _,
        url: _,
        since: _,
        // Who published it, and when: known by Consul's attestations, or as claimed.
        by: _,
        id: _,
        at: _,
        signature: _,
    } = build;
    let mut text = Text(format!("{FIRST_LINE}\n"));
    text.line("app", app);
    text.line("artifact", artifact);
    text.line("branch", branch);
    text.line("commit", commit);
    text.line("sha256", sha256);
    text.line("packed_bytes", packed_bytes);
    text.line("unpacked_bytes", unpacked_bytes);
    text.line("entries", entries);
    text.line("format", &format.extension());
    text.line_if("tree", tree.as_ref());
    text.line_if("object", object.as_ref());
    text.line_if("manifest", manifest.as_ref().map(|list| format!("{} {}", list.sha256, list.bytes)));
    text.line_if("profile", profile.as_ref());
    text.line_if("tag", tag.as_ref());
    text.line_if("pull_request", pull_request.as_ref());
    text.0
}

/// The names of the lines in which two texts differ.
#[must_use]
pub(crate) fn changed_fields(one: &str, other: &str) -> Vec<String> {
    let only = |text: &str, without: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !without.lines().any(|there| there == *line));
        lines.filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
    };
    let mut changed = only(one, other);
    changed.extend(only(other, one));
    changed.sort_unstable();
    changed.dedup();
    changed
}

struct Text(String);

impl Text {
    /// Adds a line. A backslash and each control character of the value become `\u{…}`, so that no value ends its line.
    fn line(&mut self, name: &str, value: &dyn Display) {
        self.0.push_str(name);
        self.0.push_str(": ");
        for c in value.to_string().chars() {
            if c.is_control() || c == '\\' {
                // Writing to a string never fails.
                let _written = write!(self.0, "\\u{{{:x}}}", u32::from(c));
            } else {
                self.0.push(c);
            }
        }
        self.0.push('\n');
    }

    fn line_if(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(name, &value);
        }
    }
}
