//! The room of a node for archives: budgets, small disks, and disks that fill up during a download. Small disks are
//! filesystems in memory, which only root can mount.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use cutover::artifact::cache::{CacheLimits, RoomError, TreePlace};
use cutover::artifact::fetch::{FetchError, Fetched};
use cutover::artifact::store::{Store, Upload};
use cutover::kind::HasKind;
use cutover::protocol::record::Build;
use cutover_rig::tmpfs::Tmpfs;
use tempfile::TempDir;

use crate::gate::{Gate, Way};
use crate::{Bucket, DEADLINE, Node, app, build_of, dir_store, limits, noise, store_at, write};

const MIB: u64 = 1 << 20;

const ROOMY: u64 = 10 << 30;

/// A directory with builds of these sizes in MiB.
async fn published<const N: usize>(sizes: [u64; N]) -> (TempDir, Store, [Build; N]) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir_store(dir.path()).await;
    let builds = uploaded(&store, sizes).await;
    (dir, store, builds)
}

/// Puts builds of these sizes in MiB into a store. They do not compress.
async fn uploaded<const N: usize>(store: &Store, sizes: [u64; N]) -> [Build; N] {
    let mut number = 0;
    let builds = sizes.map(|size| {
        number += 1;
        let content = noise(usize::try_from(size * MIB).unwrap() + number);
        let artifact = format!("master-0000000{number}").parse().unwrap();
        let commit = format!("0000000{number}").repeat(5).parse().unwrap();
        (Build { artifact, commit, ..build_of(&content) }, content)
    });
    let files = tempfile::tempdir().unwrap();
    for (build, content) in &builds {
        let file = write(files.path(), "archive", content);
        store.put_file(&store.key(&app(), build), &file, &Upload::default()).await.unwrap();
    }
    builds.map(|(build, _)| build)
}

/// Fetches a build as a node does, and calls `at_piece` after each MiB that its reader got.
async fn fetch(node: &Node, build: &Build, mut at_piece: impl FnMut() + Send + 'static) -> Result<Fetched, FetchError> {
    let (mut reader, task) = node.start(build);
    let reading = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; 1 << 20];
        while reader.read_exact(&mut piece).is_ok() {
            at_piece();
        }
    });
    let outcome = tokio::time::timeout(DEADLINE, task.finish()).await.expect("the download hangs");
    reading.await.unwrap();
    outcome
}

fn free_bytes(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// The archives in a cache by name, without their digests, and their size together.
fn archives(cache: &Path) -> (Vec<String>, u64) {
    let entries = fs::read_dir(cache.join("shop")).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let (artifact, _) = name.rsplit_once('-').unwrap();
        let is_partial = Path::new(&name).extension().is_some_and(|extension| extension == "part");
        names.push(format!("{artifact}{}", if is_partial { ".part" } else { "" }));
        // It may have got its final name meanwhile.
        bytes += entry.metadata().map_or(0, |meta| meta.len());
    }
    names.sort();
    (names, bytes)
}

/// Writes a file that leaves `left` bytes free.
fn fill(disk: &Path, left: u64) {
    let mut filler = fs::OpenOptions::new().create(true).append(true).open(disk.join("filler")).unwrap();
    while let Some(more) = free_bytes(disk).checked_sub(left).filter(|more| *more >= 4096) {
        let piece = vec![1; usize::try_from(more.min(MIB)).unwrap()];
        filler.write_all(&piece).unwrap();
    }
}

#[tokio::test]
async fn a_small_disk_always_gets_the_newest_archive() {
    let disk = Tmpfs::mount("size=50m");
    let (_store, store, builds) = published([20, 20, 20, 30]).await;
    let node = Node::new(store, disk.path(), CacheLimits { budget_bytes: ROOMY, min_free_bytes: None });
    // A twentieth of the disk stays free.
    let reserve = 50 * MIB / 20;
    for (build, expected) in builds.iter().zip([
        &["master-00000001"][..],
        &["master-00000001", "master-00000002"],
        &["master-00000002", "master-00000003"],
        &["master-00000004"],
    ]) {
        fetch(&node, build, || {}).await.unwrap();
        assert_eq!(archives(disk.path()).0, expected);
        assert!(free_bytes(disk.path()) >= reserve);
    }
}

#[tokio::test]
async fn the_budget_holds_at_every_moment_of_a_download() {
    let cache = tempfile::tempdir().unwrap();
    let (_store, store, builds) = published([4, 5, 6]).await;
    let budget_bytes = 12 * MIB;
    let node = Node::new(store, cache.path(), CacheLimits { budget_bytes, min_free_bytes: Some(1) });
    for build in &builds {
        let dir = cache.path().to_owned();
        let look = move || assert!(archives(&dir).1 <= budget_bytes, "{:?}", archives(&dir));
        fetch(&node, build, look).await.unwrap();
    }
    assert_eq!(archives(cache.path()).0, ["master-00000002", "master-00000003"]);
}

/// What another program does when the third part of an archive is asked for. The parts before it are on the disk, or on their
/// way.
async fn beside(bucket: &Bucket, other_program: impl Fn() + Send + Sync + 'static) -> (Gate, Store) {
    let gate = Gate::start(bucket.server.address(), move |number, _| {
        if number == 2 {
            other_program();
        }
        Way::Pass
    })
    .await;
    let store = store_at(&gate.endpoint(), limits());
    (gate, store)
}

