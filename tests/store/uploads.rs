//! Uploads that are slow, stopped, or lose their answer; what dead publishers leave; and damaged objects.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cutover::artifact::store::{Limits, Spool, Store, Stored, Told, Upload};
use cutover::kind::HasKind;
use cutover::protocol::ids::Sha256;
use cutover::protocol::record::{Build, Damage};
use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::proxy::{Fault, Proxy};
use crate::{BUCKET, Bucket, DEADLINE, LOCALHOST, app, build_of, chain, dir_store, limits, noise, store_at, write};

/// More than two parts.
const ARCHIVE_BYTES: usize = 12 << 20;

pub(crate) fn upload_of(build: &Build) -> Upload {
    Upload::of(Told::Archive(build.sha256.clone()), &CancellationToken::new())
}

/// What an unfinished upload left on the server's disk.
fn unfinished(bucket: &Bucket) -> Vec<String> {
    let names = fs::read_dir(bucket.disk.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("upload")).collect()
}

pub(crate) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !is_true() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_upload_whose_last_answer_is_lost_is_complete() {
    let (bucket, content) = (Bucket::start().await, noise(ARCHIVE_BYTES));
    let lose = Fault::LoseAnswerTo { containing: "?uploadId=" };
    // The request that completes the upload is done each time. Its repetition gets no answer either, or the server's answer
    // that there is no such upload.
    for then in [lose, Fault::Pass] {
        let proxy = Proxy::start(bucket.server.address(), &[lose; 4], then).await;
        let (store, build) = (store_at(&proxy.endpoint(), limits()), build_of(&content));
        let (key, file) = (store.key(&app(), &build), write(bucket.disk.path(), "archive", &content));
        store.put_file(&key, &file, &upload_of(&build)).await.unwrap();
        assert_eq!(bucket.store().compare(&key, &build, &AtomicU64::new(0)).await.unwrap(), Stored::Intact);
        bucket.store().delete(&key).await.unwrap();
    }
}

#[tokio::test]
async fn an_upload_that_is_not_complete_fails_though_another_object_is_there() {
    let (bucket, content) = (Bucket::start().await, noise(ARCHIVE_BYTES));
    let (build, store) = (build_of(&content), bucket.store());
    let (key, file) = (store.key(&app(), &build), write(bucket.disk.path(), "archive", &content));
    let other = write(bucket.disk.path(), "other", &vec![0; ARCHIVE_BYTES]);
    store.put_file(&key, &other, &upload_of(&build_of(b"other"))).await.unwrap();
    let refuse = Fault::AnswerTo { containing: "?uploadId=", status: 404, code: "NoSuchUpload" };
    let proxy = Proxy::start(bucket.server.address(), &[], refuse).await;
    let error = store_at(&proxy.endpoint(), limits()).put_file(&key, &file, &upload_of(&build)).await.unwrap_err();
    assert_eq!(error.kind(), "upload_gone", "{}", chain(&error));
    assert!(error.to_string().contains("publish again"), "{error}");
}

