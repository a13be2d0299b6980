//! Archives that must not be unpacked. Each is refused whole: nothing is outside, and nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cutover::plan::unpack::Limits;
use cutover::release::UnpackError;

use crate::archive::{Block, ROOM, Tar, gzip, pax_record, seal, unpack_as_recorded, zstd};

/// Everything below a directory, by path.
fn listing(dir: &Path) -> BTreeMap<String, (u32, u64)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            found.insert(path.display().to_string(), (meta.mode(), meta.size()));
            if meta.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

fn names() -> Vec<(&'static str, Vec<u8>)> {
    let long = "x".repeat(256);
    let path = "y/".repeat(2500) + "f";
    let deep = "d/".repeat(1500) + "f";
    vec![
        ("name with ..", Tar::new().file("../escaped", b"x").end()),
        ("name that comes back", Tar::new().file("a/../../escaped", b"x").end()),
        ("absolute name", Tar::new().file("/tmp/cutover-escaped", b"x").end()),
        ("pax path with ..", Tar::new().pax(&[("path", "../escaped")]).file("good", b"x").end()),
        ("pax absolute path", Tar::new().pax(&[("path", "/tmp/cutover-escaped")]).file("good", b"x").end()),
        ("long name with ..", Tar::new().extension(b'L', b"../escaped\0").file("good", b"x").end()),
        ("directory ..", Tar::new().dir("../escaped/").end()),
        ("empty name", Tar::new().file("", b"x").end()),
        ("name that is a dot", Tar::new().file(".", b"x").end()),
        ("component of 256 bytes", Tar::new().extension(b'L', format!("{long}\0").as_bytes()).file("x", b"").end()),
        ("path of 5,000 bytes", Tar::new().pax(&[("path", &path)]).file("x", b"").end()),
        ("path of 1,500 levels", Tar::new().pax(&[("path", &deep)]).file("x", b"").end()),
        ("pax path with NUL", Tar::new().pax(&[("path", "a\0b")]).file("x", b"").end()),
        ("file with a slash", Tar::new().file("a/", b"x").end()),
    ]
}

fn links() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("link to an absolute path", Tar::new().link("l", "/etc/shadow").end()),
        ("link out", Tar::new().link("l", "../..").end()),
        ("link out from below", Tar::new().dir("d/").link("d/l", "../../x").end()),
        ("link with .. in the middle", Tar::new().dir("d/").link("l", "d/../../x").end()),
        ("empty link", Tar::new().link("l", "").end()),
        ("pax link out", Tar::new().pax(&[("linkpath", "../../x")]).link("l", "good").end()),
        ("long link out", Tar::new().extension(b'K', b"../../x\0").link("l", "good").end()),
        ("write through a link", Tar::new().link("l", "d").dir("d/").file("l/f", b"x").end()),
        ("write through a link over a directory", Tar::new().dir("l/").link("l", "..").file("l/f", b"x").end()),
        ("link that leaves by way of another", Tar::new().link("d/up", "..").link("l", "d/up/../x").end()),
        ("hard link to a link, out", Tar::new().link("d/l", "../f").hard("h", "d/l").end()),
        ("write through an absolute link", Tar::new().link("l", "/tmp").file("l/cutover-escaped", b"x").end()),
        (
            "chain of links out",
            Tar::new().dir("a/b/c/").link("a/b/c/root", "../../..").link("a/b/c/out", "root/../../..").end(),
        ),
        ("link over a directory", Tar::new().dir("d/").file("d/f", b"x").link("d", "e").end()),
        ("hard link to an absolute path", Tar::new().hard("h", "/etc/passwd").end()),
        ("hard link out", Tar::new().hard("h", "../x").end()),
        ("hard link to nothing", Tar::new().hard("h", "later").file("later", b"x").end()),
        ("hard link to a directory", Tar::new().dir("d/").hard("h", "d").end()),
        ("hard link through a link", Tar::new().file("d/f", b"").link("l", "d").hard("h", "l/f").end()),
        ("hard link with content", {
            let h = Block { name: b"h", flag: b'1', size: 1, link: b"f", ..Block::default() };
            Tar::new().file("f", b"x").raw(&h.bytes()).content(b"y").end()
        }),
    ]
}

fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("character device", Tar::new().special("c", b'3', "").end()),
        ("block device", Tar::new().special("b", b'4', "").end()),
        ("fifo", Tar::new().special("p", b'6', "").end()),
        ("volume label", Tar::new().special("v", b'V', "").end()),
        ("unknown kind", Tar::new().special("u", b'Z', "").end()),
        ("sparse file without its size", {
            Tar::new().pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]).file("s", b"").end()
        }),
        ("sparse file of an unknown form", {
            Tar::new().pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.realsize", "9")]).file("s", b"").end()
        }),
        ("sparse file whose map is too long", {
            let sparse = [("GNU.sparse.size", "9"), ("GNU.sparse.map", "0,5,8,2")];
            Tar::new().pax(&sparse).file("s", b"1234567").end()
        }),
        ("sparse file whose map overlaps", {
            let sparse = [("GNU.sparse.size", "9"), ("GNU.sparse.map", "0,5,3,2")];
            Tar::new().pax(&sparse).file("s", b"1234567").end()
        }),
        ("sparse file with a malformed map before its data", {
            let sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")];
            Tar::new().pax(&sparse).file("s", &[b'1'; 1024]).end()
        }),
        ("sparse file with a map of 2^60 parts", {
            let sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")];
            Tar::new().pax(&sparse).file("s", format!("{:\n<512}", "1152921504606846976").as_bytes()).end()
        }),
        ("file over a directory with content", Tar::new().file("d/f", b"x").file("d", b"y").end()),
        ("REVISION is a directory", Tar::new().file("REVISION/f", b"").end()),
        ("part of a multi-volume archive", Tar::new().special("m", b'M', "").end()),
        ("file below a file", Tar::new().file("f", b"x").file("f/g", b"y").end()),
        ("directory with content", {
            let d = Block { name: b"d/", flag: b'5', size: 3, ..Block::default() };
            Tar::new().raw(&d.bytes()).content(b"abc").end()
        }),
        ("REVISION is a link", Tar::new().link("REVISION", "f").file("f", b"").end()),
    ]
}

fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let good = || Tar::new().file("f", b"content");
    let mut bad_sum = good().end();
    bad_sum[0] ^= 1;
    let mut bad_size = Block { name: b"f", ..Block::default() }.bytes();
    bad_size[124..136].copy_from_slice(b"00000000x0\0\0");
    vec![
        ("nothing at all", Vec::new()),
        ("only zeros", vec![0; 10240]),
        ("only its root", Tar::new().dir("./").end()),
        ("zero block in the middle", good().raw(&[0; 512]).file("g", b"").end()),
        ("data after the end", good().raw(&[0; 1024]).file("g", b"x").end()),
        ("a MiB of zeros and more after the end", good().raw(&vec![0; (1 << 20) + 4096]).end()),
        ("cut in a header", good().raw(&[b'x'; 100]).0),
        ("no tar", vec![b'x'; 2048]),
        ("wrong checksum", bad_sum),
        ("size that is no number", Tar::new().raw(&seal(bad_size)).end()),
        ("pax size below the header's", Tar::new().pax(&[("size", "0")]).file("f", &[b'x'; 512]).end()),
        ("malformed pax", Tar::new().extension(b'x', b"99 path=x\n").file("f", b"").end()),
        ("global header with a path", {
            Tar::new().extension(b'g', pax_record("path", "../x").as_bytes()).file("f", b"").end()
        }),
        ("extension header at the end", good().pax(&[("path", "a")]).end()),
        ("pax header of 1 MiB", Tar::new().extension(b'x', &vec![b'x'; 1 << 20]).file("f", b"").end()),
        ("long name of 1 MiB", Tar::new().extension(b'L', &vec![b'x'; 1 << 20]).file("f", b"").end()),
        ("header that claims 1 GiB of long name", {
            let l = Block { name: b"././@LongLink", flag: b'L', size: 1 << 30, ..Block::default() };
            Tar::new().raw(&l.bytes()).content(&[b'x'; 4096]).end()
        }),
        ("file that claims more than there is", {
            Tar::new().raw(&Block { name: b"f", size: 1 << 20, ..Block::default() }.bytes()).content(b"x").end()
        }),
    ]
}

/// An archive that is refused.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) tar: Vec<u8>,
}

