//! Opening, staging, placing, sealing, discarding, pruning.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cutover::plan::retention::{Keep, RunResult};
use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::protocol::ids::{Epoch, ReleaseName};
use cutover::protocol::record::{Build, Fault, MAX_REASON_BYTES, Release, Step};
use cutover::release::{Control, Discarded, LinkTarget, Links, Placed, Site, SiteError, StageFault};

use cutover_rig::build::sample;

use crate::archive::{Block, Tar, build, gzip};
use crate::confine::OtherThread;

pub(crate) const SMALL: Limits = Limits { bytes: 1 << 20, entries: 20 };

pub(crate) fn open(dir: &Path) -> Site {
    Site::open(dir).unwrap()
}

pub(crate) fn name(n: u64) -> ReleaseName {
    format!("{n:014}").parse().unwrap()
}

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch { era: 0, number }
}

pub(crate) fn release(build: &Build, number: u64) -> Release {
    Release {
        epoch: epoch(number),
        artifact: build.artifact.clone(),
        sha256: build.sha256.clone(),
        release: name(number),
    }
}

/// A build with a few files, and its archive.
pub(crate) fn app(artifact: &str) -> (Build, Vec<u8>) {
    let tar = Tar::new()
        .dir("./")
        .file("./app", artifact.as_bytes())
        .file("./REVISION", b"the archive's own")
        .file("./log/old", b"from the archive")
        .file("./config/app.toml", b"x")
        .end();
    let packed = gzip(&tar);
    (build(artifact, &packed, SMALL), packed)
}

pub(crate) fn stage(site: &Site, artifact: &str) -> Build {
    let (build, packed) = app(artifact);
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    build
}

pub(crate) fn no_links() -> Links {
    Links::default()
}

/// Stages, places and seals; as the agent does it for a deploy without hooks.
pub(crate) fn deploy(site: &Site, number: u64) -> Release {
    let release = release(&stage(site, &format!("master-{number}")), number);
    assert_eq!(site.place(&release, &no_links()).unwrap(), Placed::New);
    site.seal(&release.release).unwrap();
    release
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn scratch(dir: &Path) -> Vec<String> {
    names(&dir.join(".cutover/tmp"))
}

#[test]
fn a_second_agent_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let Err(SiteError::Locked { pid, .. }) = Site::open(dir.path()) else { panic!("opened twice") };
    assert_eq!(pid, std::process::id().to_string());
    drop(site);
    open(dir.path());
}

#[test]
fn opening_makes_the_layout_and_removes_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir.path().join("new/shop")));
    let root = dir.path().join("new/shop");
    assert_eq!(names(&root), [".cutover", "releases", "shared"]);
    fs::create_dir_all(root.join(".cutover/tmp/stage-1/deep")).unwrap();
    symlink("nowhere", root.join(".current.0123")).unwrap();
    fs::write(root.join(".current.is-a-file"), "not ours").unwrap();
    drop(open(&root));
    assert_eq!(scratch(&root), Vec::<String>::new());
    assert_eq!(names(&root), [".current.is-a-file", ".cutover", "releases", "shared"]);
}

#[test]
fn a_staged_build_is_whole_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let build = stage(&site, "master-15e9f13a");
    assert!(site.is_staged(&build.artifact, &build.sha256).unwrap());
    let staged = site.staged().unwrap();
    assert_eq!(staged.len(), 1);
    assert_eq!(staged[0].artifact, build.artifact);
    assert_eq!(staged[0].sha256, build.sha256);
    assert_eq!(fs::read(dir.path().join(".cutover/staged/master-15e9f13a/app")).unwrap(), b"master-15e9f13a");
    // Again: the source is not even read.
    let unread = |_: &mut [u8]| -> io::Result<usize> { panic!("read again") };
    site.stage(&build, LinkPolicy::Inside, Reader(unread), &Control::default()).unwrap();
    assert_eq!(scratch(dir.path()), Vec::<String>::new());
    drop(site);
    assert!(open(dir.path()).is_staged(&build.artifact, &build.sha256).unwrap());
}

struct Reader<F>(F);

impl<F: FnMut(&mut [u8]) -> io::Result<usize>> io::Read for Reader<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (self.0)(buf)
    }
}

