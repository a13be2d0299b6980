//! Packing and inspecting, held against the system's `tar`.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cutover::artifact::{GitDir, LeftOut, Mtimes, PackError, Packing, Tree, Watch, inspect};
use cutover::kind::HasKind;
use cutover::plan::unpack::LinkPolicy;
use cutover::protocol::ids::Sha256;
use cutover::protocol::record::ArchiveFormat;

use tokio_util::sync::CancellationToken;

use crate::{digest, noise, write};

const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::TarGz, ArchiveFormat::TarZst];

/// The time of the commit, 2020-09-13.
const COMMIT_SECS: u64 = 1_600_000_000;

const PACKING: Packing = Packing { mtimes: Mtimes::All(COMMIT_SECS), links: LinkPolicy::Inside, git: GitDir::LeaveOut };

/// What is known of a packed tree.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    sha256: Sha256,
    tree: Sha256,
    packed_bytes: u64,
    unpacked_bytes: u64,
    entries: u64,
    left_out: LeftOut,
}

fn packed(dir: &Path, format: ArchiveFormat) -> Result<(Vec<u8>, Facts), PackError> {
    packed_as(dir, &PACKING, format)
}

fn packed_as(dir: &Path, packing: &Packing, format: ArchiveFormat) -> Result<(Vec<u8>, Facts), PackError> {
    let (read, stop, mut archive) = (AtomicU64::new(0), CancellationToken::new(), Vec::new());
    let watch = Watch { read: &read, stop: &stop };
    let tree = Tree::scan(dir, packing, watch)?;
    let packed = tree.pack(format, &mut archive, watch)?;
    let facts = Facts {
        sha256: packed.sha256,
        tree: tree.digest().clone(),
        packed_bytes: packed.packed_bytes,
        unpacked_bytes: tree.totals().bytes,
        entries: tree.totals().entries,
        left_out: tree.left_out().clone(),
    };
    Ok((archive, facts))
}

/// One tree, made in one or the other order, with one or the other age.
fn tree(reversed: bool) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    fs::create_dir_all(dir.join("public/assets")).unwrap();
    fs::create_dir_all(dir.join("empty")).unwrap();
    let long = format!("public/{}", "x".repeat(180));
    let odd = OsStr::from_bytes(b"odd-\xff-name");
    let mut files = vec![
        (dir.join("a-file"), noise(5000)),
        (dir.join("a"), Vec::new()),
        (dir.join("run.sh"), b"#!/bin/sh\n".to_vec()),
        (dir.join("public/assets/site.css"), noise(300_000)),
        (dir.join(long), b"long".to_vec()),
        (dir.join(odd), b"odd".to_vec()),
    ];
    if reversed {
        files.reverse();
    }
    for (path, content) in &files {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, Permissions::from_mode(if path.ends_with("a") { 0o600 } else { 0o644 })).unwrap();
        if reversed {
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        }
    }
    fs::set_permissions(dir.join("run.sh"), Permissions::from_mode(0o4755)).unwrap();
    for (name, mode) in [("empty", 0o2550), ("public", 0o755), ("public/assets", 0o755)] {
        fs::set_permissions(dir.join(name), Permissions::from_mode(mode)).unwrap();
    }
    symlink("assets/site.css", dir.join("public/style")).unwrap();
    symlink("../a", dir.join("public/up")).unwrap();
    fs::hard_link(dir.join("a-file"), dir.join("hard")).unwrap();
    root
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let (one, other) = (tree(false), tree(true));
    for format in FORMATS {
        let (archive, packed_one) = packed(one.path(), format).unwrap();
        let (again, packed_other) = packed(other.path(), format).unwrap();
        assert!(archive == again, "{format:?} differs");
        assert_eq!(packed_one, packed_other);
        assert_eq!(packed_one.sha256.as_str(), digest(&archive));
        assert_eq!(packed_one.packed_bytes, archive.len() as u64);
    }
}

#[test]
fn both_steps_count_the_bytes_read_and_can_be_stopped() {
    let (dir, read, stop) = (tree(false), AtomicU64::new(0), CancellationToken::new());
    let watch = Watch { read: &read, stop: &stop };
    let tree = Tree::scan(dir.path(), &PACKING, watch).unwrap();
    assert_eq!(read.swap(0, Ordering::Relaxed), tree.totals().bytes);
    tree.pack(ArchiveFormat::TarZst, std::io::sink(), watch).unwrap();
    assert_eq!(read.load(Ordering::Relaxed), tree.totals().bytes);
    stop.cancel();
    assert_eq!(tree.pack(ArchiveFormat::TarZst, std::io::sink(), watch).unwrap_err().kind(), "stopped");
    assert_eq!(Tree::scan(dir.path(), &PACKING, watch).unwrap_err().kind(), "stopped");
}

