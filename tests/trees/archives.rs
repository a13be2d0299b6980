//! Archives of GNU tar, bsdtar, git and Python's tarfile: published with `--file`, deployed, and started.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::app::{App, Unit, text};
use crate::archive::{Block, Tar, gzip, seal};
use crate::sample::{Oracle, PRINTED, extracted, runs, sample, set_mode};
use crate::tool::{fixture, tool};

/// Packs a tree with GNU tar, and gives the archive.
fn gnu_tar(app: &App, tree: &Path, name: &str, options: &[&str]) -> PathBuf {
    let archive = app.dir().join(name);
    let own = ["--create", "--auto-compress", "--file", text(&archive), "--directory", text(tree)];
    app.run(tool("tar", app.dir(), &[&own, options, &["."]].concat()));
    archive
}

#[test]
fn a_directory_keeps_modes_links_and_names() {
    let app = App::open("directory", Unit::Usual);
    let tree = sample(&app);
    fs::write(tree.join(OsStr::from_bytes(b"caf\xe9")), "Latin-1").unwrap();
    set_mode(&tree.join("run"), 0o6755);
    set_mode(&tree.join("data"), 0o3777);
    app.deploy_tree(&tree);
    assert_eq!(app.start("./start", &[]), PRINTED);
    let mode = |name: &str| fs::metadata(app.current().join(name)).unwrap().mode() & 0o7777;
    let modes = ["data/words", "read-only/program", "run", "data", "private"].map(mode);
    assert_eq!(modes, [0o600, 0o555, 0o755, 0o777, 0o700], "nothing sets an id or is sticky");
}

#[test]
fn every_format_of_gnu_tar_runs() {
    let app = App::open("gnu-tar", Unit::Usual);
    let tree = sample(&app);
    for (format, end) in [("gnu", "tar.gz"), ("oldgnu", "tar.zst"), ("pax", "tar.zst"), ("ustar", "tar.gz")] {
        let archive = gnu_tar(&app, &tree, &format!("{format}.{end}"), &[&format!("--format={format}")]);
        runs(&app, &archive, Oracle::GnuTar);
    }
    // A global header, for all entries.
    let archive = gnu_tar(&app, &tree, "global.tar.gz", &["--format=pax", "--pax-option=comment=x,mtime=1700000000.5"]);
    runs(&app, &archive, Oracle::GnuTar);
    // The oldest format has no room for long paths.
    let archive = gnu_tar(&app, &tree, "v7.tar.gz", &["--format=v7", "--exclude=./long"]);
    runs(&app, &archive, Oracle::GnuTar);
}

#[test]
fn volume_labels_and_incremental_backups_of_gnu_tar_run() {
    let app = App::open("gnu-kinds", Unit::Usual);
    let tree = sample(&app);
    for format in ["gnu", "pax"] {
        let label = format!("{format}-label.tar.gz");
        let archive = gnu_tar(&app, &tree, &label, &[&format!("--format={format}"), "--label=nightly build"]);
        runs(&app, &archive, Oracle::GnuTar);
        let backup = format!("{format}-incremental.tar.gz");
        let state = format!("--listed-incremental={}", text(&app.dir().join(format!("{format}.state"))));
        let archive = gnu_tar(&app, &tree, &backup, &[&format!("--format={format}"), &state]);
        runs(&app, &archive, Oracle::GnuTar);
    }
}

/// Adds files with holes: at their start, at their end, everywhere, and more than one header holds.
fn add_sparse_files(tree: &Path) {
    let hole = |name: &str, size: u64, islands: &[u64]| {
        let file = File::create(tree.join(name)).unwrap();
        file.set_len(size).unwrap();
        for &at in islands {
            file.write_all_at(format!("island at {at}").as_bytes(), at).unwrap();
        }
    };
    hole("ends-with-data", 1 << 20, &[(1 << 20) - 4096]);
    hole("ends-with-a-hole", 1 << 20, &[0]);
    hole("only-a-hole", 1 << 20, &[]);
    hole("many-holes", 4 << 20, &(0..60).map(|n| n * (64 << 10)).collect::<Vec<_>>());
}

