//! Files that the agent cannot remove: of another user, immutable, or behind a mount. They stay and are named, and keep
//! nothing else from going.
//!
//! Needs root, to become another user, to mount, and to set attributes of files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use cutover::plan::retention::{Keep, RunResult};
use cutover::protocol::ids::Epoch;
use cutover::protocol::record::Release;
use cutover::release::{Discarded, LinkTarget, Placed, Site};
use rustix::process::{Gid, Uid};
use tempfile::TempDir;

use crate::site::{deploy, epoch, name, names, no_links, open, release, stage};

/// The agent's user: nobody else's.
const AGENT: u32 = 4242;
/// The user of the web server.
const WEB: u32 = 33;

/// A deploy directory of the agent's user.
fn deploy_dir() -> TempDir {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root, to act as two users: run it with sudo, or leave it out by name"
    );
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(AGENT), Some(AGENT)).unwrap();
    dir
}

/// Runs `work` on a thread that has only the rights of the agent's user.
fn as_agent<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (gid, uid) = (Gid::from_raw(AGENT), Uid::from_raw(AGENT));
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Makes releases 1 to `count`, and runs each.
fn run_all(site: &Site, count: u64) {
    for n in 1..=count {
        let Release { release, epoch, .. } = deploy(site, n);
        site.switch(&LinkTarget::Release(release.clone())).unwrap();
        site.mark_ran(&release, epoch, RunResult::Done).unwrap();
    }
}

fn prune(site: &Site) -> Vec<String> {
    site.prune(Keep::releases(1), &BTreeSet::new()).unwrap().iter().map(ToString::to_string).collect()
}

/// The paths of what could not be removed, relative to `dir`; the random part of names in the scratch directory is cut off.
fn named(site: &Site, dir: &Path) -> Vec<(String, String)> {
    let root = dir.canonicalize().unwrap();
    let shown = |path: &str| {
        let path = Path::new(path).strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        match path.strip_prefix(".cutover/tmp/").and_then(|rest| rest.split_once('/')) {
            Some((tree, inner)) => format!("{}/{inner}", &tree[..tree.len() - 17]),
            None => path,
        }
    };
    site.unremovable().iter().map(|stays| (shown(&stays.path), stays.reason.clone())).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path);
            }
        }
    }
    found.sort();
    found
}

const DENIED: &str = "Permission denied (os error 13)";

#[test]
fn what_root_wrote_into_a_release_stays_and_everything_else_goes() {
    let dir = deploy_dir();
    let site = as_agent(|| {
        let site = open(dir.path());
        run_all(&site, 4);
        site
    });
    let release = site.release_path(&name(1));
    fs::create_dir_all(release.join("lib/__pycache__")).unwrap();
    fs::write(release.join("lib/__pycache__/app.pyc"), "bytecode").unwrap();
    as_agent(|| {
        assert_eq!(prune(&site), [name(1).as_str(), name(2).as_str()]);
        assert_eq!(prune(&site), Vec::<String>::new());
    });
    assert_eq!(names(&dir.path().join("releases")), [name(3).as_str(), name(4).as_str()]);
    let expected = [(format!("trash-{}/lib/__pycache__/app.pyc", name(1)), DENIED.to_owned())];
    let scratch = dir.path().join(".cutover/tmp");
    let left = |tree: &Path| files(&tree.join(names(tree).first().unwrap()));
    assert_eq!(left(&scratch), ["lib", "lib/__pycache__", "lib/__pycache__/app.pyc"]);
    assert_eq!(named(&site, dir.path()), expected);
    drop(site);
    // The next start finds it again, and starts.
    let site = as_agent(|| open(dir.path()));
    assert_eq!(named(&site, dir.path()), expected);
    chown(scratch.join(&names(&scratch)[0]).join("lib"), Some(AGENT), None).unwrap();
    chown(scratch.join(&names(&scratch)[0]).join("lib/__pycache__"), Some(AGENT), None).unwrap();
    as_agent(|| prune(&site));
    assert_eq!(site.unremovable(), []);
    assert_eq!(names(&scratch), Vec::<String>::new());
}