/// The digest of the tree is known before the archive, so each difference in the archive must be one in the digest.
#[test]
fn the_digest_of_a_tree_differs_with_all_that_is_packed_and_with_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("file"), "one").unwrap();
    symlink("file", at("link")).unwrap();
    let found = || {
        let own = Packing { mtimes: Mtimes::Own, ..PACKING };
        let (archive, facts) = packed_as(dir.path(), &own, ArchiveFormat::TarGz).unwrap();
        (digest(&archive), facts.tree)
    };
    let modified = |name: &str, secs: u64| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        File::open(at(name)).unwrap().set_modified(time).unwrap();
    };
    let changes: [(&str, &dyn Fn()); 7] = [
        ("content", &|| fs::write(at("file"), "two").unwrap()),
        ("mode", &|| fs::set_permissions(at("file"), Permissions::from_mode(0o600)).unwrap()),
        ("mode of a directory", &|| fs::set_permissions(at("sub"), Permissions::from_mode(0o700)).unwrap()),
        ("target", &|| {
            fs::remove_file(at("link")).unwrap();
            symlink("sub", at("link")).unwrap();
        }),
        ("kind", &|| {
            fs::remove_dir(at("sub")).unwrap();
            fs::write(at("sub"), "").unwrap();
        }),
        ("name", &|| rustix::fs::rename(at("file"), at("name")).unwrap()),
        ("time", &|| modified("name", 1_000_000_000)),
    ];
    let mut before = found();
    for (what, change) in changes {
        change();
        let after = found();
        assert_ne!(before.0, after.0, "{what}");
        assert_ne!(before.1, after.1, "{what}");
        before = after;
    }
    fs::hard_link(at("name"), tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap().path().join("other"))
        .unwrap();
    assert_eq!(found(), before, "another name elsewhere");
}

#[test]
fn a_file_that_changes_between_the_two_steps_is_refused() {
    let (read, stop) = (AtomicU64::new(0), CancellationToken::new());
    let watch = Watch { read: &read, stop: &stop };
    let change: [&dyn Fn(&Path); 6] = [
        &|file| fs::write(file, "longer").unwrap(),
        &|file| {
            // The same file with other content of the same size and time, as `rsync --inplace --times` leaves it.
            let time = fs::metadata(file).unwrap().modified().unwrap();
            fs::write(file, "two").unwrap();
            File::open(file).unwrap().set_modified(time).unwrap();
        },
        &|file| File::open(file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(),
        &|file| {
            // Another file of the same size and time.
            let time = fs::metadata(file).unwrap().modified().unwrap();
            let other = file.with_file_name("other");
            fs::write(&other, "two").unwrap();
            File::open(&other).unwrap().set_modified(time).unwrap();
            rustix::fs::rename(other, file).unwrap();
        },
        &|file| {
            rustix::fs::rename(file, file.with_file_name("moved")).unwrap();
            symlink("moved", file).unwrap();
        },
        &|file| {
            fs::remove_file(file).unwrap();
            assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
        },
    ];
    for (number, change) in change.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), "file", b"one");
        let tree = Tree::scan(dir.path(), &PACKING, watch).unwrap();
        change(&file);
        let error = tree.pack(ArchiveFormat::TarGz, std::io::sink(), watch).unwrap_err();
        assert_eq!(error.kind(), "changed", "{number}: {error}");
    }
}

/// `tar`, in one language and time zone.
fn tar(arguments: &[&OsStr]) -> String {
    let output = Command::new("tar").args(arguments).env("LC_ALL", "C").env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn tar_reads_what_is_packed() {
    let (dir, out) = (tree(false), tempfile::tempdir().unwrap());
    let (archive, counted) = packed(dir.path(), ArchiveFormat::TarGz).unwrap();
    let file = write(out.path(), "archive.tar.gz", &archive);
    let listing = tar(&["--numeric-owner".as_ref(), "-tvzf".as_ref(), file.as_os_str()]);
    let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len() as u64, counted.entries);
    assert!(lines.iter().all(|line| line[1] == "0/0" && line[3] == "2020-09-13"), "{listing}");
    let seen: Vec<(&str, &str)> = lines.iter().map(|line| (line[0], line[5])).collect();
    let long = format!("public/{}", "x".repeat(180));
    let expected = [
        ("-rw-------", "a"),
        ("-rw-r--r--", "a-file"),
        ("drwxr-x---", "empty/"),
        ("-rw-r--r--", "hard"),
        ("-rw-r--r--", "odd-\\377-name"),
        ("drwxr-xr-x", "public/"),
        ("drwxr-xr-x", "public/assets/"),
        ("-rw-r--r--", "public/assets/site.css"),
        ("lrwxrwxrwx", "public/style"),
        ("lrwxrwxrwx", "public/up"),
        ("-rw-r--r--", &long),
        ("-rwxr-xr-x", "run.sh"),
    ];
    assert_eq!(seen, expected);

    let unpacked = out.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    tar(&["-xzf".as_ref(), file.as_os_str(), "-C".as_ref(), unpacked.as_os_str()]);
    let compared =
        Command::new("diff").args(["-r", "--no-dereference"]).args([dir.path(), &unpacked]).output().unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
}

