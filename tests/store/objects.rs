//! Put, head, get and delete, and what is said when they fail.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover::artifact::store::{Class, Limits, S3Store, Store, StoreError, Upload};
use cutover::kind::HasKind;

use crate::proxy::{Fault, Proxy};
use crate::{
    BUCKET, Bucket, DEADLINE, LOCALHOST, chain, credentials, dir_store, limits, noise, settings_at, store_at, write,
};

const KEY: &str = "builds/shop/master-15e9f13a.tar.gz";

async fn read_from(store: &Store, key: &str, from_byte: u64) -> Result<(u64, Vec<u8>), StoreError> {
    let mut body = store.get(key, from_byte).await?;
    let mut content = Vec::new();
    while let Some(chunk) = body.next_chunk().await? {
        assert!(!chunk.is_empty());
        content.extend_from_slice(&chunk);
    }
    Ok((body.total_bytes(), content))
}

pub(crate) async fn an_object_is_there_from_put_to_delete(store: &Store) {
    let files = tempfile::tempdir().unwrap();
    assert_eq!(store.head(KEY).await.unwrap(), None);
    assert_eq!(store.get(KEY, 0).await.unwrap_err().class(), Class::NotFound);
    // The largest is more than two parts; an object that is there is replaced.
    for size in [0, 1, 70_000, 12 << 20] {
        let content = noise(size);
        let upload = Upload::default();
        store.put_file(KEY, &write(files.path(), "archive", &content), &upload).await.unwrap();
        assert_eq!(upload.sent.load(Ordering::Relaxed), size as u64);
        assert_eq!(store.head(KEY).await.unwrap(), Some(size as u64));
        assert!(
            read_from(store, KEY, 0).await.unwrap() == (size as u64, content.clone()),
            "{size} bytes came back changed"
        );
        for from in [1, size / 2, size.saturating_sub(1)].into_iter().filter(|from| *from < size) {
            let (total, tail) = read_from(store, KEY, from as u64).await.unwrap();
            assert_eq!(total, size as u64, "the size is the object's, and not the range's");
            assert!(tail == content[from..], "wrong bytes from {from} on");
        }
    }
    store.delete(KEY).await.unwrap();
    store.delete(KEY).await.unwrap();
    assert_eq!(store.head(KEY).await.unwrap(), None);
}

#[tokio::test]
async fn a_bucket_keeps_objects() {
    let bucket = Bucket::start().await;
    tokio::time::timeout(DEADLINE, an_object_is_there_from_put_to_delete(&bucket.store())).await.unwrap();
}

#[tokio::test]
async fn a_directory_keeps_objects() {
    let root = tempfile::tempdir().unwrap();
    an_object_is_there_from_put_to_delete(&dir_store(root.path()).await).await;
    let left: Vec<_> = std::fs::read_dir(root.path().join("builds/shop")).unwrap().collect();
    assert!(left.is_empty(), "temporary files stay: {left:?}");
}

#[tokio::test]
async fn a_directory_that_is_missing_is_not_made() {
    let root = tempfile::tempdir().unwrap();
    let file = write(root.path(), "archive", b"x");
    let store = dir_store(&root.path().join("mount")).await;
    for error in [
        store.put_file(KEY, &file, &Upload::default()).await.unwrap_err(),
        store.get(KEY, 0).await.unwrap_err(),
        store.head(KEY).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), "no_root", "{error}");
    }
}

