//! Downloads that are cut, stalled, resumed, cached, refused.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover::artifact::cache::CacheLimits;
use cutover::artifact::fetch::{FetchError, Fetched};
use cutover::artifact::store::{Class, Limits, Store, Upload};
use cutover::kind::HasKind;
use cutover::protocol::record::Build;
use tempfile::TempDir;

use crate::proxy::{Fault, Proxy};
use crate::{Bucket, DEADLINE, Node, app, build_of, digest, dir_store, limits, noise, store_at, write};

/// More than what waits for the reader, so that a slow one holds the download up.
const ARCHIVE_BYTES: usize = (9 << 20) + 12_345;

fn fetcher(store: Store, cache: &Path) -> Node {
    let limits = CacheLimits { budget_bytes: 1 << 40, min_free_bytes: Some(1) };
    Node::new(store, cache, limits)
}

/// Fetches as a node does. What the reader gave to its end is there only if it came to its end.
pub(crate) async fn fetch(node: &Node, build: &Build) -> (Result<Fetched, FetchError>, Option<Vec<u8>>) {
    let (mut reader, task) = node.start(build);
    let reading = tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).ok().map(|_| content)
    });
    let outcome = tokio::time::timeout(DEADLINE, task.finish()).await.expect("the download hangs");
    (outcome, reading.await.unwrap())
}

/// A bucket with an archive in it.
pub(crate) async fn published(content: &[u8]) -> (Bucket, Build) {
    let (bucket, build) = (Bucket::start().await, build_of(content));
    let file = write(bucket.disk.path(), "archive", content);
    let store = bucket.store();
    let key = store.key(&app(), &build);
    store.put_file(&key, &file, &Upload::default()).await.unwrap();
    (bucket, build)
}

/// The file of a build in the cache: its name has digits of the build's digest.
pub(crate) fn cached(cache: &TempDir, build: &Build, extension: &str) -> std::path::PathBuf {
    let digits = &build.sha256.as_str()[..16];
    cache.path().join("shop").join(format!("master-15e9f13a-{digits}.{extension}"))
}

#[tokio::test]
async fn an_archive_is_downloaded_once() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(bucket.store(), cache.path());
    let (outcome, read) = fetch(&fetcher, &build).await;
    let path = cached(&cache, &build, "tar.gz");
    assert_eq!(outcome.unwrap(), Fetched { path, downloaded_bytes: build.packed_bytes, cached_bytes: 0 });
    assert_eq!(digest(&read.unwrap()), build.sha256.as_str());
    drop(bucket);
    let (outcome, read) = fetch(&fetcher, &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, 0, "the whole archive was in the cache");
    assert_eq!(digest(&read.unwrap()), build.sha256.as_str());
}

#[tokio::test]
async fn a_directory_is_fetched_from_alike() {
    let (root, cache, content) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), noise(ARCHIVE_BYTES));
    let (store, build) = (dir_store(root.path()).await, build_of(&content));
    let key = store.key(&app(), &build);
    let file = write(cache.path(), "archive", &content);
    store.put_file(&key, &file, &Upload::default()).await.unwrap();
    let (outcome, read) = fetch(&fetcher(store, cache.path()), &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes);
    assert_eq!(digest(&read.unwrap()), build.sha256.as_str());
}

#[tokio::test]
async fn a_download_cut_anywhere_resumes_with_the_right_bytes() {
    let content = noise(3 << 20);
    let (bucket, build) = published(&content).await;
    for after_bytes in [0, 1, 100, 600, 70_000, 1 << 20, (1 << 20) + 1, (2 << 20) + 99, 3 << 20] {
        let cut = Fault::Cut { after_bytes };
        let proxy = Proxy::start(bucket.server.address(), &[cut, cut], Fault::Pass).await;
        let cache = tempfile::tempdir().unwrap();
        let (outcome, read) = fetch(&fetcher(store_at(&proxy.endpoint(), limits()), cache.path()), &build).await;
        assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes, "cut after {after_bytes}");
        assert!(read.unwrap() == content, "wrong bytes after a cut after {after_bytes}");
        assert!(proxy.connections() >= 2, "nothing was cut after {after_bytes}");
    }
}

