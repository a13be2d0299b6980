//! Archives that are odd, but that GNU tar, bsdtar and Python's tarfile read without a complaint: unpacked as they do.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::release::{Control, Expected, UnpackError, unpack};

use crate::archive::{Block, ROOM, Tar, gzip, pax_record, seal, sha256, unpack_as_recorded, zstd};

/// Unpacks a tar from both formats, and passes each release to `check`.
fn unpacked(tar: &[u8], check: impl Fn(&Path)) {
    for packed in [gzip(tar), zstd(tar)] {
        packed_unpacked(&packed, &check);
    }
}

fn packed_unpacked(packed: &[u8], check: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    unpack_as_recorded(packed, &release, ROOM).unwrap();
    check(&release);
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_size_of_a_pax_header_counts() {
    // As programs write files above 8 GiB: 0 in the header's own field.
    let tar = |size: &str| {
        let header = Block { name: b"f", size: 0, ..Block::default() };
        Tar::new().pax(&[("size", size)]).raw(&header.bytes()).content(&[b'x'; 1000]).file("g", b"next").end()
    };
    unpacked(&tar("1000"), |release| {
        assert_eq!(fs::read(release.join("f")).unwrap(), [b'x'; 1000]);
        assert_eq!(text(release.join("g")), "next");
    });
    let dir = tempfile::tempdir().unwrap();
    let short = unpack_as_recorded(&gzip(&tar("9000000000")), &dir.path().join("r"), Limits::NONE).unwrap_err();
    assert!(short.to_string().contains("truncated within a file"), "{short}");
    let recorded = Limits { bytes: 8_999_999_999, entries: 9 };
    let long = unpack_as_recorded(&gzip(&tar("9000000000")), &dir.path().join("r"), recorded).unwrap_err();
    assert!(matches!(long, UnpackError::Refused(_)), "{long}");
}

#[test]
fn the_later_of_two_extension_headers_counts_and_pax_comes_before_gnu() {
    let tar = Tar::new()
        .pax(&[("path", "lost"), ("path", "a")])
        .file("x", b"1")
        .pax(&[("path", "lost")])
        .pax(&[("path", "b"), ("mtime", "5")])
        .file("x", b"2")
        .extension(b'L', b"lost\0")
        .extension(b'L', b"c\0")
        .file("x", b"3")
        .pax(&[("path", "d")])
        .extension(b'L', b"lost\0")
        .file("x", b"4")
        .extension(b'L', b"lost\0")
        .pax(&[("path", "e")])
        .file("x", b"5")
        .pax(&[("path", "f"), ("path", "")])
        .file("h", b"6")
        .extension(b'X', pax_record("path", "i").as_bytes())
        .file("x", b"7")
        .end();
    unpacked(&tar, |release| {
        for (name, content) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"), ("h", "6"), ("i", "7")] {
            assert_eq!(text(release.join(name)), content, "{name}");
        }
        assert_eq!(fs::metadata(release.join("b")).unwrap().mtime(), 5);
        assert_eq!(fs::read_dir(release).unwrap().count(), 7);
    });
}

#[test]
fn attributes_labels_and_capabilities_are_dropped() {
    let large = "A".repeat(1 << 20);
    let tar = Tar::new()
        .extension(
            b'g',
            (pax_record("comment", "c") + &pax_record("mtime", "7") + &pax_record("hdrcharset", "BINARY")).as_bytes(),
        )
        .pax(&[
            ("RHT.security.selinux", "system_u:object_r:httpd_sys_content_t:s0"),
            ("SCHILY.xattr.security.selinux", "system_u:object_r:usr_t:s0"),
            ("SCHILY.xattr.security.capability", "\u{1}\0\0\u{2}"),
            ("SCHILY.acl.access", "user::rwx,group::r-x"),
            ("SCHILY.fflags", "nodump"),
            ("SCHILY.xattr.com.apple.ResourceFork", &large),
            ("LIBARCHIVE.xattr.security.capability", "AQAAAg"),
            ("LIBARCHIVE.creationtime", "1.5"),
            ("atime", "x"),
            ("uid", "9999999999999"),
        ])
        .file("f", b"x")
        .extension(b'g', pax_record("mtime", "").as_bytes())
        .extension(b'A', b"acl")
        .special("label", b'V', "")
        .file("g", b"y")
        .file("._g", b"AppleDouble")
        .end();
    unpacked(&tar, |release| {
        let f = release.join("f");
        assert_eq!((text(&f).as_str(), fs::metadata(&f).unwrap().mtime()), ("x", 7));
        assert_eq!(fs::metadata(release.join("g")).unwrap().mtime(), 1_700_000_000);
        let mut none = [0_u8; 0];
        assert_eq!(rustix::fs::listxattr(&f, &mut none).unwrap_or(0), 0, "an attribute was applied");
        assert_eq!(fs::read_dir(release).unwrap().count(), 3);
    });
}

