//! Releases that lay on the disk are checked again, and failed ones are kept for inspection.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cutover::plan::retention::{Keep, RunResult};
use cutover::plan::unpack::LinkPolicy;
use cutover::plan::verify::Verify;
use cutover::protocol::record::{Build, Release};
use cutover::release::{Checked, Control, Discarded, LinkTarget, Links, Placed, Site};
use tempfile::TempDir;

use crate::archive::{Tar, build, gzip};
use crate::site::{SMALL, deploy, epoch, name, names, no_links, open, release};

/// An archive with every kind of entry, and a name that comes twice.
fn app() -> (Build, Vec<u8>) {
    let tar = Tar::new()
        .dir("lib/")
        .file("lib/a", b"first")
        .file("lib/empty", b"")
        .file_with_mode("bin/run", b"#!/bin/sh", b"0000755")
        .file("config", b"an earlier one")
        .file("config", b"later")
        .link("latest", "lib/a")
        .hard("lib/twin", "lib/a")
        .file("log/old", b"x")
        .end();
    let packed = gzip(&tar);
    (build("master-1", &packed, SMALL), packed)
}

struct Placing<'a> {
    verify: Verify,
    links: &'a Links,
    /// What the prepare hook does in the release.
    hook: Option<fn(&Path)>,
}

impl Placing<'_> {
    fn place(&self, dir: &TempDir) -> (Site, Release) {
        let site = open(dir.path()).verifying(self.verify);
        let (build, packed) = app();
        site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
        let release = release(&build, 1);
        assert_eq!(site.place(&release, self.links).unwrap(), Placed::New);
        if let Some(hook) = self.hook {
            hook(&site.release_path(&release.release));
            site.note_changes(&release.release).unwrap();
        }
        site.seal(&release.release).unwrap();
        tick(dir.path());
        (site, release)
    }
}

fn placed(dir: &TempDir, verify: Verify) -> (Site, Release) {
    Placing { verify, links: &no_links(), hook: None }.place(dir)
}