#[test]
fn a_tree_without_its_note_or_a_note_without_its_tree_is_not_staged() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let build = stage(&site, "master-1");
    let note = dir.path().join(".cutover/staged/.master-1.json");
    let text = fs::read(&note).unwrap();
    fs::write(&note, "torn").unwrap();
    assert!(!site.is_staged(&build.artifact, &build.sha256).unwrap());
    assert_eq!(site.staged().unwrap(), []);
    fs::write(&note, text).unwrap();
    fs::remove_dir_all(dir.path().join(".cutover/staged/master-1")).unwrap();
    assert!(!site.is_staged(&build.artifact, &build.sha256).unwrap());
    stage(&site, "master-1");
    assert!(site.is_staged(&build.artifact, &build.sha256).unwrap());
    // What is not whole is no use to anybody, and a starting agent removes it.
    stage(&site, "master-2");
    stage(&site, "master-3");
    fs::remove_file(dir.path().join(".cutover/staged/.master-2.json")).unwrap();
    fs::remove_dir_all(dir.path().join(".cutover/staged/master-3")).unwrap();
    drop(site);
    open(dir.path());
    assert_eq!(names(&dir.path().join(".cutover/staged")), [".master-1.json", "master-1"]);
}

#[test]
fn a_failed_stage_names_its_step_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (build, packed) = app("master-1");
    let fault = |build: &Build, source: &[u8]| -> StageFault {
        site.stage(build, LinkPolicy::Inside, source, &Control::default()).expect_err("a bad archive was staged")
    };
    let mut other = packed.clone();
    other[20] ^= 1;
    let hostile = gzip(&Tar::new().file(&format!("../{}", "x".repeat(90)), b"x").end());
    let huge = Build { unpacked_bytes: u64::MAX / 2, ..build.clone() };
    let inodes = Build { entries: u64::MAX / 8192, ..build.clone() };
    let failing = Reader(|_: &mut [u8]| Err(io::Error::from(io::ErrorKind::ConnectionReset)));
    let canceled = Control::default();
    canceled.cancel();
    for (fault, step, text) in [
        (fault(&build, &other), Step::Verify, "SHA-256"),
        (fault(&build, &packed[..50]), Step::Verify, "bytes"),
        (fault(&crate::archive::build("master-1", &hostile, SMALL), &hostile), Step::Unpack, "../xxx"),
        (fault(&huge, &packed), Step::Unpack, "are free"),
        (fault(&inodes, &packed), Step::Unpack, "are free"),
        (site.stage(&build, LinkPolicy::Inside, failing, &Control::default()).unwrap_err(), Step::Fetch, "reset"),
        (site.stage(&build, LinkPolicy::Inside, &packed[..], &canceled).unwrap_err(), Step::Fetch, "canceled"),
    ] {
        assert_eq!(fault.step, step, "{fault}");
        assert!(fault.reason.contains(text) && fault.reason.len() <= MAX_REASON_BYTES, "{fault}");
        assert_eq!(Fault::from(fault.clone()).reason, fault.reason);
        assert_eq!(names(&dir.path().join(".cutover/staged")), Vec::<String>::new());
        assert_eq!(scratch(dir.path()), Vec::<String>::new());
    }
}

#[test]
fn unstaging_and_pruning_what_is_staged() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let builds: Vec<_> = (1..=4).map(|n| stage(&site, &format!("master-{n}")).artifact).collect();
    site.unstage(&builds[0]).unwrap();
    site.unstage(&builds[0]).unwrap();
    assert_eq!(site.prune_staged(&builds[2..3]).unwrap(), [builds[1].clone(), builds[3].clone()]);
    assert_eq!(names(&dir.path().join(".cutover/staged")), [".master-3.json", "master-3"]);
}

