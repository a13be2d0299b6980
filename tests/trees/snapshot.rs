//! What a directory holds, to compare a release with what its tool made.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Permission bits; set-id bits are never kept.
const PERMISSIONS: u32 = 0o777;
/// What a directory of a release always gives its owner: the agent removes it one day.
const OWNER_ALL: u32 = 0o700;

/// Everything below a directory, by path. Times and owners are not part of it.
#[derive(Debug)]
pub(crate) struct Snapshot(BTreeMap<Vec<u8>, Item>);

#[derive(Debug, PartialEq, Eq)]
enum Item {
    Directory { mode: u32 },
    File { mode: u32, size: u64, sha256: String },
    Link { target: Vec<u8> },
    Other,
}

/// Reads a directory. The REVISION that the agent writes is left out.
pub(crate) fn snapshot(dir: &Path) -> Snapshot {
    let mut items = BTreeMap::new();
    let mut directories = vec![dir.canonicalize().unwrap()];
    let root = directories[0].clone();
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mode = metadata.mode() & PERMISSIONS;
            let item = if metadata.is_dir() {
                directories.push(path.clone());
                Item::Directory { mode: mode | OWNER_ALL }
            } else if metadata.is_symlink() {
                Item::Link { target: fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec() }
            } else if metadata.is_file() {
                let sha256 = hex::encode(Sha256::digest(fs::read(&path).unwrap()));
                Item::File { mode, size: metadata.len(), sha256 }
            } else {
                Item::Other
            };
            items.insert(path.strip_prefix(&root).unwrap().as_os_str().as_bytes().to_vec(), item);
        }
    }
    items.remove(&b"REVISION"[..]);
    Snapshot(items)
}

impl Snapshot {
    /// Fails with each difference, by name.
    pub(crate) fn assert_equals(&self, found: &Self, what: &str) {
        let names = self.0.keys().chain(found.0.keys().filter(|name| !self.0.contains_key(*name)));
        let differences: Vec<String> = names
            .filter(|name| self.0.get(*name) != found.0.get(*name))
            .map(|name| {
                let (wanted, found) = (self.0.get(name), found.0.get(name));
                format!("{}: {wanted:?} became {found:?}", name.escape_ascii())
            })
            .collect();
        assert!(!self.0.is_empty() && differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    }
}