#[tokio::test]
async fn progress_resets_the_retry_count() {
    let content = noise(2 << 20);
    let (bucket, build) = published(&content).await;
    // Far more cuts than tries, but something comes each time.
    let proxy = Proxy::start(bucket.server.address(), &[], Fault::Cut { after_bytes: 200_000 }).await;
    let cache = tempfile::tempdir().unwrap();
    let (outcome, read) = fetch(&fetcher(store_at(&proxy.endpoint(), limits()), cache.path()), &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes);
    assert!(read.unwrap() == content && proxy.connections() > 10);
}

#[tokio::test]
async fn a_stalled_download_is_resumed() {
    let content = noise(2 << 20);
    let (bucket, build) = published(&content).await;
    let proxy = Proxy::start(bucket.server.address(), &[Fault::Stall { after_bytes: 1 << 20 }], Fault::Pass).await;
    let store = store_at(&proxy.endpoint(), Limits { stall: Duration::from_secs(1), ..limits() });
    let cache = tempfile::tempdir().unwrap();
    let (outcome, read) = fetch(&fetcher(store, cache.path()), &build).await;
    outcome.unwrap();
    assert!(read.unwrap() == content && proxy.connections() >= 2);
}

#[tokio::test]
async fn a_store_that_always_stalls_is_given_up_and_a_later_fetch_resumes() {
    let content = noise(2 << 20);
    let (bucket, build) = published(&content).await;
    let proxy = Proxy::start(
        bucket.server.address(),
        &[Fault::Stall { after_bytes: 1 << 20 }],
        Fault::Stall { after_bytes: 0 },
    )
    .await;
    let store = store_at(&proxy.endpoint(), Limits { stall: Duration::from_millis(300), ..limits() });
    let cache = tempfile::tempdir().unwrap();
    let (outcome, read) = fetch(&fetcher(store, cache.path()), &build).await;
    assert_eq!(outcome.unwrap_err().class(), Class::Transient);
    assert!(read.is_none(), "a reader took half an archive for a whole one");
    let (outcome, read) = fetch(&fetcher(bucket.store(), cache.path()), &build).await;
    let later = outcome.unwrap();
    assert!(later.cached_bytes > 0);
    assert_eq!(later.downloaded_bytes, build.packed_bytes - later.cached_bytes);
    assert!(read.unwrap() == content);
}

#[tokio::test]
async fn an_object_of_another_size_is_refused() {
    let content = noise(100_000);
    let (bucket, mut build) = published(&content).await;
    for recorded in [99_999, 100_001] {
        build.packed_bytes = recorded;
        let cache = tempfile::tempdir().unwrap();
        // Also where the beginning is there already.
        std::fs::create_dir(cache.path().join("shop")).unwrap();
        for have in [0, 5000] {
            std::fs::write(cached(&cache, &build, "tar.gz.part"), &content[..have]).unwrap();
            let (outcome, read) = fetch(&fetcher(bucket.store(), cache.path()), &build).await;
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), "wrong_size");
            assert_eq!(error.class(), Class::Verify);
            assert!(error.to_string().contains("has 100000 bytes"), "{error}");
            assert!(read.is_none());
        }
    }
}

#[tokio::test]
async fn a_cached_file_of_the_wrong_size_is_not_used() {
    let content = noise(100_000);
    let (bucket, build) = published(&content).await;
    let cache = tempfile::tempdir().unwrap();
    std::fs::create_dir(cache.path().join("shop")).unwrap();
    std::fs::write(cached(&cache, &build, "tar.gz"), b"short").unwrap();
    std::fs::write(cached(&cache, &build, "tar.gz.part"), noise(100_001)).unwrap();
    let (outcome, read) = fetch(&fetcher(bucket.store(), cache.path()), &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes);
    assert!(read.unwrap() == content);
}

