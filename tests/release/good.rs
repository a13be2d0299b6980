//! Archives as real tools make them: unpacked byte for byte.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cutover::plan::unpack::{Limits, LinkPolicy, Totals};
use cutover::release::{Control, Expected, UnpackError, unpack};

use crate::archive::{Block, ROOM, Tar, gzip, pax_record, sha256, unpack_as_recorded, zstd};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Bytes that do not compress to nothing, the same in every run.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..) & 0x1f).collect()
}

#[test]
fn a_good_archive_is_unpacked_byte_and_mode_exact() {
    let big = noise(3_000_000, 1);
    let tar = Tar::new()
        .dir("./")
        .dir("./bin/")
        .file_with_mode("./bin/run", b"#!/bin/sh\n", b"0004755")
        .file_with_mode("./open", b"all may write", b"0000666")
        .file_with_mode("./secret", b"", b"0000600")
        .file_with_mode("./read-only", b"", b"0002555")
        .raw(&Block { name: b"./locked/", flag: b'5', mode: b"0001500", ..Block::default() }.bytes())
        .file("./locked/f", b"")
        .file("./empty", b"")
        .file("./deep/without/entries/big", &big)
        .link("./bin/alias", "../open")
        .hard("./bin/hard", "./bin/run")
        .link("./dangling", "bin/missing")
        .end();
    let total = 10 + 13 + 3_000_000;
    for packed in [gzip(&tar), zstd(&tar)] {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join("release");
        let exact = Limits { bytes: total, entries: 12 };
        let unpacked = unpack_as_recorded(&packed, &release, exact).unwrap();
        assert_eq!(unpacked.totals, Totals { bytes: total, entries: 12 });
        assert_eq!(fs::read(release.join("deep/without/entries/big")).unwrap(), big);
        assert_eq!(fs::read(release.join("bin/run")).unwrap(), b"#!/bin/sh\n");
        assert_eq!(fs::read(release.join("empty")).unwrap(), b"");
        for (path, expected) in [
            ("", 0o755),
            ("bin", 0o755),
            ("locked", 0o700),
            ("deep/without", 0o755),
            ("bin/run", 0o755),
            ("open", 0o666),
            ("secret", 0o600),
            ("read-only", 0o555),
            ("empty", 0o644),
        ] {
            assert_eq!(mode(&release.join(path)), expected, "{path:?}");
        }
        assert_eq!(fs::read_link(release.join("bin/alias")).unwrap(), Path::new("../open"));
        assert_eq!(fs::read_link(release.join("dangling")).unwrap(), Path::new("bin/missing"));
        let (run, hard) =
            (fs::metadata(release.join("bin/run")).unwrap(), fs::metadata(release.join("bin/hard")).unwrap());
        assert_eq!(run.ino(), hard.ino());
        assert_eq!(run.mtime(), 1_700_000_000);
        let short = Limits { bytes: total - 1, entries: 12 };
        let again = dir.path().join("again");
        assert!(matches!(unpack_as_recorded(&packed, &again, short), Err(UnpackError::Refused(_))));
    }
}

/// More files than the writer's thread can take at once, so that the unpacking thread writes some itself; and some that go
/// through several blocks.
#[test]
fn many_files_of_all_sizes_are_unpacked_exactly_whichever_thread_writes_them() {
    let mut random = fastrand::Rng::with_seed(4);
    let content = noise(700_000, 5);
    let mut size = || match random.u8(..20) {
        0 => random.usize(..content.len()),
        1..3 => 0,
        _ => random.usize(..3_000),
    };
    let sizes: Vec<usize> = (0..1_500).map(|_| size()).collect();
    let name = |number: usize| format!("{}/{number}", number % 7);
    let files = sizes.iter().enumerate();
    let tar = files.clone().fold(Tar::new(), |tar, (number, size)| tar.file(&name(number), &content[..*size])).end();
    let bytes = sizes.iter().sum::<usize>() as u64;
    for packed in [gzip(&tar), zstd(&tar)] {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join("release");
        let room = Limits { bytes, entries: 1_500 };
        assert_eq!(unpack_as_recorded(&packed, &release, room).unwrap().totals, Totals { bytes, entries: 1_500 });
        for (number, size) in files.clone() {
            assert!(fs::read(release.join(name(number))).unwrap() == content[..*size], "file {number}");
        }
    }
}