pub(crate) fn all() -> Vec<Case> {
    let cases = [names(), links(), kinds(), forms()].concat();
    cases.into_iter().map(|(name, tar)| Case { name, tar }).collect()
}

#[test]
fn every_hostile_archive_is_refused_and_leaves_nothing() {
    let cases = all();
    assert!(cases.len() >= 60, "{} archives", cases.len());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let before = listing(dir.path());
    for Case { name, tar } in cases {
        for (how, packed) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar))] {
            let error = unpack_as_recorded(&packed, &dir.path().join("release"), ROOM)
                .expect_err(&format!("{name} ({how}) was accepted"));
            assert!(
                matches!(error, UnpackError::Refused(_) | UnpackError::Archive(_)),
                "{name} ({how}) ended in another error: {error:?}"
            );
            assert_eq!(listing(dir.path()), before, "{name} ({how}) left something");
            assert!(!Path::new("/tmp/cutover-escaped").exists(), "{name} ({how}) escaped");
        }
    }
}

#[test]
fn an_incomplete_compressed_stream_is_refused() {
    let good = Tar::new().file("f", b"content").end();
    let (gz, zst) = (gzip(&good), zstd(&good));
    let mut wrong_crc = gz.clone();
    let crc = wrong_crc.len() - 8;
    wrong_crc[crc] ^= 1;
    let mut wrong_length = gz.clone();
    let length = wrong_length.len() - 1;
    wrong_length[length] ^= 1;
    // A header with a window of 2^28 bytes, and an empty last block.
    let wide = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (28 - 10) << 3, 1, 0, 0];
    let cases = [
        ("wrong CRC", wrong_crc),
        ("wrong length", wrong_length),
        ("gzip trailer cut", gz[..gz.len() - 4].to_vec()),
        ("garbage after gzip", [&gz[..], b"garbage"].concat()),
        ("cut second member", [&gz[..], &gz[..12]].concat()),
        ("garbage after zstd", [&zst[..], b"garbage"].concat()),
        ("zstd cut", zst[..zst.len() - 2].to_vec()),
        ("window of 256 MiB", wide),
        ("zeros, then garbage after gzip", [&gz[..], &[0; 512], b"x"].concat()),
        ("skippable frame cut", [&[0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0][..], b"abc"].concat()),
        ("no compression", good.clone()),
        ("two archives in two members", [&gz[..], &gz].concat()),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, packed) in cases {
        let result = unpack_as_recorded(&packed, &dir.path().join("release"), ROOM);
        assert!(matches!(result, Err(UnpackError::Archive(_))), "{name}: {result:?}");
        assert_eq!(listing(dir.path()).len(), 0, "{name} left something");
    }
}

#[test]
fn bombs_stop_at_what_the_build_record_says() {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    let zeros = Tar::new().file("zeros", &vec![0; 64 << 20]).end();
    let limits = Limits { bytes: 1 << 20, entries: 10 };
    let many = (0..2000).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b"")).end();
    let nested =
        (0..200).fold(Tar::new(), |tar, n| tar.pax(&[("path", &format!("{n}/{}f", "d/".repeat(100)))]).file("f", b""));
    let globals = (0..2000).fold(Tar::new(), |tar, _| tar.extension(b'g', pax_record("comment", "c").as_bytes()));
    let huge = {
        // 8 TiB, in GNU's base 256.
        let mut block = Block { name: b"huge", ..Block::default() }.bytes();
        block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x08, 0, 0, 0, 0, 0, 0]);
        Tar::new().raw(&seal(block)).end()
    };
    let holes = Tar::new().pax(&[("GNU.sparse.size", "8796093022208"), ("GNU.sparse.map", "")]).file("s", b"").end();
    let implied = Limits { bytes: 1, entries: 2000 };
    for (name, tar, limits) in [
        ("zeros", zeros, limits),
        ("inodes", many, limits),
        ("implied directories", nested.end(), implied),
        ("global headers", globals.end(), limits),
        ("8 TiB", huge, limits),
        ("8 TiB of holes", holes, limits),
    ] {
        for packed in [gzip(&tar), zstd(&tar)] {
            let result = unpack_as_recorded(&packed, &release, limits);
            assert!(matches!(result, Err(UnpackError::Refused(_) | UnpackError::Archive(_))), "{name}: {result:?}");
            assert!(!release.exists(), "{name} left something");
        }
    }
}