#[tokio::test]
async fn a_slow_but_steady_upload_succeeds() {
    let (bucket, content) = (Bucket::start().await, noise(ARCHIVE_BYTES));
    // Slow for the time in which something must move: parts that share this line are silent for longer.
    let slow = Fault::Slow { bytes_per_sec: 2 << 20 };
    let proxy = Proxy::start(bucket.server.address(), &[], slow).await;
    let store = store_at(&proxy.endpoint(), Limits { stall: Duration::from_secs(1), attempts: 1, ..limits() });
    let build = build_of(&content);
    let (key, file) = (store.key(&app(), &build), write(bucket.disk.path(), "archive", &content));
    store.put_file(&key, &file, &upload_of(&build)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(bucket.store().compare(&key, &build, &AtomicU64::new(0)).await.unwrap(), Stored::Intact);
}

#[tokio::test]
async fn a_store_that_asks_to_slow_down_is_waited_for() {
    let refused = |containing| Fault::AnswerTo { containing, status: 503, code: "SlowDown" };
    let uploads =
        ["PUT /artifacts/builds/shop/", "?uploads", "partNumber=2", "?uploadId="].map(|containing| async move {
            let bucket = Bucket::start().await;
            let content = noise(if containing.starts_with("PUT") { 1000 } else { ARCHIVE_BYTES });
            let proxy = Proxy::start(bucket.server.address(), &[], refused(containing)).await;
            let store = |patience| store_at(&proxy.endpoint(), Limits { attempts: 1, patience, ..limits() });
            let build = build_of(&content);
            let (key, file) = (bucket.store().key(&app(), &build), write(bucket.disk.path(), "archive", &content));
            let impatient = store(Duration::ZERO).put_file(&key, &file, &upload_of(&build)).await;
            let error = impatient.expect_err(containing);
            assert!(error.kind() == "unavailable" && error.to_string().contains("SlowDown"), "{}", chain(&error));
            proxy.set_first(&[refused(containing); 2], Fault::Pass);
            let done = store(DEADLINE).put_file(&key, &file, &upload_of(&build)).await;
            done.unwrap_or_else(|error| panic!("{containing}: {}", chain(&error)));
            assert_eq!(bucket.store().compare(&key, &build, &AtomicU64::new(0)).await.unwrap(), Stored::Intact);
            assert!(unfinished(&bucket).is_empty(), "{containing}");
        });
    let [whole, begin, part, complete] = uploads;
    tokio::join!(whole, begin, part, complete);
}

#[tokio::test]
async fn waiting_for_a_busy_store_ends_when_the_upload_is_stopped() {
    let (bucket, content) = (Bucket::start().await, noise(ARCHIVE_BYTES));
    for containing in ["?uploads", "partNumber=2", "?uploadId="] {
        let busy = Fault::AnswerTo { containing, status: 503, code: "SlowDown" };
        let proxy = Proxy::start(bucket.server.address(), &[], busy).await;
        let store = store_at(&proxy.endpoint(), Limits { attempts: 1, patience: DEADLINE * 10, ..limits() });
        let (build, upload) = (build_of(&content), upload_of(&build_of(&content)));
        let (key, file) = (store.key(&app(), &build), write(bucket.disk.path(), "archive", &content));
        let stop = upload.stop.clone();
        let put = tokio::spawn(async move { store.put_file(&key, &file, &upload).await });
        eventually("it is refused", || proxy.connections() > 1 || containing == "?uploads" && proxy.connections() > 0)
            .await;
        stop.cancel();
        let ended = tokio::time::timeout(DEADLINE, put).await.expect("it waits on").unwrap();
        assert_eq!(ended.unwrap_err().kind(), "stopped", "{containing}");
    }
}

#[tokio::test]
async fn a_stopped_upload_leaves_nothing_in_a_bucket() {
    let (bucket, content) = (Bucket::start().await, noise(ARCHIVE_BYTES));
    let proxy = Proxy::start(bucket.server.address(), &[], Fault::Slow { bytes_per_sec: 4 << 20 }).await;
    let (store, build) = (store_at(&proxy.endpoint(), limits()), build_of(&content));
    let (key, file) = (store.key(&app(), &build), write(bucket.disk.path(), "archive", &content));
    let upload = Arc::new(upload_of(&build));
    let (stopped, shared) = (Arc::clone(&upload), store.clone());
    let put = tokio::spawn(async move { shared.put_file(&key, &file, &upload).await });
    eventually("one part is there", || stopped.sent.load(Ordering::Relaxed) > 0).await;
    stopped.stop.cancel();
    let error = tokio::time::timeout(DEADLINE, put).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.kind(), stopped.left()), ("stopped", None));
    eventually("nothing is left", || unfinished(&bucket).is_empty()).await;
    assert_eq!(store.head(&store.key(&app(), &build)).await.unwrap(), None);
}