/// Waits until the clock of the filesystem has gone on: what changes now is later than everything before.
fn tick(dir: &Path) {
    let probe = dir.join("clock");
    let now = || {
        fs::write(&probe, "").unwrap();
        let meta = probe.metadata().unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let before = now();
    while now() == before {
        std::thread::yield_now();
    }
}

fn check(site: &Site, release: &Release) -> Checked {
    site.check(&release.release, &Control::default()).unwrap()
}

/// What a check says about a change that nobody had a reason for.
fn changed(site: &Site, release: &Release) -> String {
    match check(site, release) {
        Checked::Changed { differences, .. } => differences.to_string(),
        other => panic!("{other:?}"),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(site: &Site, release: &Release, outcome: RunResult) {
    site.switch(&LinkTarget::Release(release.release.clone())).unwrap();
    site.mark_ran(&release.release, release.epoch, outcome).unwrap();
}

#[test]
fn every_change_after_the_promise_is_noticed_and_named() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 13] = [
        (|it| fs::remove_file(it.join("lib/a")).unwrap(), "\"lib/a\" is missing"),
        (|it| fs::remove_file(it.join("lib/empty")).unwrap(), "\"lib/empty\" is missing"),
        (|it| fs::remove_file(it.join("lib/twin")).unwrap(), "\"lib/twin\" is missing"),
        (|it| fs::write(it.join("config"), "").unwrap(), "\"config\" has 0 bytes instead of 5"),
        (|it| fs::write(it.join("REVISION"), "0").unwrap(), "\"REVISION\" has 1 bytes instead of 41"),
        (|it| set_mode(&it.join("bin/run"), 0o644), "\"bin/run\" has mode 0644 instead of 0755"),
        (|it| set_mode(&it.join("lib"), 0o700), "\"lib\" has mode 0700 instead of 0755"),
        (|it| fs::remove_file(it.join("latest")).unwrap(), "\"latest\" is missing"),
        (
            |it| {
                fs::remove_file(it.join("latest")).unwrap();
                symlink("config", it.join("latest")).unwrap();
            },
            "\"latest\" leads elsewhere",
        ),
        (
            |it| {
                fs::remove_file(it.join("config")).unwrap();
                symlink("lib/a", it.join("config")).unwrap();
            },
            "\"config\" is no regular file any more",
        ),
        (|it| fs::remove_dir_all(it.join("bin")).unwrap(), "\"bin/run\" is missing"),
        (|it| fs::remove_dir_all(it.join("lib")).unwrap(), "\"lib\" is missing, \"lib/a\" is missing and 2 more"),
        (
            |it| {
                fs::remove_dir_all(it.join("bin")).unwrap();
                symlink("/bin", it.join("bin")).unwrap();
            },
            "\"bin/run\" is missing",
        ),
    ];
    for (change, expected) in changes {
        let dir = tempfile::tempdir().unwrap();
        let (site, release) = placed(&dir, Verify::Quick);
        assert_eq!(check(&site, &release), Checked::AsMade);
        change(&site.release_path(&release.release));
        assert_eq!(changed(&site, &release), expected);
    }
}

#[test]
fn other_content_of_the_same_size_is_noticed_by_a_full_check_only() {
    let rewrite = |path: PathBuf| {
        let meta = path.metadata().unwrap();
        let text = fs::read(&path).unwrap().iter().map(|byte| byte ^ 1).collect::<Vec<u8>>();
        fs::write(&path, text).unwrap();
        // As a disk does it, which changes content and nothing else.
        fs::File::options().write(true).open(&path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    };
    for verify in [Verify::Quick, Verify::Full] {
        for file in ["config", "lib/twin"] {
            let dir = tempfile::tempdir().unwrap();
            let (site, release) = placed(&dir, verify);
            assert_eq!(check(&site, &release), Checked::AsMade);
            rewrite(site.release_path(&release.release).join(file));
            match verify {
                Verify::Quick => assert_eq!(check(&site, &release), Checked::AsMade),
                Verify::Full => assert!(changed(&site, &release).contains("has other content")),
            }
        }
    }
    // Unpacked before the setting was there: sizes and modes are checked.
    let dir = tempfile::tempdir().unwrap();
    let (site, release) = placed(&dir, Verify::Quick);
    let site = site.verifying(Verify::Full);
    assert_eq!(check(&site, &release), Checked::AsMade);
    fs::remove_file(site.release_path(&release.release).join("config")).unwrap();
    assert_eq!(changed(&site, &release), "\"config\" is missing");
}

#[test]
fn links_hooks_and_added_files_are_no_damage() {
    for verify in [Verify::Quick, Verify::Full] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("shared")).unwrap();
        fs::write(dir.path().join("shared/config"), "of the node").unwrap();
        let links = Links::new(&["log".to_owned()], &["config".to_owned()]).unwrap();
        let hook: fn(&Path) = |it| {
            fs::create_dir(it.join("node_modules")).unwrap();
            fs::write(it.join("lib/a"), "built by the hook").unwrap();
            fs::remove_file(it.join("lib/empty")).unwrap();
            set_mode(&it.join("lib"), 0o750);
        };
        let (site, release) = Placing { verify, links: &links, hook: Some(hook) }.place(&dir);
        let path = site.release_path(&release.release);
        assert_eq!(check(&site, &release), Checked::AsMade);
        fs::write(path.join("added"), "added").unwrap();
        fs::write(path.join("lib/cache"), "added").unwrap();
        set_mode(&path.join("lib/a"), 0o644);
        fs::write(path.join("log/new"), "added").unwrap();
        fs::remove_file(dir.path().join("shared/log/old")).unwrap();
        assert_eq!(check(&site, &release), Checked::AsMade);
        // A rollback under other settings links more, and sets the release's own aside.
        let more = Links::new(&["log".to_owned(), "lib".to_owned()], &["config".to_owned()]).unwrap();
        site.relink(&release.release, &more).unwrap();
        site.mark_unused(&release.release).unwrap();
        assert_eq!(check(&site, &release), Checked::AsMade);
        tick(dir.path());
        fs::remove_file(path.join("latest")).unwrap();
        assert_eq!(changed(&site, &release), "\"latest\" is missing");
    }
}

#[test]
fn what_the_hook_made_of_a_file_is_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    let hook: fn(&Path) = |it| fs::write(it.join("config"), "built by the hook").unwrap();
    let (site, release) = Placing { verify: Verify::Full, links: &no_links(), hook: Some(hook) }.place(&dir);
    assert_eq!(check(&site, &release), Checked::AsMade);
    fs::write(site.release_path(&release.release).join("config"), "").unwrap();
    assert_eq!(changed(&site, &release), "\"config\" has 0 bytes instead of 17");
}