#[test]
fn a_placed_release_has_its_revision_and_its_shared_paths() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    fs::create_dir_all(dir.path().join("shared/config")).unwrap();
    fs::write(dir.path().join("shared/config/app.toml"), "shared").unwrap();
    let build = stage(&site, "master-1");
    let release = release(&build, 7);
    let links = Links::new(&["log".to_owned(), "tmp/pids".to_owned()], &["config/app.toml".to_owned()]).unwrap();
    assert_eq!(site.place(&release, &links).unwrap(), Placed::New);
    let path = site.release_path(&release.release);
    assert_eq!(fs::read_to_string(path.join("REVISION")).unwrap(), format!("{}\n", sample().commit));
    assert_eq!(fs::read_link(path.join("log")).unwrap(), Path::new("../../shared/log"));
    assert_eq!(fs::read_link(path.join("tmp/pids")).unwrap(), Path::new("../../../shared/tmp/pids"));
    assert_eq!(fs::read_to_string(path.join("config/app.toml")).unwrap(), "shared");
    fs::write(path.join("log/new"), "x").unwrap();
    assert_eq!(
        names(&dir.path().join("shared/log")),
        ["new", "old"],
        "a missing directory gets the archive's own files"
    );
    // It counts only when it is sealed.
    assert!(!site.holds(&release).unwrap());
    site.seal(&release.release).unwrap();
    assert!(site.holds(&release).unwrap());
    assert_eq!(site.place(&release, &links).unwrap(), Placed::Existing);
    let rollback = Release { epoch: epoch(9), ..release.clone() };
    assert_eq!(site.place(&rollback, &links).unwrap(), Placed::Existing);
    assert!(!site.is_staged(&build.artifact, &build.sha256).unwrap());
    assert_eq!(site.staged().unwrap(), []);
    let record = site.record(&release.release).unwrap().unwrap();
    assert_eq!(record.created_by, epoch(7));
    assert_eq!(record.commit, sample().commit);
    assert_eq!(site.newest_release().unwrap(), Some(name(7)));
    assert!(site.free_bytes().unwrap() > 0);
}

#[test]
fn a_missing_shared_file_is_named_and_the_staged_build_stays() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = release(&stage(&site, "master-1"), 1);
    let links = Links::new(&[], &[".env".to_owned()]).unwrap();
    let fault = site.place(&release, &links).unwrap_err();
    assert_eq!(fault.step, Step::Link);
    assert!(fault.reason.contains(".env") && fault.reason.contains("put the file there"), "{fault}");
    assert_eq!(names(&dir.path().join("releases")), Vec::<String>::new());
    fs::write(dir.path().join("shared/.env"), "SECRET=1").unwrap();
    assert_eq!(site.place(&release, &links).unwrap(), Placed::New);
    assert_eq!(fs::read_to_string(site.release_path(&release.release).join(".env")).unwrap(), "SECRET=1");
}

#[test]
fn links_never_leave_a_release_through_its_own_links() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let packed = gzip(&Tar::new().dir("real/").file("real/log", b"x").link("tmp", "real").end());
    let build = build("master-1", &packed, SMALL);
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    let links = Links::new(&["tmp/log".to_owned()], &[]).unwrap();
    assert_eq!(site.place(&release(&build, 1), &links).unwrap_err().step, Step::Link);
    assert_eq!(fs::read(dir.path().join("releases").join(name(1).as_str()).join("real/log")).unwrap(), b"x");
}

#[test]
fn an_unfinished_release_is_made_again_by_the_same_or_a_later_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = Release { epoch: epoch(2), ..release(&stage(&site, "master-1"), 1) };
    site.place(&release, &no_links()).unwrap();
    let path = site.release_path(&release.release);
    fs::write(path.join("half"), "of the prepare hook").unwrap();
    drop(site);
    let site = open(dir.path());
    assert!(!site.holds(&release).unwrap());
    stage(&site, "master-1");
    let older = Release { epoch: epoch(1), ..release.clone() };
    assert!(site.place(&older, &no_links()).unwrap_err().reason.contains("unfinished"));
    assert_eq!(site.place(&release, &no_links()).unwrap(), Placed::New);
    assert!(!path.join("half").exists());
    stage(&site, "master-1");
    // A rollback that ended early is followed by another one to the same release.
    let later = Release { epoch: epoch(3), ..release };
    assert_eq!(site.place(&later, &no_links()).unwrap(), Placed::New);
}