/// Uploads a file of which the second half is written only after the store has the first half.
pub(crate) async fn upload_while_it_is_written(store: &Store, upload: Upload, build: &Build, content: &[u8]) {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("archive");
    let (spool, mut writer) = Spool::growing(&path, File::create(&path).unwrap(), content.len() as u64);
    let upload = Arc::new(upload);
    let (shared, putting, key) = (store.clone(), Arc::clone(&upload), store.key(&app(), build));
    let put = tokio::spawn(async move { shared.put(&key, &spool, &putting).await });
    let (first, second) = content.split_at(content.len() / 2);
    writer.write_all(first).unwrap();
    eventually("something is uploaded", || upload.sent.load(Ordering::Relaxed) > 0).await;
    writer.write_all(second).unwrap();
    writer.finish();
    put.await.unwrap().unwrap();
    assert_eq!(upload.sent.load(Ordering::Relaxed), content.len() as u64);
    assert_eq!(store.compare(&store.key(&app(), build), build, &AtomicU64::new(0)).await.unwrap(), Stored::Intact);
}

#[tokio::test]
async fn a_file_is_uploaded_while_it_is_written() {
    let (bucket, root, content) = (Bucket::start().await, tempfile::tempdir().unwrap(), noise(ARCHIVE_BYTES));
    let build = build_of(&content);
    for store in [bucket.store(), dir_store(root.path()).await] {
        upload_while_it_is_written(&store, upload_of(&build), &build, &content).await;
    }
}

#[tokio::test]
async fn an_object_tells_which_tree_is_in_it() {
    let (bucket, content) = (Bucket::start().await, noise(ARCHIVE_BYTES));
    let store = bucket.store();
    let tree = Told::Tree("1".repeat(64).parse().unwrap());
    let of_tree = |digest: Option<&Sha256>| Build { tree: digest.cloned(), ..build_of(&content) };
    let (build, other) = (of_tree(Some(tree.digest())), of_tree(Some(&"2".repeat(64).parse().unwrap())));
    let upload = Upload::of(tree.clone(), &CancellationToken::new());
    upload_while_it_is_written(&store, upload, &build, &content).await;
    let key = store.key(&app(), &build);
    assert_eq!(store.stat(&key).await.unwrap().unwrap().told, Some(tree));
    let stored = store.compare(&key, &other, &AtomicU64::new(0)).await.unwrap();
    assert_eq!(stored, Stored::Damaged(Damage::Altered), "the record is of another tree");
    let stored = store.compare(&key, &of_tree(None), &AtomicU64::new(0)).await.unwrap();
    assert_eq!(stored, Stored::Intact, "the record is of the same bytes, and tells of no tree");
}

#[tokio::test]
async fn a_file_whose_writer_gives_up_is_not_stored() {
    let (bucket, root, content) = (Bucket::start().await, tempfile::tempdir().unwrap(), noise(ARCHIVE_BYTES));
    for store in [bucket.store(), dir_store(root.path()).await] {
        let (files, build) = (tempfile::tempdir().unwrap(), build_of(&content));
        let path = files.path().join("archive");
        let (spool, mut writer) = Spool::growing(&path, File::create(&path).unwrap(), content.len() as u64);
        let (shared, upload, key) = (store.clone(), upload_of(&build), store.key(&app(), &build));
        let put = tokio::spawn(async move { shared.put(&key, &spool, &upload).await });
        writer.write_all(&content).unwrap();
        drop(writer);
        assert_eq!(put.await.unwrap().unwrap_err().kind(), "stopped");
        assert_eq!(store.head(&store.key(&app(), &build)).await.unwrap(), None);
    }
    assert_eq!(fs::read_dir(root.path().join("shop")).unwrap().count(), 0);
    eventually("nothing is left", || unfinished(&bucket).is_empty()).await;
}

