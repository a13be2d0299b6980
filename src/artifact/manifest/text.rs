//! The text of a manifest, line by line. docs/manifest.md describes it.

use std::collections::BTreeMap;

use super::escape::{escape, unescape};
use super::{Entry, Manifest, ManifestError};

/// The first line of this version.
const HEADING: &str = "cutover manifest 1";

/// The text: equal manifests have equal texts.
#[must_use]
pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut text = format!("{HEADING}\n");
    text.extend(manifest.entries.iter().map(|(path, entry)| line(path, entry) + "\n"));
    text.into_bytes()
}

/// The line of one file or link, without its end.
fn line(path: &[u8], entry: &Entry) -> String {
    let path = escape(path);
    match entry {
        Entry::File { bytes, mode, sha256 } => format!("file\t{mode:04o}\t{bytes}\t{}\t{path}", hex::encode(sha256)),
        Entry::Link { target } => format!("link\t{}\t{path}", escape(target)),
    }
}

/// Reads a text, which must be exactly what [`encode`] writes: paths sorted, each once.
///
/// # Errors
///
/// [`ManifestError::Version`] for another first line, [`ManifestError::Line`] for a line of another form.
pub(super) fn decode(text: &[u8]) -> Result<Manifest, ManifestError> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').enumerate();
    let heading = lines.next().and_then(|(_, line)| line.strip_suffix(b"\n"));
    if heading != Some(HEADING.as_bytes()) {
        return Err(ManifestError::Version);
    }
    let mut entries = BTreeMap::new();
    for (at, line) in lines {
        let failed = |problem: &str| ManifestError::Line { line: at + 1, problem: problem.to_owned() };
        let text = line.strip_suffix(b"\n").ok_or_else(|| failed("it has no end"))?;
        let Read { path, entry } = read(text).ok_or_else(|| failed("it is neither a file nor a link"))?;
        if self::line(&path, &entry).as_bytes() != text {
            return Err(failed("it is not in the form that publish writes"));
        }
        if entries.last_key_value().is_some_and(|(last, _)| *last >= path) {
            return Err(failed("its path does not sort after the one before"));
        }
        entries.insert(path, entry);
    }
    Ok(Manifest { entries })
}

struct Read {
    path: Vec<u8>,
    entry: Entry,
}

fn read(line: &[u8]) -> Option<Read> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    match fields.as_slice() {
        [b"file", mode, bytes, sha256, path] => {
            let mode = u32::from_str_radix(&text(mode)?, 8).ok()?;
            let sha256 = hex::decode(sha256).ok()?.try_into().ok()?;
            let entry = Entry::File { bytes: text(bytes)?.parse().ok()?, mode, sha256 };
            Some(Read { path: unescape(path)?, entry })
        }
        [b"link", target, path] => {
            Some(Read { path: unescape(path)?, entry: Entry::Link { target: unescape(target)? } })
        }
        _ => None,
    }
}