#[test]
fn a_release_is_never_placed_over_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let build = stage(&site, "master-1");
    let foreign = site.release_path(&name(1));
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("theirs"), "x").unwrap();
    let fault = site.place(&release(&build, 1), &no_links()).unwrap_err();
    assert!(fault.step == Step::Unpack && fault.reason.contains("Cutover did not create"), "{fault}");
    assert_eq!(fs::read_to_string(foreign.join("theirs")).unwrap(), "x");
    deploy(&site, 2);
    let other = Release { release: name(2), ..release(&build, 3) };
    assert!(site.place(&other, &no_links()).unwrap_err().reason.contains("master-2"));
    // What is not staged cannot be placed; nor is anything recorded then.
    let missing = Release { artifact: "master-9".parse().unwrap(), ..release(&build, 4) };
    assert!(site.place(&missing, &no_links()).unwrap_err().reason.contains("not staged"));
    assert!(site.record(&name(4)).unwrap().is_none());
}

#[test]
fn a_release_whose_directory_was_lost_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let lost = deploy(&site, 1);
    fs::remove_dir_all(site.release_path(&lost.release)).unwrap();
    assert!(!site.holds(&lost).unwrap());
    stage(&site, "master-1");
    let again = Release { epoch: epoch(5), ..lost };
    assert_eq!(site.place(&again, &no_links()).unwrap(), Placed::New);
    assert_eq!(site.record(&name(1)).unwrap().unwrap().created_by, epoch(5));
}

#[test]
fn an_aborted_epoch_discards_only_what_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (first, second) = (deploy(&site, 1), deploy(&site, 2));
    site.switch(&LinkTarget::Release(first.release.clone())).unwrap();
    assert_eq!(site.discard(&first.release, epoch(1)).unwrap(), Discarded::Kept, "it is current");
    assert_eq!(site.discard(&second.release, epoch(3)).unwrap(), Discarded::Kept, "another epoch's");
    assert_eq!(site.discard(&second.release, epoch(2)).unwrap(), Discarded::Removed);
    assert_eq!(site.discard(&second.release, epoch(2)).unwrap(), Discarded::Kept, "it is gone");
    fs::create_dir(site.release_path(&name(9))).unwrap();
    assert_eq!(site.discard(&name(9), epoch(9)).unwrap(), Discarded::Kept, "another tool's");
    assert_eq!(names(&dir.path().join("releases")), [name(1).as_str(), name(9).as_str()]);
    assert_eq!(scratch(dir.path()), Vec::<String>::new());
}

/// The power went between the record and the rename, and another tool then took the name.
#[test]
fn a_record_that_was_only_begun_does_not_make_a_foreign_directory_ours() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = release(&stage(&site, "master-1"), 1);
    site.place(&release, &no_links()).unwrap();
    let path = site.release_path(&release.release);
    rustix::fs::rename(&path, dir.path().join("away")).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("theirs"), "x").unwrap();
    assert_eq!(site.discard(&release.release, epoch(1)).unwrap(), Discarded::Kept);
    assert_eq!(site.prune(Keep::releases(0), &BTreeSet::new()).unwrap(), []);
    stage(&site, "master-1");
    assert!(site.place(&release, &no_links()).is_err());
    assert!(path.join("theirs").exists());
}

#[test]
fn pruning_keeps_what_may_be_needed_and_touches_no_other_tools_release() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    for foreign in ["20200101000000", "20210101000000-old", "mine"] {
        fs::create_dir(dir.path().join("releases").join(foreign)).unwrap();
    }
    for n in 1..=6 {
        let Release { release, epoch, .. } = deploy(&site, n);
        site.switch(&LinkTarget::Release(release.clone())).unwrap();
        site.mark_ran(&release, epoch, if n == 3 || n == 5 { RunResult::Failed } else { RunResult::Done }).unwrap();
    }
    let prepared = deploy(&site, 7).release;
    assert_eq!(site.previous().unwrap(), Some(name(4)));
    let protected = BTreeSet::from([prepared, name(3)]);
    assert_eq!(site.prune(Keep::releases(2), &protected).unwrap(), [name(1), name(2), name(5)]);
    assert_eq!(site.prune(Keep::releases(2), &protected).unwrap(), []);
    assert_eq!(site.prune(Keep::releases(2), &BTreeSet::new()).unwrap(), [name(3), name(7)]);
    let left = [name(4).to_string(), name(6).to_string()];
    assert_eq!(
        names(&dir.path().join("releases")),
        [&left[0], &left[1], "20200101000000", "20210101000000-old", "mine"]
    );
    assert_eq!(names(&dir.path().join(".cutover/releases")), left.map(|name| name + ".json"));
    assert_eq!(scratch(dir.path()), Vec::<String>::new());
}