#[tokio::test]
async fn an_upload_that_cannot_be_aborted_is_named() {
    let (bucket, content) = (Bucket::start().await, noise(ARCHIVE_BYTES));
    let refuse = Fault::AnswerTo { containing: "uploadId=", status: 403, code: "AccessDenied" };
    let proxy = Proxy::start(bucket.server.address(), &[], refuse).await;
    let (store, build) = (store_at(&proxy.endpoint(), limits()), build_of(&content));
    let (key, file, upload) = (store.key(&app(), &build), write(bucket.disk.path(), "a", &content), upload_of(&build));
    store.put_file(&key, &file, &upload).await.unwrap_err();
    let left = upload.left().unwrap();
    assert!(left.contains(&format!("s3://{BUCKET}/{key}")) && left.contains("could not be aborted"), "{left}");
}

#[tokio::test]
async fn a_stopped_upload_leaves_nothing_in_a_directory() {
    let (root, content) = (tempfile::tempdir().unwrap(), noise(1000));
    let (store, build) = (dir_store(root.path()).await, build_of(&content));
    let upload = upload_of(&build);
    upload.stop.cancel();
    let file = write(root.path(), "archive", &content);
    let error = store.put_file(&store.key(&app(), &build), &file, &upload).await.unwrap_err();
    assert_eq!(error.kind(), "stopped");
    assert_eq!(fs::read_dir(root.path().join("shop")).unwrap().count(), 0);
}

/// A temporary file of a publisher; `boot` is the machine's.
fn temporary(dir: &Path, boot: &str, name: &str, age: Duration) -> File {
    let file = File::create(dir.join(format!(".upload-{boot}-{name}"))).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    file
}

