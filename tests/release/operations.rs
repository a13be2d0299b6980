//! How many file operations a deploy of a prefetched build and a rollback take: strace counts the calls of a real process.

use std::fs;
use std::path::Path;
use std::process::Command;

use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::release::{Checked, Control, LinkTarget, Placed};

use crate::archive::{Tar, build, gzip};
use crate::site::{name, no_links, open, release};

/// The directory that a test shares with the process that it starts.
const DIR: &str = "CUTOVER_TEST_OPERATIONS_DIR";
/// The system calls on files that count.
const COUNTED: &str =
    "trace=%file,close,fchmod,fdatasync,fsync,ftruncate,getdents64,pread64,pwrite64,read,syncfs,write";
/// The steps, in their order. Each begins with a look at a file of its name, which is not there.
const STEPS: [&str; 4] = ["/step-prepare", "/step-switch", "/step-rollback", "/step-check"];
const END: &str = "/step-end";

/// The builds of both releases, with so many files.
fn stage(dir: &Path, files: usize) {
    let site = open(dir);
    for artifact in ["master-1", "master-2"] {
        let tar = (0..files).fold(Tar::new(), |tar, file| tar.file(&format!("{}/{file}", file / 100), b"content"));
        let packed = gzip(&tar.end());
        let limits = Limits { bytes: 1 << 20, entries: 10_000 };
        let build = build(artifact, &packed, limits);
        site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    }
}

#[test]
#[ignore = "started by another test, which counts its system calls"]
fn deploying_two_releases_and_going_back() {
    let dir = std::env::var_os(DIR).unwrap_or_else(|| panic!("another test starts this one"));
    let site = open(Path::new(&dir));
    let staged = site.staged().unwrap();
    let begin = |step: &str| assert!(fs::symlink_metadata(step).is_err());
    let [first, second] = [0, 1].map(|at: usize| {
        let staged = &staged[at];
        let build = build(staged.artifact.as_str(), b"", Limits { bytes: 0, entries: 0 });
        let mut release = release(&build, at as u64 + 1);
        release.sha256 = staged.sha256.clone();
        release
    });
    let prepare = |release| {
        assert_eq!(site.place(release, &no_links()).unwrap(), Placed::New);
        site.seal(&release.release).unwrap();
    };
    let switch = |n| site.switch(&LinkTarget::Release(name(n))).unwrap();
    prepare(&first);
    switch(1);
    begin(STEPS[0]);
    prepare(&second);
    begin(STEPS[1]);
    switch(2);
    begin(STEPS[2]);
    assert_eq!(site.place(&first, &no_links()).unwrap(), Placed::Existing);
    switch(1);
    begin(STEPS[3]);
    assert_eq!(site.check(&name(2), &Control::default()).unwrap(), Checked::AsMade);
    begin(END);
}

/// The number of operations of each step.
fn operations(files: usize) -> [usize; STEPS.len()] {
    let dir = tempfile::tempdir().unwrap();
    stage(dir.path(), files);
    let log = dir.path().join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--signal=none", "-e", COUNTED, "-o"]).arg(&log).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "--include-ignored", "operations::deploying_two_releases_and_going_back"]);
    let output =
        command.env(DIR, dir.path()).output().unwrap_or_else(|e| panic!("strace: {e}; run scripts/setup tests"));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    let calls = fs::read_to_string(&log).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    let at = |step: &str| calls.iter().position(|call| call.contains(&format!("\"{step}\""))).unwrap();
    let ends = [STEPS[1], STEPS[2], STEPS[3], END];
    [0, 1, 2, 3].map(|step| at(ends[step]) - at(STEPS[step]))
}

/// Only the check of a release that lay on the disk looks at each file: see `cutover::release::check`.
#[test]
fn a_deploy_of_a_prefetched_build_and_a_rollback_take_as_many_operations_for_any_size() {
    let [small, large] = [10, 1_000].map(operations);
    assert_eq!(small[..3], large[..3], "prepare, switch, rollback");
    // One look at each file, and the list of them.
    let more = large[3] - small[3];
    assert!((990..1_100).contains(&more), "a check of 990 more files took {more} more operations");
}
