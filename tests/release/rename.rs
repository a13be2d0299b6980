//! Filesystems whose rename cannot refuse to replace, as NFS, 9p, Gluster and older ZFS: strace lets the call fail for a real
//! process.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cutover::plan::retention::Keep;
use cutover::release::{Discarded, Placed};

use crate::site::{epoch, name, names, no_links, open, release, stage};

/// The directory that a test shares with the process that it starts.
const DIR: &str = "CUTOVER_TEST_RENAME_DIR";

/// Runs a test of this program in a process in which system calls fail.
fn traced(strace: &[&str], test: &str, dir: &Path) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"]).args(strace);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "--include-ignored", test]).env(DIR, dir);
    command.output().unwrap_or_else(|error| panic!("strace: {error}; run scripts/setup tests"))
}

fn assert_passes(strace: &[&str], test: &str, dir: &Path) {
    let output = traced(strace, test, dir);
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{strace:?} {test}: {printed}{errors}");
}

fn shared_dir() -> PathBuf {
    std::env::var_os(DIR).unwrap_or_else(|| panic!("another test starts this one")).into()
}

#[test]
fn releases_are_placed_and_never_replaced_without_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    for error in ["EINVAL", "ENOSYS", "EOPNOTSUPP"] {
        let strace = ["-e", &format!("inject=renameat2:error={error}")];
        for test in [
            "site::a_placed_release_has_its_revision_and_its_shared_paths",
            "site::a_release_is_never_placed_over_something_else",
            "site::an_unfinished_release_is_made_again_by_the_same_or_a_later_epoch",
            "site::a_record_that_was_only_begun_does_not_make_a_foreign_directory_ours",
            "switch::a_current_that_is_no_link_is_refused_and_not_touched",
        ] {
            assert_passes(&strace, test, dir.path());
        }
    }
}

#[test]
#[ignore = "started by another test, with system calls that fail"]
fn placing_the_first_release() {
    let site = open(&shared_dir());
    let release = release(&stage(&site, "master-1"), 1);
    let _killed = site.place(&release, &no_links());
}

/// The name is taken, and the agent is killed before the release has it.
#[test]
fn a_kill_between_taking_the_name_and_the_rename_is_recovered() {
    for recover in ["place", "discard", "prune"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("releases").join(name(1).as_str());
        let strace = [
            "-P",
            path.to_str().unwrap(),
            "-e",
            "inject=renameat2:error=EINVAL",
            "-e",
            "inject=rename,renameat:error=EIO:signal=KILL",
        ];
        let output = traced(&strace, "rename::placing_the_first_release", dir.path());
        assert!(!output.status.success(), "it was not killed: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(fs::read_dir(&path).expect("the name is taken").count(), 0);
        let site = open(dir.path());
        let record = site.record(&name(1)).unwrap().unwrap();
        let tree = fs::metadata(dir.path().join(".cutover/staged/master-1")).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), tree.ino());
        match recover {
            "place" => {
                let release = release(&stage(&site, "master-1"), 1);
                assert_eq!(site.place(&release, &no_links()).unwrap(), Placed::New);
                assert!(path.join("app").exists());
            }
            "discard" => {
                assert_eq!(site.discard(&name(1), epoch(1)).unwrap(), Discarded::Removed);
                assert!(!path.exists());
            }
            _ => {
                assert_eq!(site.prune(Keep::releases(0), &BTreeSet::new()).unwrap(), [name(1)]);
                assert!(!path.exists());
            }
        }
        assert_eq!(record.created_by, epoch(1));
        assert_eq!(names(&dir.path().join(".cutover/tmp")), Vec::<String>::new());
    }
}

#[test]
#[ignore = "started by another test, with system calls that fail"]
fn checking_a_disk_that_cannot_rename_directories() {
    let site = open(&shared_dir());
    let fault = site.preflight_switch().unwrap_err();
    assert!(fault.reason.contains("cannot rename a directory from"), "{fault}");
    assert!(fault.reason.contains("Invalid argument") && fault.reason.contains("/releases"), "{fault}");
}

#[test]
fn a_disk_that_cannot_rename_directories_is_refused_before_a_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let strace = ["-e", "inject=renameat2,rename,renameat:error=EINVAL"];
    assert_passes(&strace, "rename::checking_a_disk_that_cannot_rename_directories", dir.path());
    let left = [names(&dir.path().join("releases")), names(&dir.path().join(".cutover/staged"))].concat();
    assert_eq!(left, Vec::<String>::new());
    // One that was killed in its check leaves an empty directory for the next start to remove.
    fs::create_dir(dir.path().join("releases/.cutover-probe-1")).unwrap();
    fs::create_dir_all(dir.path().join("releases/.cutover-probe-2/not-ours")).unwrap();
    drop(open(dir.path()));
    assert_eq!(names(&dir.path().join("releases")), [".cutover-probe-2"]);
}