#[test]
fn what_the_application_changes_is_no_damage_and_what_changes_afterwards_is() {
    let dir = tempfile::tempdir().unwrap();
    let (site, one) = placed(&dir, Verify::Full);
    let path = site.release_path(&one.release);
    run(&site, &one, RunResult::Done);
    fs::write(path.join("config"), "rewritten by the application").unwrap();
    fs::remove_file(path.join("lib/a")).unwrap();
    assert_eq!(check(&site, &one), Checked::Unchecked, "it is current");
    let two = deploy(&site, 2);
    run(&site, &two, RunResult::Done);
    // Its end was not noted: the agent was killed.
    match check(&site, &one) {
        Checked::MayBeOwn(differences) => assert!(differences.to_string().contains("\"config\" has 28 bytes")),
        other => panic!("{other:?}"),
    }
    site.mark_unused(&one.release).unwrap();
    tick(dir.path());
    // Before and after what the application did is noted, which takes longer than to leave the release.
    for _ in 0..2 {
        assert_eq!(check(&site, &one), Checked::AsMade);
        site.prune(Keep::releases(5), &BTreeSet::new()).unwrap();
    }
    // Which changes the time of the directory of a file that the application has removed.
    fs::write(path.join("lib/added"), "").unwrap();
    assert_eq!(check(&site, &one), Checked::AsMade);
    fs::write(path.join("bin/run"), "#!/bin/sh\nrm -r").unwrap();
    match check(&site, &one) {
        Checked::Changed { differences, ran: Some(RunResult::Done) } => {
            assert_eq!(differences.to_string(), "\"bin/run\" has 15 bytes instead of 9");
        }
        other => panic!("{other:?}"),
    }
    // The note of the current release is never taken: its application may change anything.
    site.mark_unused(&two.release).unwrap();
    site.switch(&LinkTarget::Release(one.release)).unwrap();
    fs::write(site.release_path(&two.release).join("app"), "").unwrap();
    assert!(matches!(check(&site, &two), Checked::MayBeOwn(_)));
}

#[test]
fn a_release_without_a_list_is_not_checked_and_lists_go_with_their_releases() {
    let dir = tempfile::tempdir().unwrap();
    let (site, one) = placed(&dir, Verify::Quick);
    let lists = dir.path().join(".cutover/files");
    let list = lists.join(one.sha256.as_str());
    let good = fs::read(&list).unwrap();
    for bad in [&b""[..], b"not compressed", &good[..good.len() - 1]] {
        fs::write(&list, bad).unwrap();
        assert_eq!(check(&site, &one), Checked::Unchecked);
    }
    fs::remove_file(&list).unwrap();
    assert_eq!(check(&site, &one), Checked::Unchecked);
    fs::write(&list, good).unwrap();
    let two = deploy(&site, 2);
    run(&site, &two, RunResult::Done);
    assert_eq!(names(&lists).len(), 4);
    site.prune(Keep::releases(1), &BTreeSet::from([one.release.clone()])).unwrap();
    assert_eq!(names(&lists).len(), 4, "both are needed");
    site.prune(Keep::releases(1), &BTreeSet::new()).unwrap();
    let mut left = [two.sha256.to_string(), format!("{}.since", two.release)];
    left.sort();
    assert_eq!(names(&lists), left);
    // A build that is only staged has its list too, and takes it along.
    let (build, packed) = app();
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    assert_eq!(names(&lists).len(), 3);
    site.prune_staged(&[]).unwrap();
    assert_eq!(names(&lists), left);
}

#[test]
fn a_check_stops_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let (site, release) = placed(&dir, Verify::Full);
    let control = Control::default();
    control.cancel();
    assert!(site.check(&release.release, &control).unwrap_err().to_string().contains("was stopped"));
}

#[test]
fn a_damaged_release_is_set_aside_and_made_anew_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (site, one) = placed(&dir, Verify::Quick);
    let site = site.keeping_failed(1);
    fs::remove_file(site.release_path(&one.release).join("config")).unwrap();
    site.set_aside(&one.release).unwrap();
    assert!(!site.holds(&one).unwrap());
    assert!(site.failed_path(&one.release).join("lib/a").exists());
    let (build, packed) = app();
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    assert_eq!(site.place(&one, &no_links()).unwrap(), Placed::New);
    site.seal(&one.release).unwrap();
    assert_eq!(check(&site, &one), Checked::AsMade);
    run(&site, &one, RunResult::Done);
    site.set_aside(&one.release).unwrap_err();
    assert!(site.holds(&one).unwrap(), "the current release stays");
}

#[test]
fn a_release_that_ran_is_the_same_one_after_it_was_made_anew() {
    for keep_failed in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let (site, one) = placed(&dir, Verify::Quick);
        let site = site.keeping_failed(keep_failed);
        run(&site, &one, RunResult::Done);
        let two = deploy(&site, 2);
        run(&site, &two, RunResult::Done);
        // A rollback, which has an epoch of its own, is killed in its work, and followed by another one.
        site.set_aside(&one.release).unwrap();
        for number in [3, 4] {
            let (build, packed) = app();
            site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
            let again = Release { epoch: epoch(number), ..one.clone() };
            assert_eq!(site.place(&again, &no_links()).unwrap(), Placed::New);
        }
        site.seal(&one.release).unwrap();
        let record = site.record(&one.release).unwrap().unwrap();
        assert_eq!(record.created_by, epoch(1));
        assert_eq!(site.previous().unwrap().as_ref(), Some(&one.release));
        // The end of the rollback leaves what it has found.
        assert_eq!(site.discard(&one.release, epoch(4)).unwrap(), Discarded::Kept);
        assert!(site.holds(&one).unwrap());
    }
}

