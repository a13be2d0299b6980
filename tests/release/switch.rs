//! `current`: switching it, and what is never done to it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cutover::protocol::record::Step;
use cutover::release::{CurrentLink, LinkTarget};

use crate::site::{deploy, name, names, open};

fn text(root: &Path) -> PathBuf {
    fs::read_link(root.join("current")).unwrap()
}

#[test]
fn a_switch_points_current_at_the_release_and_leaves_no_other_link() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    assert_eq!(site.current().unwrap(), CurrentLink::Absent);
    for n in [1, 2] {
        let release = deploy(&site, n).release;
        site.preflight_switch().unwrap();
        for _ in 0..2 {
            site.switch(&LinkTarget::Release(release.clone())).unwrap();
            assert_eq!(site.current().unwrap(), CurrentLink::Release(release.clone()));
        }
        assert_eq!(text(dir.path()), Path::new("releases").join(release.as_str()));
    }
    assert_eq!(names(dir.path()), [".cutover", "current", "releases", "shared"]);
    site.switch(&LinkTarget::Nothing).unwrap();
    site.switch(&LinkTarget::Nothing).unwrap();
    assert_eq!(site.current().unwrap(), CurrentLink::Absent);
    assert!(site.release_path(&name(2)).exists());
}

#[test]
fn a_link_of_another_tool_is_restored_verbatim() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for old in [elsewhere.clone(), PathBuf::from("./elsewhere/")] {
        fs::remove_file(dir.path().join("current")).ok();
        symlink(&old, dir.path().join("current")).unwrap();
        let Ok(CurrentLink::Elsewhere(found)) = site.current() else { panic!("{:?}", site.current()) };
        if !site.release_path(&name(1)).exists() {
            deploy(&site, 1);
        }
        site.switch(&LinkTarget::Release(name(1))).unwrap();
        site.switch(&LinkTarget::Verbatim(found)).unwrap();
        assert_eq!(text(dir.path()), old);
    }
    // Another tool's release, named as ours are.
    fs::create_dir(site.release_path(&name(5))).unwrap();
    site.switch(&LinkTarget::Release(name(5))).unwrap();
    assert_eq!(site.current().unwrap(), CurrentLink::Release(name(5)));
}

#[test]
fn an_absolute_link_counts_as_a_release_only_where_cutover_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = deploy(&site, 1).release;
    symlink(site.release_path(&release), dir.path().join("current")).unwrap();
    assert_eq!(site.current().unwrap(), CurrentLink::Release(release));
    let foreign = site.release_path(&name(2));
    fs::create_dir(&foreign).unwrap();
    fs::remove_file(dir.path().join("current")).unwrap();
    symlink(&foreign, dir.path().join("current")).unwrap();
    assert_eq!(site.current().unwrap(), CurrentLink::Elsewhere(foreign));
}

#[test]
fn a_current_that_is_no_link_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = deploy(&site, 1).release;
    let current = dir.path().join("current");
    fs::create_dir(&current).unwrap();
    fs::write(current.join("theirs"), "x").unwrap();
    assert_eq!(site.current().unwrap(), CurrentLink::NotALink);
    let fault = site.preflight_switch().unwrap_err();
    assert!(fault.step == Step::Preflight && fault.reason.contains("move it away"), "{fault}");
    for target in [LinkTarget::Release(release), LinkTarget::Nothing] {
        assert_eq!(site.switch(&target).unwrap_err().step, Step::Switch);
    }
    assert_eq!(fs::read_to_string(current.join("theirs")).unwrap(), "x");
    fs::remove_dir_all(&current).unwrap();
    fs::write(&current, "a file").unwrap();
    assert_eq!(site.preflight_switch().unwrap_err().step, Step::Preflight);
    assert_eq!(fs::read_to_string(&current).unwrap(), "a file");
}

#[test]
fn a_target_that_is_not_there_leaves_current_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = deploy(&site, 1).release;
    site.switch(&LinkTarget::Release(release.clone())).unwrap();
    symlink("elsewhere", site.release_path(&name(3))).unwrap();
    fs::create_dir(dir.path().join("releases/elsewhere")).unwrap();
    for target in [
        LinkTarget::Release(name(2)),
        LinkTarget::Release(name(3)),
        LinkTarget::Verbatim("/nowhere/at/all".into()),
        LinkTarget::Verbatim("releases/nothing".into()),
    ] {
        let fault = site.switch(&target).unwrap_err();
        assert_eq!(fault.step, Step::Switch, "{fault}");
        assert_eq!(site.current().unwrap(), CurrentLink::Release(release.clone()));
    }
    assert_eq!(names(dir.path()), [".cutover", "current", "releases", "shared"]);
}

#[test]
fn a_dangling_current_can_be_left() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let release = deploy(&site, 1).release;
    symlink("gone", dir.path().join("current")).unwrap();
    site.preflight_switch().unwrap();
    site.switch(&LinkTarget::Release(release.clone())).unwrap();
    assert_eq!(site.current().unwrap(), CurrentLink::Release(release));
}