#[tokio::test]
async fn keys_cannot_leave_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let store = dir_store(root.path()).await;
    for key in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/."] {
        assert_eq!(store.get(key, 0).await.unwrap_err().kind(), "invalid_key", "{key:?}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_with_a_helpful_message() {
    let bucket = Bucket::start().await;
    let settings = settings_at(&bucket.server.endpoint(), limits());
    let store = Store::S3(S3Store::with_credentials(BUCKET, "", &settings, &credentials("wrong")).unwrap());
    for error in [store.get(KEY, 0).await.unwrap_err(), store.head(KEY).await.unwrap_err()] {
        assert_eq!(error.class(), Class::Forbidden, "{}", chain(&error));
        for needed in ["s3://artifacts/builds/shop/master-15e9f13a.tar.gz", "credentials"] {
            assert!(error.to_string().contains(needed), "{error}");
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_told_from_a_missing_object() {
    let bucket = Bucket::start().await;
    let missing = Fault::Answer { status: 404, code: "NoSuchBucket" };
    let proxy = Proxy::start(bucket.server.address(), &[], missing).await;
    let store = store_at(&proxy.endpoint(), limits());
    let error = store.get(KEY, 0).await.unwrap_err();
    assert_eq!(error.kind(), "no_root", "{}", chain(&error));
    let error = store.head(KEY).await.unwrap_err();
    assert_eq!(error.kind(), "no_root", "a HEAD has no body to say it in: {}", chain(&error));
    assert!(error.to_string().starts_with("s3://artifacts does not exist"), "{error}");
}

#[tokio::test]
async fn a_temporary_server_error_is_retried() {
    let bucket = Bucket::start().await;
    let busy = Fault::Answer { status: 503, code: "SlowDown" };
    let proxy = Proxy::start(bucket.server.address(), &[busy, busy], Fault::Pass).await;
    assert_eq!(store_at(&proxy.endpoint(), limits()).head(KEY).await.unwrap(), None);
    assert_eq!(proxy.connections(), 3);
}

#[tokio::test]
async fn a_permanent_server_error_is_given_up() {
    let bucket = Bucket::start().await;
    let proxy = Proxy::start(bucket.server.address(), &[], Fault::Answer { status: 503, code: "SlowDown" }).await;
    let error = store_at(&proxy.endpoint(), limits()).get(KEY, 0).await.unwrap_err();
    assert_eq!(error.kind(), "unavailable");
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(proxy.connections(), 3);
    assert!(error.to_string().contains("SlowDown"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_final() {
    let bucket = Bucket::start().await;
    let proxy = Proxy::start(bucket.server.address(), &[], Fault::Answer { status: 403, code: "AccessDenied" }).await;
    let error = store_at(&proxy.endpoint(), limits()).get(KEY, 0).await.unwrap_err();
    assert_eq!(error.class(), Class::Forbidden);
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn another_region_is_named() {
    let bucket = Bucket::start().await;
    let wrong = Fault::Answer { status: 301, code: "PermanentRedirect" };
    let proxy = Proxy::start(bucket.server.address(), &[], wrong).await;
    let error = store_at(&proxy.endpoint(), limits()).get(KEY, 0).await.unwrap_err();
    assert_eq!(error.class(), Class::Permanent);
    assert!(error.to_string().contains("store.region"), "{error}");
}

#[tokio::test]
async fn an_unreachable_server_is_named_by_its_endpoint() {
    let endpoint = {
        let closed = tokio::net::TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        format!("http://{}", closed.local_addr().unwrap())
    };
    let error = store_at(&endpoint, limits()).head(KEY).await.unwrap_err();
    assert_eq!(error.kind(), "unreachable", "{}", chain(&error));
    assert_eq!(error.class(), Class::Transient, "{}", chain(&error));
    assert!(error.to_string().contains(&endpoint), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let bucket = Bucket::start().await;
    let proxy = Proxy::start(bucket.server.address(), &[], Fault::Stall { after_bytes: 0 }).await;
    let store = store_at(&proxy.endpoint(), Limits { stall: Duration::from_millis(100), ..limits() });
    let error = tokio::time::timeout(DEADLINE, store.head(KEY)).await.expect("it waits for ever").unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{}", chain(&error));
}

#[tokio::test]
async fn a_failed_upload_leaves_no_parts() {
    let bucket = Bucket::start().await;
    let refuse = Fault::AnswerTo { containing: "partNumber=2", status: 403, code: "AccessDenied" };
    let proxy = Proxy::start(bucket.server.address(), &[], refuse).await;
    let file = write(bucket.disk.path(), "archive", &noise(12 << 20));
    let store = store_at(&proxy.endpoint(), limits());
    let put = tokio::time::timeout(DEADLINE, store.put_file(KEY, &file, &Upload::default())).await.unwrap();
    assert_eq!(put.unwrap_err().class(), Class::Forbidden);
    assert_eq!(bucket.store().head(KEY).await.unwrap(), None);
    let names = std::fs::read_dir(bucket.disk.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.contains("upload")).collect();
    assert!(left.is_empty(), "{left:?}");
}