#[test]
fn sparse_files_of_gnu_tar_and_bsdtar_are_whole() {
    let app = App::open("sparse", Unit::Usual);
    let tree = sample(&app);
    add_sparse_files(&tree);
    for (name, options) in [
        ("gnu", &["--format=gnu"][..]),
        ("oldgnu", &["--format=oldgnu"]),
        ("pax-0.0", &["--format=pax", "--sparse-version=0.0"]),
        ("pax-0.1", &["--format=pax", "--sparse-version=0.1"]),
        ("pax-1.0", &["--format=pax", "--sparse-version=1.0"]),
    ] {
        let archive = gnu_tar(&app, &tree, &format!("{name}.tar.gz"), &[options, &["--sparse"]].concat());
        assert!(fs::metadata(&archive).unwrap().len() < 64 << 10, "{name} has holes");
        runs(&app, &archive, Oracle::GnuTar);
    }
    let archive = app.dir().join("bsdtar.tar.gz");
    app.run(tool("bsdtar", &tree, &["-c", "-z", "--format", "pax", "-f", text(&archive), "."]));
    runs(&app, &archive, Oracle::Bsdtar);
}

#[test]
fn every_format_of_bsdtar_runs() {
    let app = App::open("bsdtar", Unit::Usual);
    let tree = sample(&app);
    app.run(tool("setfattr", &tree, &["--name=user.note", "--value=kept elsewhere", "run"]));
    for (format, compression) in [("pax", "--zstd"), ("gnutar", "-z"), ("ustar", "-z"), ("v7", "-z")] {
        let archive = app.dir().join(format!("{format}.archive"));
        // The oldest format has no room for long paths.
        let without = if format == "v7" { "./long" } else { "./nothing-of-this-name" };
        let pack = ["-c", compression, "--format", format, "--exclude", without, "-f", text(&archive), "."];
        app.run(tool("bsdtar", &tree, &pack));
        runs(&app, &archive, Oracle::Bsdtar);
    }
}

/// A file in the form `AppleDouble` with an empty Finder record, as macOS keeps what a file has besides its bytes.
fn apple_double() -> Vec<u8> {
    let mut bytes = vec![0x00, 0x05, 0x16, 0x07, 0x00, 0x02, 0x00, 0x00];
    bytes.extend_from_slice(b"Mac OS X        ");
    // One entry: 9, the Finder's, 32 bytes from byte 38 on.
    bytes.extend_from_slice(&[0, 1, 0, 0, 0, 9, 0, 0, 0, 38, 0, 0, 0, 32]);
    bytes.resize(bytes.len() + 32, 0);
    bytes
}

#[test]
fn archives_of_bsdtar_on_macos_run() {
    let app = App::open("macos", Unit::Usual);
    let tree = sample(&app);
    for name in ["._run", "data/._words", "._."] {
        fs::write(tree.join(name), apple_double()).unwrap();
    }
    app.run(tool("setfattr", &tree, &["--name=user.com.apple.quarantine", "--value=0081;65000000;Safari;", "run"]));
    let archive = app.dir().join("bsdtar.tar.gz");
    app.run(tool("bsdtar", &tree, &["-c", "-z", "--format", "pax", "-f", text(&archive), "."]));
    runs(&app, &archive, Oracle::Bsdtar);

    // The records that only bsdtar on macOS writes.
    let headers = r#"{"LIBARCHIVE.creationtime": "1700000000.123", "LIBARCHIVE.xattr.com.apple.provenance": "AQAAAA",
        "SCHILY.xattr.com.apple.provenance": "x", "SCHILY.fflags": "uchg,hidden", "SCHILY.dev": "16777233",
        "SCHILY.ino": "8665432", "SCHILY.nlink": "1"}"#;
    let archive = app.dir().join("records.tar.gz");
    app.run(tool(
        "python3",
        app.dir(),
        &[text(&fixture("python/pack.py")), "PAX", text(&archive), text(&tree), headers],
    ));
    runs(&app, &archive, Oracle::Bsdtar);
}

#[test]
fn every_format_of_pythons_tarfile_runs() {
    let app = App::open("tarfile", Unit::Usual);
    let tree = sample(&app);
    for format in ["PAX", "GNU", "USTAR"] {
        let archive = app.dir().join(format!("{format}.tar.gz"));
        app.run(tool("python3", app.dir(), &[text(&fixture("python/pack.py")), format, text(&archive), text(&tree)]));
        runs(&app, &archive, Oracle::Tarfile);
    }
}