#[test]
fn gzip_members_and_zstd_frames_add_up() {
    let tar = Tar::new().file("a", &noise(5000, 2)).file("b", b"second").end();
    let (one, two) = tar.split_at(3333);
    for packed in [[gzip(one), gzip(two)].concat(), [zstd(one), zstd(two)].concat()] {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join("release");
        unpack_as_recorded(&packed, &release, ROOM).unwrap();
        assert_eq!(fs::read(release.join("a")).unwrap(), noise(5000, 2));
        assert_eq!(fs::read(release.join("b")).unwrap(), b"second");
    }
}

#[test]
fn long_names_and_git_archives_comment_are_understood() {
    let long = format!("{}/{}/file", "a".repeat(200), "b".repeat(200));
    let tar = Tar::new()
        .extension(b'g', pax_record("comment", "15e9f13a15e9f13a15e9f13a15e9f13a15e9f13a").as_bytes())
        .extension(b'L', format!("{long}\0").as_bytes())
        .file("cut", b"gnu")
        .pax(&[("path", &format!("pax/{long}")), ("mtime", "1600000000.5"), ("size", "3"), ("uname", "ann")])
        .file("cut", b"pax")
        .extension(b'K', format!("{long}\0").as_bytes())
        .link("link", "cut")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    unpack_as_recorded(&gzip(&tar), &release, ROOM).unwrap();
    assert_eq!(fs::read(release.join(&long)).unwrap(), b"gnu");
    let pax = release.join("pax").join(&long);
    assert_eq!(fs::read(&pax).unwrap(), b"pax");
    let meta = fs::metadata(&pax).unwrap();
    assert_eq!(meta.mtime(), 1_600_000_000);
    assert_eq!(meta.mtime_nsec(), 500_000_000);
    assert_eq!(fs::read(release.join("link")).unwrap(), b"gnu");
}

/// What the `tar` of this machine makes, in each of its forms, from a tree with everything that is allowed.
#[test]
fn archives_of_gnu_tar_are_accepted_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let deep = tree.join("node_modules").join("x".repeat(60)).join("y".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    for n in 0..300_u64 {
        fs::write(deep.join(format!("f{n}")), noise(usize::try_from(n * 7).unwrap(), n)).unwrap();
    }
    std::os::unix::fs::symlink("node_modules", tree.join("link")).unwrap();
    fs::hard_link(deep.join("f9"), tree.join("zz-hard")).unwrap();
    for form in ["gnu", "pax", "posix", "ustar", "oldgnu"] {
        let packed = dir.path().join(format!("{form}.tar.gz"));
        let mut tar = Command::new("tar");
        tar.args(["--format", form, "-czf"]).arg(&packed).arg("-C").arg(&tree).arg(".");
        assert!(tar.status().expect("this test needs tar").success());
        let release = dir.path().join(form);
        unpack_as_recorded(&fs::read(&packed).unwrap(), &release, ROOM).unwrap_or_else(|e| panic!("{form}: {e:?}"));
        let same = Command::new("diff").arg("-r").arg(&tree).arg(&release).status().expect("this test needs diff");
        assert!(same.success(), "{form} differs");
    }
}

#[test]
fn progress_counts_every_byte() {
    let tar = Tar::new().file("a", &noise(700_000, 3)).file("b", &noise(10, 4)).end();
    let packed = zstd(&tar);
    let dir = tempfile::tempdir().unwrap();
    let (sha256, control) = (sha256(&packed), Control::default());
    let expected =
        Expected { sha256: &sha256, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Inside };
    unpack(&packed[..], &dir.path().join("release"), &expected, &control).unwrap();
    assert_eq!(control.packed_bytes(), packed.len() as u64);
    assert_eq!(control.unpacked_bytes(), 700_010);
}

#[test]
fn a_directory_that_is_there_is_neither_written_to_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("kept"), "x").unwrap();
    let packed = gzip(&Tar::new().file("f", b"x").end());
    assert!(matches!(unpack_as_recorded(&packed, dir.path(), ROOM), Err(UnpackError::Directory { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// An agent may run with any umask; this test runs the one above again under a strict one.
#[test]
fn modes_do_not_depend_on_the_umask() {
    let again = std::env::current_exe().unwrap();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "umask 077; exec \"$0\" --exact good::a_good_archive_is_unpacked_byte_and_mode_exact"])
        .arg(again);
    let output = shell.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