#[test]
fn a_release_of_another_user_stays_and_the_others_go() {
    let dir = deploy_dir();
    let site = as_agent(|| {
        let site = open(dir.path());
        run_all(&site, 5);
        site
    });
    let given = site.release_path(&name(2));
    for path in files(&given) {
        lchown(given.join(path), Some(WEB), Some(WEB)).unwrap();
    }
    chown(&given, Some(WEB), Some(WEB)).unwrap();
    let whole = files(&given);
    as_agent(|| {
        assert_eq!(prune(&site), [name(1).as_str(), name(3).as_str()]);
        assert_eq!(prune(&site), Vec::<String>::new());
    });
    let path = format!("releases/{}", name(2));
    assert_eq!(named(&site, dir.path()), [(path, DENIED.to_owned())]);
    assert_eq!(files(&given), whole, "a release that cannot be moved stays whole");
    // What a person removes is no longer named.
    fs::remove_dir_all(&given).unwrap();
    as_agent(|| prune(&site));
    assert_eq!(site.unremovable(), []);
    assert_eq!(
        names(&dir.path().join(".cutover/releases")),
        [format!("{}.json", name(4)), format!("{}.json", name(5))]
    );
}

/// A mount that ends with its test.
pub(crate) struct Bind(PathBuf);

impl Bind {
    pub(crate) fn mount(what: &Path, on: &Path) -> Self {
        let status = Command::new("mount").arg("--bind").args([what, on]).status();
        assert!(status.unwrap().success(), "mounting failed: is this a container without CAP_SYS_ADMIN?");
        Self(on.canonicalize().unwrap())
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).output().ok();
    }
}

/// A directory with five files, on the same filesystem as the releases.
fn precious(dir: &Path) -> PathBuf {
    let path = dir.join("precious");
    fs::create_dir_all(path.join("deep")).unwrap();
    for file in ["a", "b", "c", "deep/d", "deep/e"] {
        fs::write(path.join(file), "irreplaceable").unwrap();
    }
    path
}

const FIVE: [&str; 6] = ["a", "b", "c", "deep", "deep/d", "deep/e"];

#[test]
fn a_release_with_a_mount_inside_stays_whole_until_it_is_unmounted() {
    let dir = deploy_dir();
    let outside = tempfile::tempdir().unwrap();
    let precious = precious(outside.path());
    let site = open(dir.path());
    run_all(&site, 3);
    let data = site.release_path(&name(1)).join("config/data of the app");
    fs::create_dir(&data).unwrap();
    let mount = Bind::mount(&precious, &data);
    assert_eq!(prune(&site), Vec::<String>::new());
    let path = format!("releases/{}/config/data of the app", name(1));
    let reason = "it is a mount point, and Cutover removes nothing that is mounted".to_owned();
    assert_eq!(named(&site, dir.path()), [(path, reason)]);
    assert_eq!(files(&precious), FIVE);
    assert!(site.release_path(&name(1)).join("app").exists());
    // It is still a release: a rollback could run it.
    assert!(site.record(&name(1)).unwrap().is_some());
    drop(mount);
    assert_eq!(prune(&site), [name(1).as_str()]);
    assert_eq!(site.unremovable(), []);
    assert_eq!(files(&precious), FIVE);
}

/// As after a mount that was made while the release was being moved.
#[test]
fn nothing_behind_a_mount_is_removed() {
    let dir = deploy_dir();
    let outside = tempfile::tempdir().unwrap();
    let precious = precious(outside.path());
    drop(open(dir.path()));
    let tree = dir.path().join(".cutover/tmp/trash-1");
    for path in ["a", "data", "other/deep"] {
        fs::create_dir_all(tree.join(path)).unwrap();
    }
    for path in ["a/file", "env", "other/deep/file"] {
        fs::write(tree.join(path), "x").unwrap();
    }
    let mounts = [
        Bind::mount(&precious, &tree.join("data")),
        Bind::mount(&precious.join("a"), &tree.join("env")),
        Bind::mount(&precious.join("deep"), &tree.join("other/deep")),
    ];
    let site = open(dir.path());
    assert_eq!(files(&precious), FIVE);
    assert_eq!(fs::read_to_string(precious.join("a")).unwrap(), "irreplaceable");
    assert!(!tree.join("a").exists(), "everything else goes");
    assert!(site.unremovable()[0].reason.contains("mount point"), "{:?}", site.unremovable());
    drop(mounts);
    prune(&site);
    assert!(!tree.exists());
    assert_eq!(files(&precious), FIVE);
}

/// Linux before 5.6, and containers that forbid the newer call.
#[test]
fn nothing_behind_a_mount_is_removed_where_the_kernel_cannot_be_asked_for_it() {
    for error in ["ENOSYS", "EPERM"] {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e"])
            .arg(format!("inject=openat2:error={error}"));
        strace
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "unremovable::nothing_behind_a_mount_is_removed"]);
        let output = strace.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn immutable(flag: &str, path: &Path) {
    let status = Command::new("chattr").arg(flag).arg(path).status();
    assert!(status.unwrap().success(), "chattr {flag} {} failed: does the filesystem support it?", path.display());
}