/// Runs a tool on an archive.
fn succeeds(tool: &str, arguments: &[&OsStr]) {
    let output = Command::new(tool).args(arguments).output().unwrap();
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A release of more than one block is several gzip members, or zstd frames.
#[test]
fn every_common_tool_reads_an_archive_of_several_blocks() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(dir.path(), "noise", &noise(9 << 20));
    write(dir.path(), "text", "some text\n".repeat(1 << 20).as_bytes());
    let python = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])";
    // Python reads zstd from 3.14 on.
    let of_format: [(ArchiveFormat, &[&[&str]]); 2] = [
        (ArchiveFormat::TarGz, &[&["gzip", "-t"], &["tar", "-xzf"], &["bsdtar", "-xf"], &["python3", "-c", python]]),
        (ArchiveFormat::TarZst, &[&["zstd", "-t", "-q"], &["tar", "--zstd", "-xf"], &["bsdtar", "-xf"]]),
    ];
    for (format, tools) in of_format {
        let (archive, _) = packed(dir.path(), format).unwrap();
        // gzip tests only files with its own extension.
        let file = write(out.path(), "archive.gz", &archive);
        for tool in tools {
            let to = tempfile::tempdir().unwrap();
            let (name, mut arguments) = (tool[0], tool[1..].iter().map(OsStr::new).collect::<Vec<_>>());
            arguments.push(file.as_os_str());
            match name {
                "gzip" | "zstd" => {}
                "python3" => arguments.push(to.path().as_os_str()),
                _ => arguments.extend(["-C".as_ref(), to.path().as_os_str()]),
            }
            succeeds(name, &arguments);
            if !tool.contains(&"-t") {
                succeeds("diff", &["-r".as_ref(), dir.path().as_os_str(), to.path().as_os_str()]);
            }
        }
    }
}

#[test]
fn inspecting_agrees_with_packing() {
    let (dir, out) = (tree(false), tempfile::tempdir().unwrap());
    for format in FORMATS {
        let (archive, packed) = packed(dir.path(), format).unwrap();
        let found = inspect(&write(out.path(), "archive", &archive), LinkPolicy::Inside).unwrap();
        assert_eq!(found.format, format);
        assert_eq!(found.sha256, packed.sha256);
        assert_eq!(found.packed_bytes, packed.packed_bytes);
        assert_eq!(found.unpacked_bytes, packed.unpacked_bytes);
        assert_eq!(found.entries, packed.entries);
    }
}

#[test]
fn plain_tar_is_counted_by_entries_whatever_its_dialect() {
    let (dir, out) = (tree(false), tempfile::tempdir().unwrap());
    let (_, packed) = packed(dir.path(), ArchiveFormat::TarGz).unwrap();
    let file = out.path().join("plain.tar.gz");
    for dialect in ["--format=gnu", "--format=pax"] {
        tar(&[dialect.as_ref(), "-czf".as_ref(), file.as_ref(), "-C".as_ref(), dir.path().as_ref(), ".".as_ref()]);
        let found = inspect(&file, LinkPolicy::Inside).unwrap();
        assert_eq!(found.entries, packed.entries, "{dialect}: the root is not counted");
        // The second name of the file with two is a link in tar's own archives.
        assert_eq!(found.unpacked_bytes, packed.unpacked_bytes - 5000, "{dialect}");
        assert_eq!(found.packed_bytes, fs::metadata(&file).unwrap().len());
    }
}

#[test]
fn a_damaged_archive_is_found_wherever_the_damage_is() {
    let (dir, out) = (tree(false), tempfile::tempdir().unwrap());
    for format in FORMATS {
        let (archive, _) = packed(dir.path(), format).unwrap();
        for at in [100, archive.len() / 2, archive.len() - 1] {
            let cut = inspect(&write(out.path(), "cut", &archive[..at]), LinkPolicy::Inside).unwrap_err();
            assert_eq!(cut.kind(), "damaged", "{format:?} cut at {at}");
            let mut flipped = archive.clone();
            flipped[at] ^= 0x10;
            let flipped = inspect(&write(out.path(), "flipped", &flipped), LinkPolicy::Inside).unwrap_err();
            assert_eq!(flipped.kind(), "damaged", "{format:?} changed at {at}");
        }
    }
    assert_eq!(
        inspect(&write(out.path(), "zip", b"PK\x03\x04"), LinkPolicy::Inside).unwrap_err().kind(),
        "unknown_format"
    );
    assert_eq!(inspect(&write(out.path(), "empty", b""), LinkPolicy::Inside).unwrap_err().kind(), "unknown_format");
    assert_eq!(inspect(&out.path().join("missing"), LinkPolicy::Inside).unwrap_err().kind(), "read");
}

