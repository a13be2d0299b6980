//! Downloads in parts: several at once, retried one by one, kept for the next attempt, and never of two objects.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cutover::artifact::cache::CacheLimits;
use cutover::artifact::fetch::Bandwidth;
use cutover::artifact::store::{Class, Limits, Store, Upload};
use cutover::kind::HasKind;
use cutover::protocol::record::Build;

use crate::fetch::{cached, fetch, published};
use crate::gate::{Gate, Request, Way};
use crate::log::{Log, Messages};
use crate::proxy::{Fault, Proxy};
use crate::{Bucket, Node, app, digest, limits, noise, store_at, write};

const PART: u64 = 1 << 20;
/// Six parts and a short one.
const ARCHIVE_BYTES: usize = (6 << 20) + 12_345;

fn fetcher(store: Store, cache: &Path) -> Node {
    let limits = CacheLimits { budget_bytes: 1 << 40, min_free_bytes: Some(1) };
    Node::with(store, cache, limits, PART)
}

/// Tells of retries.
fn telling(node: Node, told: &Arc<Mutex<Vec<&'static str>>>) -> Node {
    let told = Arc::clone(told);
    Node { fetcher: node.fetcher.telling_retries(move |kind| told.lock().unwrap().push(kind)), ..node }
}

fn at(gate: &Gate) -> Store {
    store_at(&gate.endpoint(), limits())
}

/// The parts of an archive, as they are asked for.
fn parts(size_bytes: usize) -> Vec<(u64, u64)> {
    let size = size_bytes as u64;
    (0..size.div_ceil(PART)).map(|part| (part * PART, size.min((part + 1) * PART) - 1)).collect()
}

/// Replaces the object of a build by one with other bytes.
async fn replace(bucket: &Bucket, build: &Build, content: &[u8]) {
    let store = bucket.store();
    let key = store.key(&app(), build);
    store.put_file(&key, &write(bucket.disk.path(), "other", content), &Upload::default()).await.unwrap();
}

#[tokio::test]
async fn several_parts_of_an_archive_arrive_at_the_same_time() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    // The second part is not answered before the third is asked for.
    let gate = Gate::start(bucket.server.address(), |number, _| match number {
        1 => Way::UntilRequests(3),
        _ => Way::Pass,
    })
    .await;
    let cache = tempfile::tempdir().unwrap();
    let (outcome, read) = fetch(&fetcher(at(&gate), cache.path()), &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes);
    assert!(read.unwrap() == content);
    assert_eq!(gate.ranges(), parts(ARCHIVE_BYTES));
    assert!(std::fs::read(cached(&cache, &build, "tar.gz")).unwrap() == content, "the record of parts is still there");
}

/// A gate that cuts the third part after its beginning. The rest of the part passes.
async fn cutting_a_part(bucket: &Bucket) -> Gate {
    Gate::start(bucket.server.address(), |_, request| match request.range() {
        (from, _) if from == 2 * PART => Way::Cut { after_bytes: 300_000 },
        _ => Way::Pass,
    })
    .await
}

#[tokio::test]
async fn only_the_rest_of_the_part_that_was_cut_is_asked_for_again() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    let gate = cutting_a_part(&bucket).await;
    let cache = tempfile::tempdir().unwrap();
    let retries = Arc::new(Mutex::new(Vec::new()));
    let fetcher = telling(fetcher(at(&gate), cache.path()), &retries);
    let (outcome, read) = fetch(&fetcher, &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes, "bytes were downloaded twice");
    assert!(read.unwrap() == content);
    let mut expected = parts(ARCHIVE_BYTES);
    expected.insert(3, (2 * PART + 300_000, 3 * PART - 1));
    assert_eq!(gate.ranges(), expected);
    assert_eq!(*retries.lock().unwrap(), ["cut"]);
}

#[tokio::test]
async fn an_answer_with_the_whole_object_is_read_as_one_stream() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    let whole = Arc::new(content.clone());
    let sent = Arc::clone(&whole);
    let way = move |_: usize, _: &Request| Way::Whole { content: Arc::clone(&sent), after_bytes: usize::MAX };
    let gate = Gate::start(bucket.server.address(), way).await;
    let cache = tempfile::tempdir().unwrap();
    let (outcome, read) = fetch(&fetcher(at(&gate), cache.path()), &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes);
    assert!(read.unwrap() == content);
    assert_eq!(gate.requests().len(), 1, "the object was sent more than once");

    // With a broken connection: the next whole answer is used from there on.
    let way = move |number: usize, _: &Request| {
        let after_bytes = if number == 0 { 2_500_000 } else { usize::MAX };
        Way::Whole { content: Arc::clone(&whole), after_bytes }
    };
    let gate = Gate::start(bucket.server.address(), way).await;
    let cache = tempfile::tempdir().unwrap();
    let (outcome, read) = fetch(&fetcher(at(&gate), cache.path()), &build).await;
    assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes);
    assert!(read.unwrap() == content);
    assert_eq!(gate.requests().len(), 2);
}

#[tokio::test]
async fn parts_of_two_objects_are_not_mixed() {
    let (one, two) = (noise(ARCHIVE_BYTES), vec![7; ARCHIVE_BYTES]);
    let (bucket, build) = published(&one).await;
    let cache = tempfile::tempdir().unwrap();
    // The first attempt ends after one part.
    let gate = Gate::start(bucket.server.address(), |number, _| match number {
        0 => Way::Pass,
        _ => Way::Cut { after_bytes: 0 },
    })
    .await;
    let (outcome, _) = fetch(&fetcher(at(&gate), cache.path()), &build).await;
    assert_eq!(outcome.unwrap_err().class(), Class::Transient);
    assert!(gate.requests()[1..].iter().all(|request| request.header("if-match").is_some()));
    assert_eq!(gate.requests()[0].header("if-match"), None);

    replace(&bucket, &build, &two).await;
    let fetcher = fetcher(bucket.store(), cache.path());
    let (outcome, read) = fetch(&fetcher, &build).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.class()), ("replaced", Class::Transient), "{error}");
    assert!(read.is_none());
    assert!(!cached(&cache, &build, "tar.gz.part").exists(), "parts of the replaced object were kept");
    let (outcome, read) = fetch(&fetcher, &build).await;
    assert_eq!(outcome.unwrap().cached_bytes, 0);
    assert!(read.unwrap() == two);
}