#[tokio::test]
async fn a_disk_that_fills_up_during_a_download_costs_old_archives() {
    let (disk, bucket) = (Tmpfs::mount("size=64m"), Bucket::start().await);
    let [old, new] = uploaded(&bucket.store(), [20, 20]).await;
    let limits = CacheLimits { budget_bytes: ROOMY, min_free_bytes: Some(2 * MIB) };
    fetch(&Node::with(bucket.store(), disk.path(), limits, MIB), &old, || {}).await.unwrap();
    let path = disk.path().to_owned();
    let (gate, store) = beside(&bucket, move || fill(&path, 4 * MIB)).await;
    fetch(&Node::with(store, disk.path(), limits, MIB), &new, || {}).await.unwrap();
    assert!(gate.requests().len() > 20);
    assert_eq!(archives(disk.path()).0, ["master-00000002"]);
    assert!(free_bytes(disk.path()) >= 2 * MIB);
}

#[tokio::test]
async fn a_download_that_does_not_fit_any_more_leaves_no_partial_archive() {
    let (disk, bucket) = (Tmpfs::mount("size=40m"), Bucket::start().await);
    let [build] = uploaded(&bucket.store(), [20]).await;
    let limits = CacheLimits { budget_bytes: ROOMY, min_free_bytes: Some(2 * MIB) };
    let path = disk.path().to_owned();
    let (_gate, store) = beside(&bucket, move || fill(&path, 3 * MIB)).await;
    let node = Node::with(store, disk.path(), limits, MIB);
    let error = fetch(&node, &build, || {}).await.unwrap_err();
    assert_eq!(error.kind(), "disk_full", "{error}");
    assert!(error.to_string().contains("lower cache.min_free"), "{error}");
    assert_eq!(archives(disk.path()), (Vec::new(), 0));
    fs::File::create(disk.path().join("filler")).unwrap();
    assert_eq!(fetch(&node, &build, || {}).await.unwrap().downloaded_bytes, build.packed_bytes);
}

#[tokio::test]
async fn what_cannot_fit_is_refused_by_name_and_removes_nothing() {
    let disk = Tmpfs::mount("size=60m");
    let (_store, store, [old, new]) = published([10, 20]).await;
    let limits = |budget_bytes| CacheLimits { budget_bytes, min_free_bytes: Some(6 * MIB) };
    let node = Node::new(store.clone(), disk.path(), limits(ROOMY));
    fetch(&node, &old, || {}).await.unwrap();
    let refusal = |node: &Node, tree: Option<&TreePlace>| match node.cache.admit(&app(), &new, tree) {
        Err(RoomError::NoRoom(no_room)) => no_room.to_string().replace(&disk.path().display().to_string(), "/srv"),
        other => panic!("{other:?}"),
    };
    let tree = TreePlace { root: disk.path().to_owned(), bytes: 35 * MIB, reserve_bytes: 0 };
    let said = refusal(&node, Some(&tree));
    assert_eq!(
        said,
        "master-00000002 needs 20.00 MiB for its archive and 35.00 MiB unpacked under /srv, but only 60.00 MiB are free \
         there or in old archives, and 6.00 MiB of them must stay free: free 1.00 MiB more, or lower keep_releases or \
         max_staged"
    );
    // With a filesystem of its own for the tree, the archive fits.
    let elsewhere = Tmpfs::mount("size=41m");
    let apart = TreePlace { root: elsewhere.path().to_owned(), ..tree.clone() };
    drop(node.cache.admit(&app(), &new, Some(&apart)).unwrap());
    let more = TreePlace { bytes: 36 * MIB, ..apart };
    assert!(refusal(&node, Some(&more)).contains("needs 36.00 MiB unpacked under"), "{}", refusal(&node, Some(&more)));
    let small = Node::new(store, disk.path(), limits(20 * MIB));
    assert_eq!(
        refusal(&small, None),
        "the archive of master-00000002 has 20.00 MiB, more than the whole cache.budget (20.00 MiB): raise cache.budget"
    );
    assert_eq!(archives(disk.path()).0, ["master-00000001"]);
}

#[tokio::test]
async fn running_fetches_count_with_what_they_still_have_to_write() {
    let disk = Tmpfs::mount("size=60m");
    let (_store, store, [one, two, other]) = published([20, 20, 10]).await;
    let node = Node::new(store, disk.path(), CacheLimits { budget_bytes: 45 * MIB, min_free_bytes: Some(MIB) });
    let tree = TreePlace { root: disk.path().to_owned(), bytes: 30 * MIB, reserve_bytes: 0 };
    let first = Arc::new(node.cache.admit(&app(), &one, Some(&tree)).unwrap());
    let kind = |build| node.cache.admit(&app(), build, None).unwrap_err().kind();
    assert_eq!(kind(&two), "disk_full");
    first.written().store(30 * MIB, std::sync::atomic::Ordering::Relaxed);
    // As if its tree had been written elsewhere: only its archive is missing.
    let second = node.cache.admit(&app(), &two, None).unwrap();
    assert_eq!(kind(&other), "cache_busy");
    drop((first, second));
    node.cache.admit(&app(), &other, None).unwrap();
}

#[tokio::test]
async fn other_programs_get_space_back_from_the_cache() {
    let disk = Tmpfs::mount("size=64m");
    let (_store, store, builds) = published([10, 10, 10]).await;
    let node = Node::new(store, disk.path(), CacheLimits { budget_bytes: ROOMY, min_free_bytes: Some(8 * MIB) });
    for build in &builds {
        fetch(&node, build, || {}).await.unwrap();
    }
    node.cache.tend().unwrap();
    assert_eq!(archives(disk.path()).0.len(), 3, "there is enough space");
    fill(disk.path(), 5 * MIB);
    node.cache.tend().unwrap();
    assert_eq!(archives(disk.path()).0, ["master-00000002", "master-00000003"]);
    fill(disk.path(), 0);
    node.cache.tend().unwrap();
    assert_eq!(archives(disk.path()).0, ["master-00000003"]);
}