#[test]
fn a_budget_of_disk_space_removes_the_oldest_releases_with_what_hooks_wrote_into_them() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    for n in 1..=5 {
        let Release { release, epoch, .. } = deploy(&site, n);
        fs::write(site.release_path(&release).join("written by a hook"), vec![1; 1 << 20]).unwrap();
        site.switch(&LinkTarget::Release(release.clone())).unwrap();
        site.mark_ran(&release, epoch, RunResult::Done).unwrap();
    }
    let within = |mebibytes: u64| Keep { releases: 5, budget_bytes: Some((mebibytes << 20) + (1 << 19)) };
    assert_eq!(site.prune(within(5), &BTreeSet::new()).unwrap(), []);
    // It is measured once.
    fs::write(site.release_path(&name(2)).join("written later"), vec![1; 1 << 20]).unwrap();
    assert_eq!(site.prune(within(4), &BTreeSet::new()).unwrap(), [name(1)]);
    assert_eq!(site.prune(within(0), &BTreeSet::from([name(2)])).unwrap(), [name(3)]);
    assert_eq!(site.prune(within(0), &BTreeSet::new()).unwrap(), [name(2)]);
    assert_eq!(site.previous().unwrap(), Some(name(4)), "the current and the previous one stay");
    assert!(site.release_path(&name(5)).exists() && site.release_path(&name(4)).exists());
}

#[test]
fn current_is_not_pruned_by_whatever_text_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = deploy(&site, 1).release;
    symlink("releases/../releases/./00000000000001", dir.path().join("current")).unwrap();
    assert_eq!(site.prune(Keep::releases(0), &BTreeSet::new()).unwrap(), []);
    assert!(site.release_path(&release).exists());
}

#[test]
fn previous_is_by_the_order_of_switches_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    assert_eq!(site.previous().unwrap(), None);
    for n in [1, 2, 3] {
        deploy(&site, n);
    }
    for n in [1, 3, 2, 2] {
        site.switch(&LinkTarget::Release(name(n))).unwrap();
        site.mark_ran(&name(n), Epoch { era: 0, number: n }, RunResult::Done).unwrap();
    }
    drop(site);
    let site = open(dir.path());
    assert_eq!(site.previous().unwrap(), Some(name(3)));
    fs::remove_dir_all(site.release_path(&name(3))).unwrap();
    assert_eq!(site.previous().unwrap(), Some(name(1)), "what is gone is no way back");
    site.mark_ran(&name(8), Epoch { era: 0, number: 8 }, RunResult::Done).unwrap();
}

#[test]
fn a_damaged_record_keeps_its_release() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = deploy(&site, 1);
    fs::write(dir.path().join(".cutover/releases/00000000000001.json"), "torn").unwrap();
    assert!(site.holds(&release).is_err());
    assert!(site.place(&release, &no_links()).is_err());
    assert_eq!(site.prune(Keep::releases(0), &BTreeSet::new()).unwrap(), []);
    assert!(site.release_path(&release.release).exists());
}

/// A rollback runs an older directory under a newer epoch: a node that has lost its journal finds it here.
#[test]
fn a_release_knows_the_newest_epoch_under_which_it_ran() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let Release { release, epoch, .. } = deploy(&site, 1);
    let newest = || site.record(&release).unwrap().unwrap().ran_in;
    assert_eq!(newest(), None);
    let rollback = Epoch { era: 0, number: 40 };
    for again in [epoch, rollback, epoch] {
        site.mark_ran(&release, again, RunResult::Done).unwrap();
    }
    assert_eq!(newest(), Some(rollback));
    assert_eq!(site.record(&release).unwrap().unwrap().created_by, epoch);
}