#[tokio::test]
async fn parts_of_an_attempt_that_was_stopped_are_kept() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    // The second part never arrives; those after it do.
    let is_second = |request: &Request| request.range().0 == PART;
    let gate =
        Gate::start(bucket.server.address(), move |_, request| if is_second(request) { Way::Hold } else { Way::Pass })
            .await;
    let cache = tempfile::tempdir().unwrap();
    let interrupted = fetcher(at(&gate), cache.path());
    let room = interrupted.admit(&build);
    let progress = room.received();
    let (reader, task) = interrupted.fetcher.start(&app(), &build, &room);
    let others = build.packed_bytes - PART;
    let deadline = Instant::now() + crate::DEADLINE;
    while progress.load(std::sync::atomic::Ordering::Relaxed) < others {
        assert!(Instant::now() < deadline, "the other parts wait for the second");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop((reader, task, room));

    let gate = Gate::start(bucket.server.address(), |_, _| Way::Pass).await;
    let (outcome, read) = fetch(&fetcher(at(&gate), cache.path()), &build).await;
    let outcome = outcome.unwrap();
    assert_eq!((outcome.cached_bytes, outcome.downloaded_bytes), (others, PART));
    assert_eq!(gate.ranges(), [(PART, 2 * PART - 1)]);
    assert_eq!(digest(&read.unwrap()), build.sha256.as_str());
}

#[tokio::test]
async fn only_the_fetch_retries_and_not_each_request() {
    let content = noise(100_000);
    let (bucket, build) = published(&content).await;
    let busy = Fault::Answer { status: 503, code: "SlowDown" };
    let proxy = Proxy::start(bucket.server.address(), &[busy, busy], Fault::Pass).await;
    let cache = tempfile::tempdir().unwrap();
    let retries = Arc::new(Mutex::new(Vec::new()));
    let store = store_at(&proxy.endpoint(), Limits { attempts: 9, ..limits() });
    let (outcome, _) = fetch(&telling(fetcher(store, cache.path()), &retries), &build).await;
    outcome.unwrap();
    assert_eq!(*retries.lock().unwrap(), ["unavailable", "unavailable"]);
    assert_eq!(proxy.connections(), 3);
}

#[tokio::test]
async fn a_retry_is_one_line_of_the_log_with_object_part_reason_and_the_next_attempt() {
    let content = noise(ARCHIVE_BYTES);
    let (bucket, build) = published(&content).await;
    let gate = cutting_a_part(&bucket).await;
    let cache = tempfile::tempdir().unwrap();
    let log = Log::start();
    let (outcome, _) = fetch(&fetcher(at(&gate), cache.path()), &build).await;
    outcome.unwrap();
    let place = format!("s3://artifacts/{}", bucket.store().key(&app(), &build));
    let begin =
        format!("{place}: bytes {} to {} could not be downloaded, and attempt", 2 * PART + 300_000, 3 * PART - 1);
    let Messages { info_or_worse: lines, debug } = log.end();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with(&begin), "{lines:#?}");
    assert!(lines[0].contains(" 2 of 3 follows in ") && lines[0].contains(" ms: the connection broke"), "{lines:#?}");
    // What the SDK says around the cause is only there.
    let whole = format!("{place}: the whole error of bytes {} to {}: ", 2 * PART + 300_000, 3 * PART - 1);
    assert!(debug.iter().any(|line| line.starts_with(&whole)), "{debug:#?}");
    assert!(!lines[0].contains("streaming"), "{lines:#?}");
}

#[tokio::test]
async fn an_object_that_ends_before_a_part_has_the_wrong_size() {
    let content = noise(100_000);
    let (bucket, mut build) = published(&content).await;
    build.packed_bytes = 3 * PART;
    let cache = tempfile::tempdir().unwrap();
    std::fs::create_dir(cache.path().join("shop")).unwrap();
    std::fs::write(cached(&cache, &build, "tar.gz.part"), noise(200_000)).unwrap();
    let (outcome, _) = fetch(&fetcher(bucket.store(), cache.path()), &build).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.class(), Class::Verify, "{error}");
    assert!(error.to_string().contains("has 100000 bytes"), "{error}");
}

#[tokio::test]
async fn two_downloads_share_the_bandwidth() {
    let content = noise(1 << 20);
    let (bucket, build) = published(&content).await;
    let bandwidth = Arc::new(Bandwidth::new(4 << 20));
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let limited = |cache: &Path| {
        let node = fetcher(bucket.store(), cache);
        Node { fetcher: node.fetcher.within(Some(Arc::clone(&bandwidth))), ..node }
    };
    let (first, second) = (limited(one.path()), limited(two.path()));
    let start = Instant::now();
    let ((first, _), (second, _)) = tokio::join!(fetch(&first, &build), fetch(&second, &build));
    first.unwrap();
    second.unwrap();
    // Not an upper limit, so a slow machine cannot fail it: 2 MiB at 4 MiB/s, less the burst.
    assert!(start.elapsed() >= Duration::from_millis(390), "{:?}", start.elapsed());
}