#[test]
fn links_that_leave_the_tree_are_refused_by_name() {
    for (at, target) in [
        ("link", "/etc/passwd"),
        ("link", "../x"),
        ("sub/link", "../../x"),
        ("sub/link", "../sub/../../x"),
        ("link", "sub/../../x"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        symlink(target, dir.path().join(at)).unwrap();
        let error = packed(dir.path(), ArchiveFormat::TarGz).unwrap_err();
        assert_eq!(error.kind(), "refused");
        let text = error.to_string();
        assert!([at, target, "--links any", "links = \"any\""].iter().all(|word| text.contains(word)), "{text}");
        packed_as(dir.path(), &Packing { links: LinkPolicy::Any, ..PACKING }, ArchiveFormat::TarGz).unwrap();
    }
}

#[test]
fn a_revision_that_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("REVISION")).unwrap();
    let error = packed(dir.path(), ArchiveFormat::TarGz).unwrap_err();
    assert!(error.to_string().contains("in the place of REVISION"), "{error}");
}

#[test]
fn without_a_time_for_all_each_file_keeps_its_own() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = File::create(dir.path().join("file")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    let own = Packing { mtimes: Mtimes::Own, ..PACKING };
    let (archive, _) = packed_as(dir.path(), &own, ArchiveFormat::TarGz).unwrap();
    let listing = tar(&["-tvzf".as_ref(), write(out.path(), "a.tar.gz", &archive).as_os_str()]);
    assert!(listing.contains("2001-09-09"), "{listing}");
}

#[test]
fn git_and_what_the_ignore_file_names_are_left_out_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".git", "logs", "sub", "sub/.git"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    for name in [".git/config", "logs/a", "sub/.git/config", "sub/b.log", "keep.log", "c"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    fs::write(dir.path().join(".cutoverignore"), "# not shipped\n*.log\n!keep.log\n/logs/\n").unwrap();
    let (_, found) = packed(dir.path(), ArchiveFormat::TarGz).unwrap();
    let listed: Vec<&str> = found.left_out.listed.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!((listed, found.left_out.count), (vec![".git", "logs", "sub/b.log"], 3));
    assert_eq!(found.entries, 6, ".cutoverignore, c, keep.log, sub, sub/.git, sub/.git/config");
    let with_git = Packing { git: GitDir::Pack, ..PACKING };
    let (_, found) = packed_as(dir.path(), &with_git, ArchiveFormat::TarGz).unwrap();
    assert_eq!((found.left_out.count, found.entries), (2, 8));
    // A checkout of a submodule or a worktree has a file there.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".git"), "gitdir: ../x").unwrap();
    assert_eq!(packed(dir.path(), ArchiveFormat::TarGz).unwrap().1.entries, 0);
    for n in 0..30 {
        fs::write(dir.path().join(format!("{n}.log")), "").unwrap();
    }
    fs::write(dir.path().join(".cutoverignore"), "*.log").unwrap();
    let left_out = packed(dir.path(), ArchiveFormat::TarGz).unwrap().1.left_out;
    assert_eq!((left_out.listed.len(), left_out.count), (20, 31));
}

#[test]
fn sockets_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let _socket = UnixListener::bind(dir.path().join("app.sock")).unwrap();
    let error = packed(dir.path(), ArchiveFormat::TarGz).unwrap_err();
    assert!(error.to_string().contains("app.sock is a socket; only files, directories and links can be packed"));
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "file", b"x");
    assert_eq!(packed(&file, ArchiveFormat::TarGz).unwrap_err().kind(), "not_a_directory");
    assert_eq!(packed(&dir.path().join("missing"), ArchiveFormat::TarGz).unwrap_err().kind(), "read");
}

#[test]
fn a_file_with_more_in_it_than_its_size_says_is_refused() {
    // The kernel's files say that they are empty and give bytes, as a file does that grows while it is packed.
    let error = packed(Path::new("/proc/sys/kernel/random"), ArchiveFormat::TarGz).unwrap_err();
    assert_eq!(error.kind(), "changed", "{error}");
}
