//! Claims, and what is removed without a full disk.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use super::*;
use crate::kind::HasKind;

const LIMITS: CacheLimits = CacheLimits { budget_bytes: 100, min_free_bytes: Some(1) };

fn unit(name: &str) -> Unit {
    name.parse().unwrap()
}

/// A file of `size` bytes in the directory of `shop`, older than those that are made later.
fn file(cache: &Path, name: &str, size: usize, age: u64) -> PathBuf {
    let path = cache.join("shop").join(name);
    fs::create_dir_all(cache.join("shop")).unwrap();
    fs::write(&path, vec![0; size]).unwrap();
    let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age);
    File::options().write(true).open(&path).unwrap().set_modified(used).unwrap();
    path
}

fn build(artifact: &str, packed_bytes: u64) -> Build {
    Build { packed_bytes, ..Build::sample(artifact) }
}

#[test]
fn partial_archives_that_no_unit_continues_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (production, canary) = (unit("shop/production"), unit("shop/canary"));
    let cache = Cache::new(dir.path().to_owned(), LIMITS, [production.clone(), canary.clone()]);
    let app = production.app.clone();
    let wanted = cache.whole_path(&app, &Build::sample("a-00000001"));
    let names = ["a-00000001-1111111111111111.tar.gz.part", "b-00000001-0000000000000000.tar.zst.part"];
    let [other_bytes, unread] = names.map(|name| file(dir.path(), name, 1, 0));
    let wanted = file(dir.path(), &format!("{}.part", wanted.file_name().unwrap().display()), 1, 0);
    let whole = file(dir.path(), "c-00000001-0000000000000000.tar.gz", 1, 0);
    cache.claim(&production, [Claim::Archive(wanted.with_extension(""))].into());
    cache.tend().unwrap();
    assert!(other_bytes.exists(), "the canary has not claimed anything yet");
    cache.claim(&canary, [Claim::Artifact("b-00000001".parse().unwrap())].into());
    cache.tend().unwrap();
    let there = [&wanted, &other_bytes, &unread, &whole].map(|path| path.exists());
    assert_eq!(there, [true, false, true, true]);
    // The build was withdrawn, and a fetch is still writing to the other file.
    cache.claim(&production, BTreeSet::new());
    cache.claim(&canary, BTreeSet::new());
    let Cached::Part(writing) = open(&unread.with_extension(""), 100).unwrap() else { panic!("it is partial") };
    cache.tend().unwrap();
    assert_eq!([&wanted, &unread].map(|path| path.exists()), [false, true]);
    drop(writing);
    cache.tend().unwrap();
    assert!(!unread.exists() && whole.exists());
}

#[test]
fn the_partial_archive_of_a_running_fetch_stays_without_a_claim() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::new(dir.path().to_owned(), LIMITS, []));
    let (app, build) = ("shop".parse().unwrap(), build("a-00000001", 10));
    let part = part_path(&cache.whole_path(&app, &build));
    file(dir.path(), part.file_name().unwrap().to_str().unwrap(), 5, 0);
    let room = cache.admit(&app, &build, None).unwrap();
    cache.tend().unwrap();
    assert!(part.exists());
    drop(room);
    cache.tend().unwrap();
    assert!(!part.exists());
}

#[test]
fn old_archives_go_until_the_budget_holds_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::new(dir.path().to_owned(), LIMITS, []));
    let names = ["a-00000001-0.tar.gz", "a-00000002-0.tar.zst", "a-00000003-0.tar.gz", "notes"];
    let paths: Vec<_> = names.iter().zip(1..).map(|(name, age)| file(dir.path(), name, 40, 10 - age)).collect();
    let there = || paths.iter().map(|path| path.exists()).collect::<Vec<_>>();
    cache.tend().unwrap();
    assert_eq!(there(), [false, true, true, true]);
    let room = cache.admit(&"shop".parse().unwrap(), &build("a-00000004", 30), None).unwrap();
    assert_eq!(there(), [false, false, true, true]);
    // With its full size, though nothing of it is there yet.
    cache.tend().unwrap();
    assert_eq!(there(), [false, false, true, true]);
    drop(room);
}

#[test]
fn an_archive_in_use_is_not_removed_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::new(dir.path().to_owned(), LIMITS, []));
    let (app, old, new) = ("shop".parse().unwrap(), build("a-00000001", 60), build("a-00000002", 60));
    let path = cache.whole_path(&app, &old);
    file(dir.path(), path.file_name().unwrap().to_str().unwrap(), 60, 0);
    let reading = cache.admit(&app, &old, None).unwrap();
    let refused = cache.admit(&app, &new, None).unwrap_err();
    assert_eq!(refused.kind(), "cache_busy");
    // A second unit that unpacks the same archive needs no more of the budget.
    drop(cache.admit(&app, &old, None).unwrap());
    assert!(path.exists());
    drop(reading);
    cache.admit(&app, &new, None).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_full_disk_costs_the_oldest_archive_and_never_the_own() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::new(dir.path().to_owned(), LIMITS, []));
    let (app, own) = ("shop".parse().unwrap(), build("a-00000002", 10));
    let old = file(dir.path(), "a-00000001-0.tar.gz", 10, 1);
    let part = part_path(&cache.whole_path(&app, &own));
    file(dir.path(), part.file_name().unwrap().to_str().unwrap(), 5, 2);
    let room = cache.admit(&app, &own, None).unwrap();
    room.space().sacrifice().unwrap();
    assert!(!old.exists() && part.exists());
    let RoomError::NoRoom(full) = room.space().sacrifice().unwrap_err() else { panic!("the disk can be read") };
    assert_eq!(full.kind(), "disk_full");
    assert!(full.to_string().contains("no old archive is left to remove for a-00000002"), "{full}");
}

#[test]
fn the_default_reserve_depends_on_the_disk() {
    let limits = CacheLimits { budget_bytes: 1, min_free_bytes: None };
    let mut stat = statvfs("/").unwrap();
    (stat.f_frsize, stat.f_blocks) = (4096, 1 << 20);
    assert_eq!(limits.reserve(&stat), (4096 << 20) / 20);
    stat.f_blocks = 1 << 30;
    assert_eq!(limits.reserve(&stat), 1 << 30);
    assert_eq!(CacheLimits { min_free_bytes: Some(7), ..limits }.reserve(&stat), 7);
}

#[test]
fn a_missing_cache_counts_as_empty() {
    Cache::new("/nonexistent/cache".into(), LIMITS, []).tend().unwrap();
    assert!(!Path::new("/nonexistent").exists());
}