/// "head", a hole, "tail" at 1 MiB, and a hole up to 3 MiB.
fn assert_sparse(path: &Path) {
    let content = fs::read(path).unwrap();
    assert_eq!(content.len(), 3 << 20, "{}", path.display());
    assert_eq!((&content[..4], &content[1 << 20..][..4]), (&b"head"[..], &b"tail"[..]), "{}", path.display());
    assert!(content.iter().filter(|byte| **byte != 0).count() == 8, "{}", path.display());
    let blocks = fs::metadata(path).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{} has no holes: {blocks} blocks", path.display());
}

/// A header of GNU tar's own form, with the map's first parts.
fn gnu_sparse(name: &str, map: &[(u64, u64)], goes_on: bool) -> [u8; 512] {
    let mut block = Block { name: name.as_bytes(), flag: b'S', size: 8, ..Block::default() }.bytes();
    block[257..265].copy_from_slice(b"ustar  \0");
    put_map(&mut block[386..], map);
    block[482] = u8::from(goes_on);
    block[483..495].copy_from_slice(format!("{:011o}\0", 3 << 20).as_bytes());
    seal(block)
}

fn put_map(to: &mut [u8], map: &[(u64, u64)]) {
    for (at, (offset, len)) in map.iter().enumerate() {
        to[at * 24..][..24].copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
    }
}

#[test]
fn sparse_files_of_every_form_become_files_with_holes() {
    let (one, two, end) = ((0, 4), (1 << 20, 4), (3 << 20, 0));
    let mut more = [0; 512];
    put_map(&mut more, &[two, end]);
    let size = ("GNU.sparse.size", "3145728");
    let sparse_1 = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "d/v1"),
        ("GNU.sparse.realsize", "3145728"),
    ];
    let parts_0 = [
        size,
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "0"),
        ("GNU.sparse.numbytes", "4"),
        ("GNU.sparse.offset", "1048576"),
        ("GNU.sparse.numbytes", "4"),
    ];
    let map_1 = format!("{:\0<512}headtail", "3\n0\n4\n1048576\n4\n3145728\n0\n");
    let tar = Tar::new()
        .raw(&gnu_sparse("gnu", &[one, two, end], false))
        .content(b"headtail")
        .raw(&gnu_sparse("gnu-more", &[one], true))
        .raw(&more)
        .content(b"headtail")
        .pax(&parts_0)
        .file("v0.0", b"headtail")
        .pax(&[size, ("GNU.sparse.name", "v0.1"), ("GNU.sparse.map", "0,4,1048576,4")])
        .file("GNUSparseFile.7/v0.1", b"headtail")
        .pax(&sparse_1)
        .file("d/GNUSparseFile.7/v1", map_1.as_bytes())
        .file("after", b"x")
        .end();
    let total = 5 * (3 << 20) + 1;
    unpacked(&tar, |release| {
        for name in ["gnu", "gnu-more", "v0.0", "v0.1", "d/v1"] {
            assert_sparse(&release.join(name));
        }
        assert_eq!(text(release.join("after")), "x");
    });
    let dir = tempfile::tempdir().unwrap();
    let recorded = Limits { bytes: total, entries: 6 };
    let totals = unpack_as_recorded(&gzip(&tar), &dir.path().join("exact"), recorded).unwrap().totals;
    assert_eq!(totals.bytes, total, "holes count");
    let short = unpack_as_recorded(&gzip(&tar), &dir.path().join("short"), Limits { bytes: total - 1, entries: 6 });
    assert!(matches!(short, Err(UnpackError::Refused(_))));
}