#[test]
fn the_tarball_of_npm_pack_runs() {
    let app = App::open("npm-pack", Unit::Usual);
    let to = ["pack", "--silent", "--pack-destination", text(app.dir())];
    app.run(tool("npm", &fixture("node/printer"), &to));
    let archive = app.dir().join("printer-1.0.0.tgz");
    app.deploy_archive(&archive, &extracted(&app, &archive, Oracle::GnuTar));
    assert_eq!(app.start("./package/cli.js", &["a tarball"]), "a tarball\n");
}

#[test]
fn an_archive_of_git_runs() {
    let app = App::open("git", Unit::Usual);
    let tree = sample(&app);
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=master"];
        app.run(tool("git", &tree, &[&who, args].concat()));
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "Begin"]);
    let archive = app.dir().join("git.tar.gz");
    git(&["archive", "--format=tar.gz", "--output", text(&archive), "HEAD"]);
    runs(&app, &archive, Oracle::GnuTar);
}

#[test]
fn names_in_latin_1_and_names_that_occur_again_run() {
    let app = App::open("names", Unit::Usual);
    let tree = sample(&app);
    fs::write(tree.join(OsStr::from_bytes(b"caf\xe9")), "Latin-1").unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let archive = gnu_tar(&app, &tree, &format!("{format}.tar.gz"), &[&format!("--format={format}")]);
        runs(&app, &archive, Oracle::GnuTar);
    }
    let archive = app.dir().join("bsdtar.tar.gz");
    app.run(tool("bsdtar", &tree, &["-c", "-z", "--format", "pax", "-f", text(&archive), "."]));
    runs(&app, &archive, Oracle::Bsdtar);

    // An archive that was added to: the last of a name counts, whatever the first one was.
    let tar = app.dir().join("again.tar");
    fs::write(tree.join("data/words"), "old words").unwrap();
    fs::write(tree.join("becomes-a-link"), "a file").unwrap();
    symlink("run", tree.join("becomes-a-file")).unwrap();
    app.run(tool("tar", &tree, &["--create", "--file", text(&tar), "."]));
    for name in ["becomes-a-link", "becomes-a-file"] {
        fs::remove_file(tree.join(name)).unwrap();
    }
    symlink("run", tree.join("becomes-a-link")).unwrap();
    fs::write(tree.join("becomes-a-file"), "a file").unwrap();
    fs::write(tree.join("data/words"), PRINTED).unwrap();
    let again = ["./data/words", "./becomes-a-link", "./becomes-a-file", "./data"];
    app.run(tool("tar", &tree, &[&["--append", "--file", text(&tar)], &again[..]].concat()));
    app.run(tool("gzip", app.dir(), &["again.tar"]));
    runs(&app, &app.dir().join("again.tar.gz"), Oracle::GnuTar);
}

#[test]
fn sizes_in_pax_records_and_odd_modes_of_the_root_run() {
    let app = App::open("sizes", Unit::Usual);
    let script = b"#!/bin/sh\necho hello from an archive\n";
    let header = Block { name: b"run", mode: b"0000755", ..Block::default() };
    let size = script.len() as u64;
    // The headers of files above 8 GiB, here of small ones: the size is in a pax record, and the header's field, which has room for
    // 11 digits, is 0 (GNU tar, tarfile), has 12 digits (bsdtar), or is a number in base 256 (bsdtar above 64 GiB).
    let with_size = |field: &[u8]| {
        let mut block = header.bytes();
        block[124..136].copy_from_slice(field);
        seal(block)
    };
    let base_256 = [&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat();
    for (name, block) in [
        ("zero", header.bytes()),
        ("12-digits", with_size(format!("{size:012o}").as_bytes())),
        ("base-256", with_size(&base_256)),
    ] {
        let tar = Tar::new().pax(&[("size", &size.to_string())]).raw(&block).content(script).file("last", b"x").end();
        let archive = app.dir().join(format!("{name}.tar.gz"));
        fs::write(&archive, gzip(&tar)).unwrap();
        runs(&app, &archive, Oracle::Bsdtar);
    }
    let tree = sample(&app);
    for mode in [0o000, 0o500, 0o700, 0o2770, 0o1777] {
        set_mode(&tree, mode);
        let archive = gnu_tar(&app, &tree, &format!("{mode:o}.tar.gz"), &[]);
        set_mode(&tree, 0o755);
        runs(&app, &archive, Oracle::GnuTar);
    }
}
