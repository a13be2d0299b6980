use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::AtomicU64;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::diff::Diff;
use super::*;
use crate::artifact::{GitDir, Mtimes, Packing, Tree, Watch, inspect};
use crate::plan::unpack::LinkPolicy;
use crate::protocol::record::FileCounts;

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (0_u64..3, prop_oneof![Just(0o644_u32), Just(0o755), Just(0o600)], any::<bool>())
            .prop_map(|(bytes, mode, fill)| Entry::File { bytes, mode, sha256: [u8::from(fill); 32] }),
        vec(any::<u8>(), 1..6).prop_map(|target| Entry::Link { target }),
    ]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    // Few different paths, so that two manifests share some; every byte may occur.
    let path = prop_oneof![vec(prop_oneof![Just(b'a'), Just(b'/'), Just(b'b')], 1..4), vec(any::<u8>(), 1..8)];
    btree_map(path, entry(), 0..20).prop_map(|entries| Manifest { entries })
}

/// `from` with the differences made.
fn applied(from: &Manifest, diff: &Diff<'_>) -> Manifest {
    let mut entries = from.entries.clone();
    for gone in &diff.removed {
        assert!(entries.remove(gone.path).is_some());
    }
    for change in &diff.changed {
        assert!(entries.insert(change.path.to_owned(), change.entry.clone()).is_some());
    }
    for new in &diff.added {
        assert!(entries.insert(new.path.to_owned(), new.entry.clone()).is_none());
    }
    Manifest { entries }
}