#[test]
fn many_rounds_do_not_grow_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let mut counts = Vec::new();
    for n in 1..=12 {
        let Release { release, epoch, .. } = deploy(&site, n);
        site.switch(&LinkTarget::Release(release.clone())).unwrap();
        site.mark_ran(&release, epoch, RunResult::Done).unwrap();
        site.prune(Keep::releases(3), &BTreeSet::new()).unwrap();
        counts.push(count(dir.path()));
    }
    assert!(counts[3..].iter().all(|n| *n == counts[3]), "{counts:?}");
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| if entry.file_type().unwrap().is_dir() { 1 + count(&entry.path()) } else { 1 })
        .sum()
}

#[test]
fn unpacking_ahead_of_time_does_not_wait_for_other_work() {
    let dir = tempfile::tempdir().unwrap();
    let site = Arc::new(open(dir.path()));
    let first = deploy(&site, 1).release;
    let (build, packed) = app("master-2");
    // While the source of one build waits, the node switches, records and prunes, on another thread.
    let (here, there) = (Arc::clone(&site), first.clone());
    let mut other = Some(OtherThread::doing(move || {
        here.switch(&LinkTarget::Release(there.clone())).unwrap();
        here.mark_ran(&there, Epoch { era: 0, number: 1 }, RunResult::Done).unwrap();
        here.prune(Keep::releases(1), &BTreeSet::new()).unwrap();
    }));
    let mut rest = &packed[..];
    let source = Reader(move |buf: &mut [u8]| {
        if let Some(other) = other.take() {
            other.work();
        }
        io::Read::read(&mut rest, buf)
    });
    site.stage(&build, LinkPolicy::Inside, source, &Control::default()).unwrap();
    assert!(site.is_staged(&build.artifact, &build.sha256).unwrap());
}

/// A build with every mode that once stood in the way: read-only files and directories, at every depth.
fn odd_modes() -> (Build, Vec<u8>) {
    let dir = |name: &'static str, mode: &'static [u8]| {
        Block { name: name.as_bytes(), flag: b'5', mode, ..Block::default() }.bytes()
    };
    let tar = Tar::new()
        .raw(&dir("./", b"0000555"))
        .raw(&dir("./ro/", b"0000555"))
        .raw(&dir("./ro/none/", b"0000000"))
        .file_with_mode("./ro/none/file", b"x", b"0000000")
        .raw(&dir("./log/", b"0000500"))
        .file_with_mode("./log/old", b"x", b"0000400")
        .file_with_mode("./REVISION", b"the archive's own", b"0000000")
        .file_with_mode("./run", b"#!/bin/sh\n", b"0000555")
        .end();
    let packed = gzip(&tar);
    (build("master-odd", &packed, SMALL), packed)
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn trees_with_odd_modes_are_placed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(&dir.path().join("srv/shop"));
    let (build, packed) = odd_modes();
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    let placed = release(&build, 1);
    let links = Links::new(&["log".to_owned(), "ro/none/tmp".to_owned(), "new/deep/cache".to_owned()], &[]).unwrap();
    site.place(&placed, &links).unwrap();
    site.seal(&placed.release).unwrap();
    let path = site.release_path(&placed.release);
    for (name, mode) in [
        ("", 0o755),
        ("REVISION", 0o644),
        ("ro", 0o755),
        ("ro/none", 0o700),
        ("new/deep", 0o755),
        ("run", 0o555),
        ("../../releases", 0o755),
        ("../../shared/log", 0o755),
        ("../../shared/log/old", 0o400),
        ("../../shared/new/deep", 0o755),
        ("../..", 0o755),
    ] {
        assert_eq!(mode_of(&path.join(name)), mode, "{name:?}");
    }
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    site.unstage(&build.artifact).unwrap();
    assert!(matches!(site.discard(&placed.release, placed.epoch), Ok(Discarded::Removed)));
    assert!(!path.exists());
    assert_eq!(scratch(&dir.path().join("srv/shop")), Vec::<String>::new());
}

/// An agent usually is not root, and may have a strict umask.
#[test]
fn trees_with_odd_modes_are_placed_and_removed_by_any_user() {
    let mut shell = Command::new("sh");
    let name = "site::trees_with_odd_modes_are_placed_and_removed";
    shell.args(["-c", "umask 077; exec \"$0\" --exact \"$1\""]).arg(std::env::current_exe().unwrap()).arg(name);
    if rustix::process::geteuid().is_root() {
        shell.uid(65534).gid(65534);
    }
    let output = shell.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