#[tokio::test]
async fn a_rejected_archive_is_downloaded_again() {
    let content = noise(100_000);
    let (bucket, build) = published(&content).await;
    let cache = tempfile::tempdir().unwrap();
    std::fs::create_dir(cache.path().join("shop")).unwrap();
    std::fs::write(cached(&cache, &build, "tar.gz"), vec![0; content.len()]).unwrap();
    let fetcher = fetcher(bucket.store(), cache.path());
    let (_, read) = fetch(&fetcher, &build).await;
    assert_ne!(digest(&read.unwrap()), build.sha256.as_str());
    fetcher.fetcher.reject(&app(), &build).unwrap();
    let (_, read) = fetch(&fetcher, &build).await;
    assert_eq!(digest(&read.unwrap()), build.sha256.as_str());
}

#[tokio::test]
async fn the_object_that_the_record_names_is_fetched_and_another_archive_of_the_name_is_not_mixed_in() {
    let (one, two) = (noise(100_000), noise(100_001));
    let (bucket, older) = published(&one).await;
    let newer = Build { object: Some("master-15e9f13a-two.tar.gz".parse().unwrap()), ..build_of(&two) };
    let store = bucket.store();
    let key = store.key(&app(), &newer);
    assert_eq!(key, "builds/shop/master-15e9f13a-two.tar.gz");
    store.put_file(&key, &write(bucket.disk.path(), "two", &two), &Upload::default()).await.unwrap();
    let cache = tempfile::tempdir().unwrap();
    // Half of the older archive is in the cache.
    std::fs::create_dir(cache.path().join("shop")).unwrap();
    std::fs::write(cached(&cache, &older, "tar.gz.part"), &one[..50_000]).unwrap();
    let fetcher = fetcher(store, cache.path());
    let (outcome, read) = fetch(&fetcher, &newer).await;
    assert_eq!(outcome.unwrap().cached_bytes, 0);
    assert!(read.unwrap() == two);
    let (outcome, read) = fetch(&fetcher, &older).await;
    assert_eq!(outcome.unwrap().cached_bytes, 50_000);
    assert!(read.unwrap() == one);
}

#[tokio::test]
async fn missing_and_forbidden_objects_are_not_retried() {
    let bucket = Bucket::start().await;
    let refuse = Fault::Answer { status: 403, code: "AccessDenied" };
    let proxy = Proxy::start(bucket.server.address(), &[Fault::Pass], refuse).await;
    let cache = tempfile::tempdir().unwrap();
    let (outcome, _) = fetch(&fetcher(bucket.store(), cache.path()), &build_of(b"x")).await;
    assert_eq!(outcome.unwrap_err().class(), Class::NotFound);
    let proxied = Proxy::start(bucket.server.address(), &[], refuse).await;
    let (outcome, _) = fetch(&fetcher(store_at(&proxied.endpoint(), limits()), cache.path()), &build_of(b"x")).await;
    assert_eq!(outcome.unwrap_err().class(), Class::Forbidden);
    assert_eq!(proxied.connections(), 1);
    drop(proxy);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_download() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(bucket.store(), cache.path());
    let (reader, task) = fetcher.start(&build);
    drop(reader);
    assert_eq!(task.finish().await.unwrap_err().kind(), "abandoned");
}

#[tokio::test]
async fn a_slow_reader_holds_the_download_up_and_two_fetches_share_one_download() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(bucket.store(), cache.path());
    let room = fetcher.admit(&build);
    let progress = room.received();
    let (first, first_task) = fetcher.fetcher.start(&app(), &build, &room);
    // The first has the lock as soon as something has come.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while progress.load(Ordering::Relaxed) == 0 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    let second = fetch(&fetcher, &build);
    let reading = tokio::task::spawn_blocking(move || {
        let mut first = first;
        first.read_to_end(&mut Vec::new())
    });
    let (first, (second, read)) = tokio::join!(first_task.finish(), second);
    assert_eq!(first.unwrap().downloaded_bytes, build.packed_bytes);
    assert_eq!(second.unwrap().downloaded_bytes, 0);
    assert_eq!(digest(&read.unwrap()), build.sha256.as_str());
    assert_eq!(reading.await.unwrap().unwrap(), ARCHIVE_BYTES);
}