#[test]
fn what_an_operator_puts_beside_failed_releases_stays() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path()).keeping_failed(1);
    let mine = dir.path().join(".cutover/failed/core.tgz");
    fs::write(&mine, "x").unwrap();
    let bad = deploy(&site, 1);
    site.discard(&bad.release, epoch(1)).unwrap();
    site.prune(Keep::releases(1), &BTreeSet::new()).unwrap();
    assert_eq!(failed(&dir), [name(1).as_str(), "core.tgz"]);
}

/// The names in `.cutover/failed/`.
fn failed(dir: &TempDir) -> Vec<String> {
    names(&dir.path().join(".cutover/failed"))
}

#[test]
fn the_last_failed_releases_are_kept_where_nothing_meets_them() {
    for keep in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let site = open(dir.path()).keeping_failed(keep);
        let good = deploy(&site, 1);
        run(&site, &good, RunResult::Done);
        for number in 2..6 {
            let bad = deploy(&site, number);
            tick(dir.path());
            if number % 2 == 0 {
                assert_eq!(site.discard(&bad.release, epoch(number)).unwrap(), Discarded::Removed, "aborted");
            } else {
                run(&site, &bad, RunResult::Failed);
                run(&site, &good, RunResult::Done);
                assert_eq!(
                    site.prune(Keep::releases(5), &BTreeSet::new()).unwrap(),
                    *std::slice::from_ref(&bad.release),
                    "reverted"
                );
            }
            assert!(failed(&dir).len() <= keep, "{:?}", failed(&dir));
            assert!(!site.holds(&bad).unwrap());
            assert_eq!(site.record(&bad.release).unwrap(), None);
            assert_eq!(site.previous().unwrap(), None);
            site.switch(&LinkTarget::Release(bad.release)).unwrap_err();
        }
        assert_eq!(names(&dir.path().join("releases")), [name(1).as_str()]);
        let last = [name(4), name(5)].map(|name| name.to_string());
        assert_eq!(failed(&dir), last[last.len() - keep..]);
        for name in failed(&dir) {
            let text = fs::read_to_string(dir.path().join(".cutover/failed").join(&name).join("app")).unwrap();
            assert!(name.ends_with(text.trim_start_matches("master-")));
        }
        // The next start keeps them, and fewer if the settings say so.
        drop(site);
        let site = open(dir.path()).keeping_failed(1);
        site.prune(Keep::releases(5), &BTreeSet::new()).unwrap();
        assert_eq!(failed(&dir), last[last.len() - keep.min(1)..]);
        assert_eq!(names(&dir.path().join(".cutover/tmp")), Vec::<String>::new());
    }
}

#[test]
fn a_release_that_ran_well_is_never_kept_as_a_failed_one() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path()).keeping_failed(9);
    for number in 1..5 {
        run(&site, &deploy(&site, number), RunResult::Done);
    }
    assert_eq!(site.prune(Keep::releases(1), &BTreeSet::new()).unwrap().len(), 2);
    assert_eq!(failed(&dir), Vec::<String>::new());
}

#[test]
fn failed_releases_get_what_the_others_leave_of_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path()).keeping_failed(2);
    let good = deploy(&site, 1);
    run(&site, &good, RunResult::Done);
    let fail = |number| {
        let bad = deploy(&site, number);
        fs::write(site.release_path(&bad.release).join("big"), vec![1; 1 << 20]).unwrap();
        tick(dir.path());
        site.discard(&bad.release, epoch(number)).unwrap();
    };
    fail(2);
    fail(3);
    let prune = |budget_bytes| {
        let removed = site.prune(Keep { releases: 5, budget_bytes: Some(budget_bytes) }, &BTreeSet::new()).unwrap();
        assert_eq!(removed, []);
        failed(&dir)
    };
    assert_eq!(prune(4 << 20), [name(2).as_str(), name(3).as_str()]);
    assert_eq!(prune(2 << 20), [name(3).as_str()]);
    assert_eq!(prune(1 << 20), Vec::<String>::new());
    assert!(site.holds(&good).unwrap());
}
