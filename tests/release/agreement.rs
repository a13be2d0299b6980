//! `publish` accepts exactly what the nodes unpack: archives and directories, good and bad ones.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use cutover::artifact::{GitDir, Mtimes, Packing, Tree, Watch, inspect};
use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::protocol::record::ArchiveFormat;
use cutover::release::{Control, Expected, UnpackError, unpack};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::archive::{Block, Tar, gzip, sha256};
use crate::hostile;

/// Whether a node unpacks the archive, given a record that `publish` could have made.
fn is_unpacked(packed: &[u8], links: LinkPolicy, limits: Limits) -> Result<(), UnpackError> {
    let dir = tempfile::tempdir().unwrap();
    let sha256 = sha256(packed);
    let expected = Expected { sha256: &sha256, packed_bytes: packed.len() as u64, limits, links };
    unpack(packed, &dir.path().join("release"), &expected, &Control::default()).map(drop)
}

/// Compares both answers about an archive.
fn agree(packed: &[u8], links: LinkPolicy) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive");
    fs::write(&file, packed).unwrap();
    match inspect(&file, links) {
        Ok(found) => {
            let limits = Limits { bytes: found.unpacked_bytes, entries: found.entries };
            is_unpacked(packed, links, limits)
                .unwrap_or_else(|error| panic!("published, but no node takes it: {error:?}"));
        }
        Err(refused) => {
            // With limits that no archive here meets, only the content counts.
            let limits = Limits { bytes: 1 << 40, entries: 0 };
            let unlimited = Limits { entries: u64::MAX, ..limits };
            let answer = is_unpacked(packed, links, unlimited).map_err(|error| error.to_string());
            assert!(answer.is_err(), "nodes take it, but publish does not: {refused:?}");
        }
    }
}

#[test]
fn publish_refuses_every_hostile_archive() {
    for case in hostile::all() {
        for links in [LinkPolicy::Inside, LinkPolicy::Any] {
            agree(&gzip(&case.tar), links);
        }
    }
}

/// An entry of a generated archive or tree.
#[derive(Clone, Debug)]
struct Odd {
    flag: u8,
    name: Vec<u8>,
    target: Vec<u8>,
    mode: u32,
    size: u64,
}

/// Names that collide often, every kind, odd targets.
fn odd() -> impl Strategy<Value = Odd> {
    let name = prop::collection::vec(prop::sample::select(b"ab./\xe9".to_vec()), 0..6);
    let flag = prop::sample::select(b"00005512222D7SLg3".to_vec());
    let target = prop::string::bytes_regex("(/|(\\.\\./){0,2})([ab]/){0,2}(\\.\\.|[ab])").unwrap();
    (flag, name, target, 0..0o10000_u32, 0..700_u64).prop_map(|(flag, name, target, mode, size)| Odd {
        flag,
        name,
        target,
        mode,
        size,
    })
}

fn tar(entries: &[Odd]) -> Vec<u8> {
    let mut tar = Tar::new();
    for Odd { flag, name, target, mode, size } in entries {
        let mode = format!("{mode:07o}");
        let size = if matches!(flag, b'0' | b'7' | b'D' | b'L') { *size } else { 0 };
        let link: &[u8] = if matches!(flag, b'1' | b'2') { target } else { b"" };
        tar = tar.raw(&Block { name, flag: *flag, size, mode: mode.as_bytes(), link, ..Block::default() }.bytes());
        tar = tar.content(&vec![b'a'; usize::try_from(size).unwrap()]);
    }
    tar.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn publish_accepts_an_archive_if_and_only_if_nodes_do(entries in prop::collection::vec(odd(), 0..8), any: bool) {
        agree(&gzip(&tar(&entries)), if any { LinkPolicy::Any } else { LinkPolicy::Inside });
    }

    #[test]
    fn what_publish_packs_every_node_unpacks_as_it_was(
        entries in prop::collection::vec(odd(), 0..12), any: bool, zst: bool
    ) {
        let links = if any { LinkPolicy::Any } else { LinkPolicy::Inside };
        let format = if zst { ArchiveFormat::TarZst } else { ArchiveFormat::TarGz };
        let dir = tempfile::tempdir().unwrap();
        let (tree, release) = (dir.path().join("tree"), dir.path().join("release"));
        fs::create_dir(&tree).unwrap();
        for odd in &entries {
            grow(&tree, odd);
        }
        let packing = Packing { mtimes: Mtimes::Own, links, git: GitDir::LeaveOut };
        let (read, stop, mut packed) = (AtomicU64::new(0), CancellationToken::new(), Vec::new());
        let watch = Watch { read: &read, stop: &stop };
        let Ok(scanned) = Tree::scan(&tree, &packing, watch) else { return Ok(()) };
        scanned.pack(format, &mut packed, watch).unwrap();
        unpack_packed(&packed, &scanned, links, &release);
        same_trees(&tree, &release);
        agree(&packed, links);
    }
}

fn unpack_packed(packed: &[u8], tree: &Tree, links: LinkPolicy, release: &Path) {
    let limits = Limits { bytes: tree.totals().bytes, entries: tree.totals().entries };
    let expected = Expected { sha256: &sha256(packed), packed_bytes: packed.len() as u64, limits, links };
    unpack(packed, release, &expected, &Control::default()).unwrap();
}

/// Makes an entry in a real tree, if its name allows it.
fn grow(tree: &Path, odd: &Odd) {
    let Odd { flag, name, target, mode, size } = odd;
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"." | b"..")).collect();
    if parts.is_empty() {
        return;
    }
    let path = parts.iter().fold(tree.to_owned(), |path, part| path.join(OsStr::from_bytes(part)));
    let is_below_tree = path
        .parent()
        .unwrap()
        .canonicalize()
        .is_ok_and(|parent| parent.is_dir() && parent.starts_with(tree.canonicalize().unwrap()));
    if path.symlink_metadata().is_ok() || !is_below_tree {
        return;
    }
    match flag {
        b'2' => symlink(OsStr::from_bytes(target), &path).unwrap(),
        b'5' | b'D' => fs::create_dir(&path).unwrap(),
        _ => fs::write(&path, vec![b'x'; usize::try_from(*size).unwrap()]).unwrap(),
    }
    if *flag != b'2' {
        let owner = if path.is_dir() { 0o700 } else { 0o400 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o777 | owner)).unwrap();
    }
}

fn same_trees(one: &Path, other: &Path) {
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other), "{}", one.display());
    for name in names(one) {
        let (one, other) = (one.join(&name), other.join(&name));
        let (meta, found) = (one.symlink_metadata().unwrap(), other.symlink_metadata().unwrap());
        assert_eq!(meta.file_type(), found.file_type(), "{}", one.display());
        if meta.is_symlink() {
            assert_eq!(fs::read_link(&one).unwrap(), fs::read_link(&other).unwrap());
            continue;
        }
        assert_eq!(meta.permissions(), found.permissions(), "{}", one.display());
        if meta.is_dir() {
            same_trees(&one, &other);
        } else {
            assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap(), "{}", one.display());
        }
    }
}