proptest! {
    #[test]
    fn the_differences_from_one_manifest_to_another_make_the_other(from in manifest(), to in manifest()) {
        let found = diff(&from, &to);
        prop_assert_eq!(applied(&from, &found), to.clone());
        let back = diff(&to, &from).shortened(0, 0).counts();
        prop_assert_eq!(back.reversed(), found.shortened(0, 0).counts());
        let no_change = diff(&to, &to).shortened(0, 0).counts();
        prop_assert_eq!(no_change, FileCounts::default());
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written(manifest in manifest()) {
        let text = encode(&manifest);
        prop_assert_eq!(&decode(&text).unwrap(), &manifest);
        let packed = pack(&manifest).unwrap();
        prop_assert!(packed.bytes.len() as u64 <= packed_limit(&packed.digest).unwrap());
        prop_assert_eq!(unpack(&packed.bytes, &packed.digest).unwrap(), manifest);
    }

    #[test]
    fn only_a_text_that_publish_writes_is_read(bytes in vec(any::<u8>(), 0..200), digit in 0_usize..80, to in any::<u8>()) {
        let mut text = encode(&sample());
        prop_assert!(decode(&text).is_ok());
        if let Some(byte) = text.get_mut(digit) {
            *byte = to;
        }
        for text in [text, bytes.clone(), [b"cutover manifest 1\nlink\t".as_slice(), &bytes].concat()] {
            if let Ok(manifest) = decode(&text) {
                prop_assert_eq!(encode(&manifest), text);
            }
        }
    }
}

fn sample() -> Manifest {
    let mut builder = Builder::default();
    let mut file = |path: &[u8], mode, text: &[u8]| {
        builder.file(path, mode, text.len() as u64, sha2::Sha256::digest(text).into());
    };
    file(b"bin/run", 0o755, b"old");
    file(b"bin/run", 0o755, b"#!/bin/sh\n");
    file("h\u{e9} 100%\t".as_bytes(), 0o600, b"");
    file(b"latin-\xe9", 0o644, b"x");
    builder.hard_link(b"again", b"latin-\xe9");
    builder.hard_link(b"nothing", b"missing");
    builder.link(b"current", b"bin/run");
    builder.link(b"replaced", b"bin/run");
    builder.directory(b"replaced");
    builder.finish()
}

#[test]
fn the_text_is_sorted_readable_and_keeps_every_byte_of_a_path() {
    let text = String::from_utf8(encode(&sample())).unwrap();
    let x = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let run = "a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf";
    let none = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let expected = [
        "cutover manifest 1".to_owned(),
        format!("file\t0644\t1\t{x}\tagain"),
        format!("file\t0755\t10\t{run}\tbin/run"),
        "link\tbin/run\tcurrent".to_owned(),
        format!("file\t0600\t0\t{none}\th\u{e9} 100%25%09"),
        format!("file\t0644\t1\t{x}\tlatin-%e9"),
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn only_the_text_that_the_record_names_is_read() {
    let packed = pack(&sample()).unwrap();
    let other = pack(&Manifest::default()).unwrap();
    assert!(matches!(unpack(&other.bytes, &packed.digest), Err(ManifestError::Digest)));
    let cut = &packed.bytes[..packed.bytes.len() - 5];
    assert!(matches!(unpack(cut, &packed.digest), Err(ManifestError::Digest | ManifestError::Zstd(_))));
    assert!(matches!(unpack(b"no zstd", &packed.digest), Err(ManifestError::Zstd(_))));
    // A short object of a gigabyte of zeros is read only as far as the recorded size.
    let bomb = zstd::stream::encode_all(io::repeat(0).take(1 << 30), 1).unwrap();
    assert!(matches!(unpack(&bomb, &packed.digest), Err(ManifestError::Digest)));
    let huge = ManifestDigest { bytes: MAX_BYTES + 1, ..packed.digest };
    assert!(matches!(unpack(&packed.bytes, &huge), Err(ManifestError::TooLarge { .. })));
}

#[test]
fn a_text_in_another_order_or_form_is_refused() {
    let link = |path: &str| format!("link\ta\t{path}\n");
    let read = |text: String| decode(text.as_bytes()).map_err(|error| error.to_string());
    let heading = "cutover manifest 1\n".to_owned();
    assert!(read(heading.clone() + &link("a") + &link("b")).is_ok());
    assert!(read(heading.clone() + &link("b") + &link("a")).unwrap_err().starts_with("line 3"));
    assert!(read(heading.clone() + &link("a") + &link("a")).unwrap_err().contains("does not sort after"));
    assert!(read(heading.clone() + "link\ta\t%41\n").unwrap_err().contains("not in the form that publish writes"));
    assert!(read(heading + "link\ta\tb").unwrap_err().contains("it has no end"));
    assert!(read("cutover manifest 2\n".to_owned()).unwrap_err().contains("another format"));
}

#[test]
fn lists_for_people_are_bounded_in_number_and_length() {
    let link = || Entry::Link { target: b"x".to_vec() };
    let long = Manifest { entries: (0..1000).map(|n| (format!("{n:0100}").into_bytes(), link())).collect() };
    let empty = Manifest::default();
    let found = diff(&empty, &long);
    let few = found.shortened(3, 10_000);
    assert_eq!((few.added.count, few.added.list.len(), few.removed.count), (1000, 3, 0));
    assert_eq!(found.shortened(1000, 1050).added.list.len(), 10);
}

#[test]
fn both_formats_of_a_tree_have_the_manifest_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::write(tree.join("bin/run"), "x").unwrap();
    std::fs::write(tree.join(std::ffi::OsStr::from_bytes(b"latin-\xe9")), "").unwrap();
    std::os::unix::fs::symlink("bin/run", tree.join("current")).unwrap();
    for flag in ["--gzip", "--zstd"] {
        let archive = dir.path().join("archive");
        let mut tar = std::process::Command::new("tar");
        let made = tar.arg(flag).arg("-cf").arg(&archive).arg("-C").arg(&tree).arg(".").status();
        assert!(made.unwrap().success());
        let found = inspect(&archive, LinkPolicy::Inside).unwrap().manifest;
        let packing = Packing { mtimes: Mtimes::Own, links: LinkPolicy::Inside, git: GitDir::Pack };
        let watch = Watch { read: &AtomicU64::new(0), stop: &CancellationToken::new() };
        let scanned = Tree::scan(&tree, &packing, watch).unwrap();
        assert_eq!(scanned.manifest(), found, "a directory and its archive have one manifest");
        let paths: Vec<&[u8]> = found.entries.keys().map(Vec::as_slice).collect();
        assert_eq!(paths, [b"bin/run".as_slice(), b"current", b"latin-\xe9"], "{flag}");
        assert_eq!(found.entries[b"current".as_slice()], Entry::Link { target: b"bin/run".to_vec() });
    }
}
