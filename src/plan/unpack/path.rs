//! Names of entries: checked, normalised, hashed, and shown in messages. Names are bytes, as on Linux.

use sha2::{Digest, Sha256};

use super::refusal::Problem;

/// The longest component of a path, in bytes: `NAME_MAX` of Linux.
pub(crate) const MAX_COMPONENT_BYTES: usize = 255;
/// The longest path or link target, in bytes: `PATH_MAX` of Linux, which counts a NUL at the end.
pub(crate) const MAX_PATH_BYTES: usize = 4095;
/// The most components in a path. Nested `node_modules` reach about 40. Unpacking and removing a tree hold a descriptor for
/// each level.
pub(crate) const MAX_DEPTH: usize = 256;
/// The most characters of a name in a message.
const SHOWN_CHARS: usize = 160;

/// The components of a path, without `.` and empty ones.
pub(super) fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// A relative path of plain components, empty for the root itself.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>, Problem> {
    check(name)?;
    if name.starts_with(b"/") {
        return Err(Problem::Absolute);
    }
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
    for part in parts(name) {
        depth += 1;
        if part == b".." {
            return Err(Problem::Leaves);
        }
        if part.len() > MAX_COMPONENT_BYTES || depth > MAX_DEPTH {
            return Err(Problem::TooLong);
        }
        push(&mut path, part);
    }
    Ok(path)
}

/// Checks what no name and no link target may have.
pub(super) fn check(name: &[u8]) -> Result<(), Problem> {
    if name.len() > MAX_PATH_BYTES {
        return Err(Problem::TooLong);
    }
    if name.contains(&0) { Err(Problem::Nul) } else { Ok(()) }
}

/// Appends a component.
pub(super) fn push(path: &mut Vec<u8>, part: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
}

/// A clean path's directory, empty for the root, and last component.
pub(crate) struct Split<'a> {
    pub(crate) parent: &'a [u8],
    pub(crate) name: &'a [u8],
}

pub(crate) fn split(path: &[u8]) -> Split<'_> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            let (parent, name) = path.split_at(at);
            Split { parent, name: name.get(1..).unwrap_or_default() }
        }
        None => Split { parent: b"", name: path },
    }
}

pub(super) fn parent(path: &[u8]) -> &[u8] {
    split(path).parent
}

/// The stored form of a path. Two paths with the same 128 bits of SHA-256 cannot be constructed.
pub(super) fn key(path: &[u8]) -> u128 {
    let digest = Sha256::digest(path);
    digest.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

/// A name for messages: in quotes, cut, with control characters and bytes that are not UTF-8 escaped (`\u{1b}`, `\xff`).
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::from("\"");
    let mut left = SHOWN_CHARS;
    for chunk in name.utf8_chunks() {
        for char in chunk.valid().chars().take(left) {
            match char {
                '\'' => text.push(char),
                char => text.extend(char.escape_debug()),
            }
            left -= 1;
        }
        for byte in chunk.invalid().iter().take(left) {
            text.push_str("\\x");
            text.push_str(&hex::encode([*byte]));
            left -= 1;
        }
        if left == 0 {
            text.push('…');
            break;
        }
    }
    text.push('"');
    text
}