#[test]
fn an_immutable_file_stays_and_everything_else_goes() {
    let dir = deploy_dir();
    let site = open(dir.path());
    run_all(&site, 4);
    let (inner, outer) = (site.release_path(&name(1)).join("config/app.toml"), site.release_path(&name(2)));
    immutable("+i", &inner);
    immutable("+i", &outer);
    assert_eq!(prune(&site), [name(1).as_str()]);
    let forbidden = "Operation not permitted (os error 1)";
    let expected = [
        (format!("trash-{}/config/app.toml", name(1)), forbidden.to_owned()),
        (format!("releases/{}", name(2)), forbidden.to_owned()),
    ];
    assert_eq!(named(&site, dir.path()), expected);
    drop(site);
    let site = open(dir.path());
    assert_eq!(named(&site, dir.path()), expected[..1], "releases are pruned later");
    prune(&site);
    assert_eq!(named(&site, dir.path()), expected);
    let scratch = dir.path().join(".cutover/tmp");
    immutable("-i", &scratch.join(&names(&scratch)[0]).join("config/app.toml"));
    immutable("-i", &outer);
    assert_eq!(prune(&site), [name(2).as_str()]);
    assert_eq!(site.unremovable(), []);
    assert_eq!(names(&scratch), Vec::<String>::new());
}

#[test]
fn an_aborted_release_and_a_staged_build_that_cannot_be_removed_stop_nothing() {
    let dir = deploy_dir();
    let (site, second) = as_agent(|| {
        let site = open(dir.path());
        deploy(&site, 1);
        let second = deploy(&site, 2);
        stage(&site, "master-3");
        stage(&site, "master-4");
        (site, second)
    });
    for given in [site.release_path(&name(2)), dir.path().join(".cutover/staged/master-3")] {
        chown(given, Some(WEB), Some(WEB)).unwrap();
    }
    as_agent(|| {
        assert_eq!(site.discard(&second.release, Epoch { era: 0, number: 2 }).unwrap(), Discarded::Kept);
        assert_eq!(site.prune_staged(&[]).unwrap(), ["master-4".parse().unwrap()]);
    });
    let expected = [".cutover/staged/master-3".to_owned(), format!("releases/{}", name(2))];
    let paths = |site: &Site| named(site, dir.path()).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths(&site), expected);
    drop(site);
    // Unfinished, as after a kill: nobody owns its note.
    fs::remove_file(dir.path().join(".cutover/staged/.master-3.json")).unwrap();
    let site = as_agent(|| {
        let site = open(dir.path());
        assert_eq!(paths(&site), expected[..1]);
        site.prune_staged(&[]).unwrap();
        assert_eq!(paths(&site), expected[..1], "pruning forgets nothing that stays");
        // Other builds are staged and placed as always.
        assert_eq!(site.place(&release(&stage(&site, "master-5"), 5), &no_links()).unwrap(), Placed::New);
        site
    });
    chown(dir.path().join(".cutover/staged/master-3"), Some(AGENT), None).unwrap();
    as_agent(|| site.prune_staged(&[]).unwrap());
    assert_eq!(site.unremovable(), []);
}

#[test]
fn a_directory_that_is_written_to_meanwhile_is_named_and_goes_later() {
    let dir = deploy_dir();
    let site = open(dir.path());
    run_all(&site, 3);
    // A program that goes on to write where it has started: the release moves under its feet, its file does not.
    let mut writer = Command::new("sh");
    writer.args(["-c", "while :; do for i in 1 2 3 4 5 6 7 8 9; do : >file-$i; done; done"]);
    let mut writer = writer.current_dir(site.release_path(&name(1)).join("config")).spawn().unwrap();
    prune(&site);
    writer.kill().unwrap();
    writer.wait().unwrap();
    for _ in 0..2 {
        prune(&site);
    }
    assert_eq!(site.unremovable(), []);
    assert_eq!(names(&dir.path().join(".cutover/tmp")), Vec::<String>::new());
}

#[test]
fn modes_of_the_agents_own_directories_are_no_obstacle() {
    let dir = deploy_dir();
    let (site, made) = as_agent(|| {
        let site = open(dir.path());
        let made = deploy(&site, 1);
        let deep = site.release_path(&name(1)).join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        for path in [deep.as_path(), deep.parent().unwrap(), deep.parent().unwrap().parent().unwrap()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        }
        (site, made)
    });
    as_agent(|| assert_eq!(site.discard(&made.release, epoch(1)).unwrap(), Discarded::Removed));
    assert_eq!(site.unremovable(), []);
    assert_eq!(names(&dir.path().join(".cutover/tmp")), Vec::<String>::new());
}