#[tokio::test]
async fn temporary_files_of_dead_publishers_are_removed_and_no_others() {
    let root = tempfile::tempdir().unwrap();
    let store = dir_store(root.path()).await;
    let dir = root.path().join("shop");
    let here = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().replace('-', "");
    let two_days = Duration::from_hours(48);
    let names = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.map(|name| name.rsplit('-').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let content = noise(10);
    let (build, file) = (build_of(&content), write(root.path(), "file", &content));
    let (app, upload) = (app(), Upload::default());
    let key = store.key(&app, &build);
    // The next publish, and `build prune`.
    let removals: [Pin<Box<dyn Future<Output = ()>>>; 2] = [
        Box::pin(async { store.put_file(&key, &file, &upload).await.unwrap() }),
        Box::pin(store.remove_dead_uploads(&app)),
    ];
    for removing in removals {
        fs::create_dir_all(&dir).unwrap();
        temporary(&dir, &here, "killed", Duration::ZERO);
        let alive = temporary(&dir, &here, "alive", two_days);
        flock(&alive, FlockOperation::NonBlockingLockExclusive).unwrap();
        temporary(&dir, "another", "young", Duration::ZERO);
        temporary(&dir, "another", "old", two_days);
        fs::write(dir.join(".uploads"), "").unwrap();
        removing.await;
        let left: Vec<String> = names(&dir).into_iter().filter(|name| name != "15e9f13a.tar.gz").collect();
        assert_eq!(left, [".uploads", "alive", "young"]);
    }
}

async fn damage_is_found(store: &Store, on_disk: &Path) {
    let content = noise(3 << 20);
    let build = build_of(&content);
    let (key, files) = (store.key(&app(), &build), tempfile::tempdir().unwrap());
    let read = AtomicU64::new(0);
    let found = async || store.compare(&key, &build, &read).await.unwrap();
    assert_eq!(found().await, Stored::Missing);
    store.put_file(&key, &write(files.path(), "archive", &content), &upload_of(&build)).await.unwrap();
    assert_eq!(found().await, Stored::Intact);
    assert_eq!(read.load(Ordering::Relaxed), build.packed_bytes);
    let version = store.stat(&key).await.unwrap().unwrap().version;
    // Behind the store's back, with what it keeps beside the object unchanged.
    let object = on_disk.join(&key);
    let mut altered = content.clone();
    altered[1 << 20] ^= 1;
    fs::write(&object, &altered).unwrap();
    File::options().write(true).open(&object).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(found().await, Stored::Damaged(Damage::Altered));
    assert_ne!(store.stat(&key).await.unwrap().unwrap().version, version, "the sweep knows when to read again");
    fs::write(&object, &content[..content.len() - 1]).unwrap();
    assert_eq!(found().await, Stored::Damaged(Damage::Cut));
    fs::write(&object, [&content[..], b"x"].concat()).unwrap();
    assert_eq!(found().await, Stored::Damaged(Damage::Altered));
    store.put_file(&key, &write(files.path(), "archive", &content), &upload_of(&build)).await.unwrap();
    assert_eq!(found().await, Stored::Intact);
}

#[tokio::test]
async fn damage_of_objects_is_found_in_a_bucket_and_a_directory() {
    let (bucket, root) = (Bucket::start().await, tempfile::tempdir().unwrap());
    damage_is_found(&bucket.store(), &bucket.disk.path().join(BUCKET)).await;
    damage_is_found(&dir_store(root.path()).await, root.path()).await;
}

#[tokio::test]
async fn a_bucket_tells_the_digest_of_uploads_in_one_and_in_several_parts() {
    let bucket = Bucket::start().await;
    for size in [1000, ARCHIVE_BYTES] {
        let content = noise(size);
        let (store, build) = (bucket.store(), build_of(&content));
        let key = store.key(&app(), &build);
        store.put_file(&key, &write(bucket.disk.path(), "archive", &content), &upload_of(&build)).await.unwrap();
        assert_eq!(store.stat(&key).await.unwrap().unwrap().told, Some(Told::Archive(build.sha256)));
    }
}

/// A server that knows two unfinished uploads, and returns the heads of the requests that it got.
async fn uploads_of_dead_publishers(
    young: jiff::Timestamp,
    status: u16,
) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let upload = |key: &str, id: &str, at: jiff::Timestamp| {
        format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{at}</Initiated></Upload>")
    };
    let old = jiff::Timestamp::UNIX_EPOCH;
    let uploads = upload("builds/shop/a", "old", old) + &upload("builds/shop/b", "young", young);
    let list =
        format!("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>");
    let serving = tokio::spawn(async move {
        let mut heads = Vec::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = client.read_u8().await else { break };
                head.push(byte);
            }
            heads.push(String::from_utf8(head).unwrap().lines().next().unwrap_or_default().to_owned());
            let is_list = heads.last().unwrap().starts_with("GET");
            let (status, body) = if is_list { (status, list.as_str()) } else { (204, "") };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            client.write_all(answer.as_bytes()).await.unwrap();
            if !is_list || status != 200 {
                return heads;
            }
        }
    });
    (endpoint, serving)
}

#[tokio::test]
async fn unfinished_uploads_older_than_a_day_are_aborted_where_they_can_be_listed() {
    let (endpoint, serving) = uploads_of_dead_publishers(jiff::Timestamp::now(), 200).await;
    store_at(&endpoint, limits()).remove_dead_uploads(&app()).await;
    let heads = serving.await.unwrap();
    assert!(
        heads[0].starts_with("GET /artifacts/?uploads&") && heads[0].contains("prefix=builds%2Fshop%2F"),
        "{heads:?}"
    );
    assert!(heads[1].starts_with("DELETE /artifacts/builds/shop/a?") && heads[1].contains("uploadId=old"), "{heads:?}");

    let (endpoint, serving) = uploads_of_dead_publishers(jiff::Timestamp::now(), 403).await;
    store_at(&endpoint, limits()).remove_dead_uploads(&app()).await;
    assert_eq!(serving.await.unwrap().len(), 1, "a right that is lacking is no error");
}