#[test]
fn of_repeated_names_the_later_is_on_the_disk() {
    let tar = Tar::new()
        .file("a", b"old")
        .hard("kept", "a")
        .file("./a", b"new")
        .link("b", "a")
        .file("b", b"not through the link")
        .file("c", b"x")
        .link("c", "a")
        .dir("d/")
        .file("d", b"was a directory")
        .file("e", b"x")
        .dir("e/")
        .file("e/f", b"was a file")
        .link("g", "e")
        .dir("g/")
        .file("g/h", b"was a link")
        .raw(&Block { name: b"e", flag: b'5', mode: b"0000750", ..Block::default() }.bytes())
        .hard("b", "kept")
        .hard("a", "./a")
        .link("i", "a")
        .hard("j", "i")
        .dir("k/")
        .dir("k/l/")
        .link("k/l", "..")
        .end();
    unpacked(&tar, |release| {
        let same = |one: &str, other: &str| {
            let ino = |name: &str| fs::symlink_metadata(release.join(name)).unwrap().ino();
            ino(one) == ino(other)
        };
        for (name, content) in [
            ("a", "new"),
            ("kept", "old"),
            ("b", "old"),
            ("c", "new"),
            ("d", "was a directory"),
            ("e/f", "was a file"),
            ("g/h", "was a link"),
        ] {
            assert_eq!(text(release.join(name)), content, "{name}");
        }
        assert!(same("b", "kept") && same("i", "j") && !same("a", "kept"));
        assert_eq!(fs::read_link(release.join("j")).unwrap(), Path::new("a"));
        assert_eq!(fs::read_link(release.join("k/l")).unwrap(), Path::new(".."));
        assert_eq!(fs::metadata(release.join("e")).unwrap().permissions().mode() & 0o7777, 0o750);
        assert!(fs::symlink_metadata(release.join("g")).unwrap().is_dir());
    });
}

/// Every file is written before its name is linked or replaced, however many writers there are.
#[test]
fn names_are_replaced_and_linked_in_the_order_of_the_archive() {
    let mut tar = Tar::new();
    for n in 0..300 {
        tar = tar.file("f", format!("{n}").repeat(n * 7 + 1).as_bytes()).hard(&format!("h{n}"), "f");
    }
    unpacked(&tar.end(), |release| {
        for n in 0..300 {
            assert_eq!(text(release.join(format!("h{n}"))), format!("{n}").repeat(n * 7 + 1));
        }
    });
}

#[test]
fn names_that_are_no_text_are_kept_byte_by_byte() {
    let names: [&[u8]; 5] = [b"caf\xe9", b"a\nb", b"a\x1b[2Jb", b"d\xff/e\xfe", "\u{202e}x".as_bytes()];
    let mut tar = Tar::new();
    for name in names {
        tar = tar.raw(&Block { name, ..Block::default() }.bytes());
    }
    let tar = tar.raw(&Block { name: b"l\xe9", flag: b'2', link: b"caf\xe9", ..Block::default() }.bytes()).end();
    unpacked(&tar, |release| {
        for name in names {
            assert!(release.join(OsStr::from_bytes(name)).exists(), "{name:?}");
        }
        assert_eq!(
            fs::read_link(release.join(OsStr::from_bytes(b"l\xe9"))).unwrap().as_os_str().as_bytes(),
            b"caf\xe9"
        );
    });
}

#[test]
fn headers_of_old_programs_are_understood() {
    let mut v7 = Block { name: b"v7", size: 1, ..Block::default() }.bytes();
    v7[156] = 0;
    v7[257..].fill(0);
    let mut v7_dir = Block { name: b"old/", ..Block::default() }.bytes();
    v7_dir[156] = 0;
    v7_dir[257..].fill(0);
    let mut other_magic = Block { name: b"other", ..Block::default() }.bytes();
    other_magic[257..263].copy_from_slice(b"foobar");
    let mut prefixed = Block { name: b"file", ..Block::default() }.bytes();
    prefixed[263..265].copy_from_slice(b"  ");
    prefixed[345..351].copy_from_slice(b"prefix");
    let mut star = Block { name: b"file", ..Block::default() }.bytes();
    star[345..349].copy_from_slice(b"star");
    star[476..488].copy_from_slice(b"14560000000 ");
    star[508..512].copy_from_slice(b"tar\0");
    let mut signed = Block { name: b"signed-\xe9", ..Block::default() }.bytes();
    let sum: i64 = seal(signed)
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { i64::from(b.cast_signed()) })
        .sum();
    signed = seal(signed);
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut rest = Block { name: b"rest\0of an older name", ..Block::default() }.bytes();
    rest[100..108].copy_from_slice(b"644 \0\0xx");
    let sized = Block { name: b"sized", flag: b'2', size: 5, link: b"other", ..Block::default() };
    let dumped = Block { name: b"dumped", flag: b'D', size: 9, mode: b"0000755", ..Block::default() };
    let tar = Tar::new()
        .raw(&seal(v7))
        .content(b"x")
        .raw(&seal(v7_dir))
        .raw(&seal(other_magic))
        .raw(&seal(prefixed))
        .raw(&seal(star))
        .raw(&signed)
        .raw(&seal(rest))
        .special("contiguous", b'7', "")
        .raw(&sized.bytes())
        .raw(&dumped.bytes())
        .content(b"Yfile\0\0\0\0")
        .raw(&Block { name: b"./", flag: b'5', mode: b"0000700", ..Block::default() }.bytes())
        .end();
    unpacked(&tar, |release| {
        for path in ["v7", "old", "other", "prefix/file", "star/file", "rest", "contiguous", "sized", "dumped"] {
            assert!(release.join(path).exists(), "{path}");
        }
        assert!(release.join("old").is_dir() && release.join("dumped").is_dir());
        assert!(release.join(OsStr::from_bytes(b"signed-\xe9")).exists());
        assert_eq!(fs::metadata(release).unwrap().permissions().mode() & 0o7777, 0o755, "not that of ./");
    });
}

