//! Shared paths: what a build has there is copied once, and a rollback checks and makes links as a deploy does.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cutover::plan::unpack::LinkPolicy;
use cutover::protocol::record::{Build, Release, Step};
use cutover::release::{Control, LinkTarget, Links, Placed, Site};

use crate::archive::{Tar, build, gzip};
use crate::site::{SMALL, deploy, name, names, no_links, open, release};
use crate::unremovable::Bind;

fn dirs(paths: &[&str]) -> Links {
    Links::new(&paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>(), &[]).unwrap()
}

/// A build that fills `public/uploads`.
fn filled(site: &Site, artifact: &str) -> Build {
    let tar = Tar::new()
        .dir("./")
        .file_with_mode("./public/uploads/default.png", artifact.as_bytes(), b"0000640")
        .file("./public/uploads/icons/a.svg", b"a")
        .link("./public/uploads/b.svg", "icons/a.svg")
        .file("./app", b"x")
        .end();
    let packed = gzip(&tar);
    let build = build(artifact, &packed, SMALL);
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
    build
}

/// The copy of `shared/public/uploads` that this machine makes.
fn unfinished(site: &Path) -> PathBuf {
    let machine = rustix::system::uname();
    site.join(format!("shared/public/.cutover-copy-{}", machine.nodename().to_str().unwrap()))
}

fn place(site: &Site, build: &Build, number: u64, links: &Links) -> Release {
    let release = release(build, number);
    assert_eq!(site.place(&release, links).unwrap(), Placed::New);
    site.seal(&release.release).unwrap();
    release
}

#[test]
fn what_a_build_has_in_a_linked_directory_is_copied_once() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let links = dirs(&["public/uploads"]);
    let shared = dir.path().join("shared/public/uploads");
    // As a killed agent may have left it.
    fs::create_dir_all(unfinished(dir.path()).join("half")).unwrap();
    let first = place(&site, &filled(&site, "master-1"), 1, &links);
    let uploads = site.release_path(&first.release).join("public/uploads");
    assert_eq!(fs::read_link(&uploads).unwrap(), Path::new("../../../shared/public/uploads"));
    assert_eq!(names(&dir.path().join("shared/public")), ["uploads"]);
    assert_eq!(names(&shared), ["b.svg", "default.png", "icons"]);
    assert_eq!(fs::read_to_string(uploads.join("default.png")).unwrap(), "master-1");
    assert_eq!(fs::read_to_string(uploads.join("b.svg")).unwrap(), "a");
    assert_eq!(fs::read_link(uploads.join("b.svg")).unwrap(), Path::new("icons/a.svg"));
    let mode = |path: &str| fs::metadata(shared.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(""), mode("default.png"), mode("icons")], [0o755, 0o640, 0o755]);
    let age = SystemTime::now().duration_since(fs::metadata(shared.join("default.png")).unwrap().modified().unwrap());
    assert!(age.unwrap() > Duration::from_hours(24), "files keep the times of the archive");
    // From now on it is the application's.
    fs::remove_file(shared.join("b.svg")).unwrap();
    fs::write(shared.join("default.png"), "the application's").unwrap();
    place(&site, &filled(&site, "master-2"), 2, &links);
    assert_eq!(names(&shared), ["default.png", "icons"]);
    assert_eq!(fs::read_to_string(shared.join("default.png")).unwrap(), "the application's");
}

#[test]
fn a_directory_that_exists_is_not_filled() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    fs::create_dir_all(dir.path().join("shared/public/uploads")).unwrap();
    place(&site, &filled(&site, "master-1"), 1, &dirs(&["public/uploads"]));
    assert_eq!(names(&dir.path().join("shared/public/uploads")), Vec::<String>::new());
}

#[test]
fn the_copy_reaches_a_shared_directory_on_another_mount() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("shared")).unwrap();
    let _mount = Bind::mount(other.path(), &dir.path().join("shared"));
    let site = open(dir.path());
    place(&site, &filled(&site, "master-1"), 1, &dirs(&["public/uploads"]));
    assert_eq!(names(&other.path().join("public/uploads")), ["b.svg", "default.png", "icons"]);
}

