//! The file system itself: as a program uses it, and below that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;

use rustix::fs::syncfs;

use crate::disk::{Content, Disk, Loss, Maker, Owner, ROOT, Replaces, slot};
use crate::power::PowerDisk;

const FILE: Maker = Maker { mode: 0o644, owner: Owner { uid: 0, gid: 0 } };

/// Writes a file and syncs it, but not its name.
fn write(path: &Path, text: &str) -> File {
    fs::write(path, text).unwrap();
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    file
}

#[test]
fn the_file_system_forgets_what_was_not_synced() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = PowerDisk::new();
    disk.mount(dir.path());
    let at = |name: &str| dir.path().join(name);
    let mut kept = vec![write(&at("kept"), "kept")];
    File::open(dir.path()).unwrap().sync_all().unwrap();
    kept.push(write(&at("nameless"), "x"));
    fs::write(at("kept"), "KEPT, and more").unwrap();
    drop(kept);
    disk.lose(Loss::All);
    disk.mount(dir.path());
    assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept");
    assert!(!at("nameless").exists());
}

/// The kernel sends no request for it: see `src/release/durable.rs`.
#[test]
fn syncfs_makes_nothing_durable_on_this_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = PowerDisk::new();
    disk.mount(dir.path());
    fs::write(dir.path().join("file"), "x").unwrap();
    syncfs(File::open(dir.path()).unwrap()).unwrap();
    assert!(disk.done().iter().all(|done| !done.contains("sync")), "{:?}", disk.done());
    disk.lose(Loss::All);
    disk.mount(dir.path());
    assert!(!dir.path().join("file").exists());
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn file(disk: &mut Disk, dir: u64, called: &str, bytes: &[u8]) -> u64 {
    let file = disk.make(dir, name(called), Content::File(Vec::new()), FILE).unwrap();
    disk.write(file, 0, bytes).unwrap();
    file
}

fn dir(disk: &mut Disk, parent: u64, called: &str) -> u64 {
    disk.make(parent, name(called), Content::Directory(BTreeMap::new()), FILE).unwrap()
}

fn bytes(disk: &Disk, path: &str) -> Option<Vec<u8>> {
    disk.at(Path::new(path)).map(|node| node.bytes().unwrap().clone())
}

#[test]
fn only_synced_bytes_with_a_synced_name_survive() {
    let mut disk = Disk::new();
    let one = file(&mut disk, ROOT, "one", b"synced");
    disk.sync(one).unwrap();
    disk.sync(ROOT).unwrap();
    disk.write(one, 0, b"later!").unwrap();
    let nameless = file(&mut disk, ROOT, "nameless", b"x");
    disk.sync(nameless).unwrap();
    disk.lose(Loss::All);
    assert_eq!(bytes(&disk, "one").unwrap(), b"synced");
    assert!(disk.at(Path::new("nameless")).is_none());
    file(&mut disk, ROOT, "empty", b"x");
    disk.sync(ROOT).unwrap();
    disk.lose(Loss::All);
    assert_eq!(bytes(&disk, "empty").unwrap(), b"");
}

#[test]
fn a_rename_is_durable_with_either_directory_and_without_the_bytes_below() {
    for synced in ["from", "to"] {
        let mut disk = Disk::new();
        let (from, to) = (dir(&mut disk, ROOT, "from"), dir(&mut disk, ROOT, "to"));
        disk.sync(ROOT).unwrap();
        let tree = dir(&mut disk, from, "tree");
        file(&mut disk, tree, "file", b"x");
        disk.rename(slot(from, name("tree")), slot(to, name("tree")), Replaces::Nothing).unwrap();
        disk.sync(if synced == "from" { from } else { to }).unwrap();
        // The creation came before, and does not come back.
        disk.sync(from).unwrap();
        disk.lose(Loss::All);
        assert!(disk.at(Path::new("from/tree")).is_none(), "{synced}");
        assert!(disk.at(Path::new("to/tree")).unwrap().entries().unwrap().is_empty(), "{synced}");
    }
}

#[test]
fn what_survives_by_chance_is_each_of_the_possible_disks() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = Disk::new();
        let old = file(&mut disk, ROOT, "state", b"old");
        disk.sync(old).unwrap();
        disk.sync(ROOT).unwrap();
        file(&mut disk, ROOT, "new", b"new");
        disk.rename(slot(ROOT, name("new")), slot(ROOT, name("state")), Replaces::Anything).unwrap();
        disk.lose(Loss::Some(seed));
        assert!(disk.at(Path::new("state")).is_some(), "a rename has no moment without the name");
        seen.insert(bytes(&disk, "state").unwrap());
    }
    // The file after the rename: synced by nobody, its length without its bytes, or whole.
    let expected = [&b""[..], b"\0\0\0", b"new", b"old"].map(<[u8]>::to_vec);
    assert_eq!(seen, BTreeSet::from(expected));
}