#[test]
fn blocks_that_mark_the_end_may_be_missing() {
    let good = Tar::new().file("f", b"content");
    let ends: [&[u8]; 5] = [&[], &[0; 512], &[0; 1024], &[0; 700], &[0; 10240]];
    for end in ends {
        unpacked(&good.clone().raw(end).0, |release| assert_eq!(text(release.join("f")), "content"));
    }
}

#[test]
fn streams_of_several_parts_are_read_to_their_end() {
    let tar = Tar::new().file("a", &[b'a'; 5000]).file("b", b"second").end();
    let (one, two) = tar.split_at(3333);
    let skipped = |n: u8| [&[0x50 | n, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    let wide = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        encoder.finish().unwrap()
    };
    for packed in [
        [gzip(one), gzip(&[]), gzip(two), gzip(&[])].concat(),
        [gzip(one), gzip(two), vec![0; 5000]].concat(),
        [zstd(one), zstd(&[]), zstd(two)].concat(),
        [skipped(0), zstd(one), skipped(7), zstd(two), skipped(15)].concat(),
        wide,
    ] {
        packed_unpacked(&packed, |release| {
            assert_eq!(fs::read(release.join("a")).unwrap(), [b'a'; 5000]);
            assert_eq!(text(release.join("b")), "second");
        });
    }
}

#[test]
fn an_empty_archive_is_unpacked_only_if_the_record_says_so() {
    let none = Limits { bytes: 0, entries: 0 };
    for tar in [Tar::new().end(), Tar::new().dir("./").end(), Vec::new()] {
        for packed in [gzip(&tar), zstd(&tar)] {
            let dir = tempfile::tempdir().unwrap();
            let release = dir.path().join("release");
            assert!(matches!(unpack_as_recorded(&packed, &release, ROOM), Err(UnpackError::Archive(_))));
            unpack_as_recorded(&packed, &release, none).unwrap();
            assert_eq!(fs::read_dir(&release).unwrap().count(), 0);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let full = unpack_as_recorded(&gzip(&Tar::new().file("f", b"").end()), &dir.path().join("release"), none);
    assert!(matches!(full, Err(UnpackError::Refused(_))), "{full:?}");
}

#[test]
fn links_that_leave_are_made_where_the_settings_allow_them_and_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let venv = |more: fn(Tar) -> Tar| {
        let tar =
            Tar::new().link("python", "/usr/bin/python3").link("up", "../../x").link("out", outside.to_str().unwrap());
        let packed = gzip(&more(tar).end());
        let sha256 = sha256(&packed);
        let expected =
            Expected { sha256: &sha256, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Any };
        unpack(&packed[..], &dir.path().join("release"), &expected, &Control::default())
    };
    venv(|tar| tar).unwrap();
    assert_eq!(fs::read_link(dir.path().join("release/python")).unwrap(), Path::new("/usr/bin/python3"));
    fs::remove_dir_all(dir.path().join("release")).unwrap();
    let below: [fn(Tar) -> Tar; 3] =
        [|tar| tar.file("out/f", b"x"), |tar| tar.dir("out/d/"), |tar| tar.file("a", b"").hard("out/h", "a")];
    for more in below {
        assert!(matches!(venv(more), Err(UnpackError::Refused(_))));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "written through a link");
    }
}