#[test]
fn a_copy_that_fails_is_a_fault_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    // Its temporary name cannot be cleared.
    let in_use = unfinished(dir.path()).join("in-use");
    fs::create_dir_all(&in_use).unwrap();
    let other = tempfile::tempdir().unwrap();
    let mount = Bind::mount(other.path(), &in_use);
    let release = release(&filled(&site, "master-1"), 1);
    let fault = site.place(&release, &dirs(&["public/uploads"])).unwrap_err();
    assert_eq!(fault.step, Step::Link);
    assert!(fault.reason.contains("cannot be copied to") && fault.reason.contains("mount point"), "{fault}");
    assert_eq!(names(&dir.path().join("releases")), Vec::<String>::new());
    drop(mount);
    assert_eq!(site.place(&release, &dirs(&["public/uploads"])).unwrap(), Placed::New);
}

#[test]
fn a_rollback_is_refused_where_a_shared_file_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let links = Links::new(&["log".to_owned()], &[".env".to_owned()]).unwrap();
    fs::write(dir.path().join("shared/.env"), "SECRET=1").unwrap();
    let first = place(&site, &filled(&site, "master-1"), 1, &links);
    let second = place(&site, &filled(&site, "master-2"), 2, &links);
    site.switch(&LinkTarget::Release(second.release.clone())).unwrap();
    fs::remove_file(dir.path().join("shared/.env")).unwrap();
    let fault = site.relink(&first.release, &links).unwrap_err();
    assert_eq!(fault.step, Step::Link);
    assert!(fault.reason.contains(".env") && fault.reason.contains("put the file there"), "{fault}");
    // The release that runs is left alone.
    site.relink(&second.release, &links).unwrap();
    fs::write(dir.path().join("shared/.env"), "SECRET=2").unwrap();
    fs::remove_dir(dir.path().join("shared/log")).unwrap();
    site.relink(&first.release, &links).unwrap();
    assert!(site.release_path(&first.release).join("log").is_dir(), "the directory is made again");
}

#[test]
fn a_rollback_links_what_the_settings_link_since() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let first = place(&site, &filled(&site, "master-1"), 1, &no_links());
    let second = deploy(&site, 2);
    site.switch(&LinkTarget::Release(second.release.clone())).unwrap();
    let release = site.release_path(&first.release);
    fs::write(release.join("public/uploads/photo.jpg"), "of a customer").unwrap();
    // Linked with another text by another tool.
    fs::create_dir_all(dir.path().join("shared/cache")).unwrap();
    symlink(dir.path().join("shared/cache"), release.join("cache")).unwrap();
    let links =
        Links::new(&["public/uploads".to_owned(), "log".to_owned(), "cache".to_owned()], &["app".to_owned()]).unwrap();
    fs::create_dir_all(dir.path().join("shared/public/uploads")).unwrap();
    fs::write(dir.path().join("shared/app"), "shared").unwrap();
    site.relink(&first.release, &links).unwrap();
    assert_eq!(fs::read_link(release.join("public/uploads")).unwrap(), Path::new("../../../shared/public/uploads"));
    assert_eq!(fs::read_link(release.join("cache")).unwrap(), dir.path().join("shared/cache"));
    assert!(release.join("log").is_dir());
    assert_eq!(fs::read_to_string(release.join("app")).unwrap(), "shared");
    // Nothing that the application may have written is lost.
    assert_eq!(fs::read_to_string(release.join("public/uploads.not-linked/photo.jpg")).unwrap(), "of a customer");
    assert_eq!(fs::read_to_string(release.join("app.not-linked")).unwrap(), "x");
    let before = names(&release);
    site.relink(&first.release, &links).unwrap();
    assert_eq!(names(&release), before, "a second time changes nothing");
}

#[test]
fn what_the_prepare_hook_made_of_a_link_stays() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let links = Links::new(&[], &["app".to_owned()]).unwrap();
    fs::write(dir.path().join("shared/app"), "a template").unwrap();
    let release = release(&filled(&site, "master-1"), 1);
    site.place(&release, &links).unwrap();
    let app = site.release_path(&release.release).join("app");
    fs::remove_file(&app).unwrap();
    fs::write(&app, "made of the template").unwrap();
    site.seal(&release.release).unwrap();
    site.relink(&release.release, &links).unwrap();
    assert_eq!(fs::read_to_string(&app).unwrap(), "made of the template");
    fs::remove_file(&app).unwrap();
    site.relink(&release.release, &links).unwrap();
    assert_eq!(fs::read_to_string(&app).unwrap(), "a template", "a missing link is made again");
}

#[test]
fn the_current_release_is_not_relinked() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let first = place(&site, &filled(&site, "master-1"), 1, &no_links());
    site.switch(&LinkTarget::Release(first.release.clone())).unwrap();
    site.relink(&first.release, &dirs(&["public/uploads"])).unwrap();
    assert!(!site.release_path(&name(1)).join("public/uploads").is_symlink(), "its application writes there now");
}
