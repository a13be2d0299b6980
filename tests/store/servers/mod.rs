//! The store against servers that are not the tests' own: moto and s3rver, and Garage with `GARAGE_BIN` (`make test-garage`).
//!
//! All are asked the same. What a server cannot do is an [`Ability`] that it lacks: then the product must manage without, or say
//! so. Each such lack is in docs/s3.md, too, and a server that has learned it fails a test here.

mod downloads;
mod garage;
mod program;
mod published;

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::primitives::ByteStream;
use cutover::artifact::store::{Class, S3Credentials, S3Settings, S3Store, Spool, Store, Stored, Told, Upload};
use cutover::kind::HasKind;
use cutover::protocol::record::{Build, Damage};
use tokio_util::sync::CancellationToken;

use crate::objects::an_object_is_there_from_put_to_delete;
use crate::proxy::{Fault, Proxy};
use crate::servers::program::{Ability, Served, servers};
use crate::uploads::{eventually, upload_of, upload_while_it_is_written};
use crate::{BUCKET, app, build_of, chain, limits, noise, write};

/// More than two parts.
const ARCHIVE_BYTES: usize = (10 << 20) + 12_345;

/// Puts an archive into the store of a server, as `publish` does.
async fn put(store: &Store, build: &Build, content: &[u8]) {
    let files = tempfile::tempdir().unwrap();
    let file = write(files.path(), "archive", content);
    let done = store.put_file(&store.key(&app(), build), &file, &upload_of(build)).await;
    done.unwrap_or_else(|error| panic!("{}", chain(&error)));
}

async fn compare(store: &Store, build: &Build) -> Stored {
    store.compare(&store.key(&app(), build), build, &AtomicU64::new(0)).await.unwrap()
}

/// Replaces the object of a build as another tool would, with what the server keeps beside it unchanged.
async fn replace(served: &Served, build: &Build, content: &[u8]) {
    let put = served.client().put_object().bucket(BUCKET).key(served.store().key(&app(), build));
    put.metadata("sha256", build.sha256.as_str()).body(ByteStream::from(content.to_vec())).send().await.unwrap();
}

/// The ids of unfinished uploads.
async fn listed(served: &Served) -> Vec<String> {
    let list = served.client().list_multipart_uploads().bucket(BUCKET).prefix(format!("{}/", served.prefix));
    let uploads = list.send().await.unwrap().uploads.unwrap_or_default();
    uploads.into_iter().map(|upload| upload.upload_id.unwrap()).collect()
}

#[tokio::test]
async fn every_server_keeps_objects() {
    for served in servers().await {
        an_object_is_there_from_put_to_delete(&served.store()).await;
    }
}

#[tokio::test]
async fn every_server_tells_the_digest_of_uploads_in_one_and_in_several_parts() {
    for served in servers().await {
        let store = served.store();
        for size in [0, 1000, ARCHIVE_BYTES] {
            let content = noise(size);
            let build = build_of(&content);
            put(&store, &build, &content).await;
            let stat = store.stat(&store.key(&app(), &build)).await.unwrap().unwrap();
            assert_eq!(stat.told, Some(Told::Archive(build.sha256.clone())), "{:?}, {size} bytes", served.maker());
            assert_eq!(compare(&store, &build).await, Stored::Intact, "{:?}, {size} bytes", served.maker());
        }
    }
}

#[tokio::test]
async fn every_server_takes_an_archive_while_it_is_written() {
    let content = noise(ARCHIVE_BYTES);
    let tree = Told::Tree("1".repeat(64).parse().unwrap());
    let build = Build { tree: Some(tree.digest().clone()), ..build_of(&content) };
    for served in servers().await {
        let upload = Upload::of(tree.clone(), &CancellationToken::new());
        upload_while_it_is_written(&served.store(), upload, &build, &content).await;
        let stat = served.store().stat(&served.store().key(&app(), &build)).await.unwrap().unwrap();
        assert_eq!(stat.told.as_ref(), Some(&tree), "{:?}", served.maker());
    }
}

#[tokio::test]
async fn a_stopped_upload_leaves_nothing_on_a_server_or_is_named() {
    let content = noise(ARCHIVE_BYTES);
    for served in servers().await {
        let (store, build, files) = (served.store(), build_of(&content), tempfile::tempdir().unwrap());
        let path = files.path().join("archive");
        let (spool, mut writer) = Spool::growing(&path, File::create(&path).unwrap(), content.len() as u64);
        let (key, upload) = (store.key(&app(), &build), Arc::new(upload_of(&build)));
        let (putting, at) = (Arc::clone(&upload), key.clone());
        let running = store.clone();
        let put = tokio::spawn(async move { running.put(&at, &spool, &putting).await });
        writer.write_all(&content).unwrap();
        eventually("a part is there", || upload.sent.load(Ordering::Relaxed) > 0).await;
        upload.stop.cancel();
        assert_eq!(put.await.unwrap().unwrap_err().kind(), "stopped");
        assert_eq!(store.head(&key).await.unwrap(), None);
        if served.has(Ability::Abort) {
            assert_eq!(upload.left(), None, "{:?}", served.maker());
        } else {
            let left = upload.left().unwrap();
            assert!(left.contains(&format!("s3://{BUCKET}/{key}")) && left.contains("MethodNotAllowed"), "{left}");
        }
        if served.has(Ability::ListUploads) {
            assert_eq!(listed(&served).await, Vec::<String>::new(), "{:?}", served.maker());
        }
    }
}

#[tokio::test]
async fn unfinished_uploads_of_others_are_removed_only_if_the_server_tells_that_they_are_old() {
    for served in servers().await {
        let (client, store) = (served.client(), served.store());
        let key = store.key(&app(), &build_of(b"x"));
        let begun = client.create_multipart_upload().bucket(BUCKET).key(&key).send().await.unwrap();
        let id = begun.upload_id.unwrap();
        // The server may be unable to list. This is no error.
        store.remove_dead_uploads(&app()).await;
        if !served.has(Ability::ListUploads) {
            let list = client.list_multipart_uploads().bucket(BUCKET).send().await;
            assert_eq!(list.unwrap_err().raw_response().unwrap().status().as_u16(), 501, "{:?}", served.maker());
        } else if served.has(Ability::TellStart) {
            assert_eq!(listed(&served).await, [id], "{:?}: an upload that may still run was aborted", served.maker());
        } else {
            assert_eq!(listed(&served).await, Vec::<String>::new(), "{:?}: it tells a day of 2010", served.maker());
        }
    }
}

#[tokio::test]
async fn an_upload_whose_last_answer_is_lost_is_complete_on_every_server() {
    let content = noise(ARCHIVE_BYTES);
    let lose = Fault::LoseAnswerTo { containing: "?uploadId=" };
    for served in servers().await {
        // The repetition of the last request gets no answer either, or the server's, which is another one at each server.
        for then in [lose, Fault::Pass] {
            let proxy = Proxy::start(served.address(), &[lose; 4], then).await;
            let build = build_of(&content);
            put(&served.store_at(&proxy.endpoint()), &build, &content).await;
            let store = served.store();
            assert_eq!(compare(&store, &build).await, Stored::Intact, "{:?}", served.maker());
            store.delete(&store.key(&app(), &build)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn damage_of_objects_is_found_on_every_server() {
    let content = noise(1 << 20);
    let build = build_of(&content);
    for served in servers().await {
        let store = served.store();
        let version = async || store.stat(&store.key(&app(), &build)).await.unwrap().unwrap().version;
        assert_eq!(compare(&store, &build).await, Stored::Missing);
        put(&store, &build, &content).await;
        let before = version().await;
        let mut altered = content.clone();
        altered[1 << 19] ^= 1;
        replace(&served, &build, &altered).await;
        assert_eq!(compare(&store, &build).await, Stored::Damaged(Damage::Altered), "{:?}", served.maker());
        assert_ne!(version().await, before, "{:?}: the sweep knows when to read again", served.maker());
        replace(&served, &build, &content[1..]).await;
        assert_eq!(compare(&store, &build).await, Stored::Damaged(Damage::Cut), "{:?}", served.maker());
        put(&store, &build, &content).await;
        assert_eq!(compare(&store, &build).await, Stored::Intact, "{:?}", served.maker());
    }
}

#[tokio::test]
async fn a_missing_bucket_is_told_from_a_missing_object_on_every_server() {
    for served in servers().await {
        let store = served.open("no-such-bucket", &served.endpoint(), &served.maker().credentials());
        let key = store.key(&app(), &build_of(b"x"));
        for error in [store.get(&key, 0).await.unwrap_err(), store.head(&key).await.unwrap_err()] {
            assert_eq!(error.kind(), "no_root", "{:?}: {}", served.maker(), chain(&error));
        }
        let error = served.store().get(&key, 0).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{:?}: {}", served.maker(), chain(&error));
    }
}

#[tokio::test]
async fn wrong_keys_are_refused_where_the_server_checks_them() {
    for served in servers().await {
        let build = build_of(b"x");
        put(&served.store(), &build, b"x").await;
        let right = served.maker().credentials();
        let key = right.access_key.replace(['1', 'R'], "4");
        for (ability, keys) in [
            (Ability::CheckKey, S3Credentials { access_key: key, ..right.clone() }),
            (Ability::CheckSecret, S3Credentials { secret_key: "5".repeat(64), ..right }),
        ] {
            let store = served.open(BUCKET, &served.endpoint(), &keys);
            let found = store.head(&store.key(&app(), &build)).await;
            match found.map_err(|error| error.class()) {
                Err(Class::Forbidden) => assert!(served.has(ability), "{:?} checks now: {ability:?}", served.maker()),
                found => assert!(!served.has(ability), "{:?}, {ability:?}: {found:?}", served.maker()),
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_wants_its_region_says_so() {
    for served in servers().await.into_iter().filter(|served| served.maker().region().is_some()) {
        let endpoint = Some(served.endpoint());
        let settings = S3Settings { region: None, endpoint, force_path_style: true, limits: limits() };
        let store = S3Store::with_credentials(BUCKET, "", &settings, &served.maker().credentials()).unwrap();
        let error = Store::S3(store).get("x", 0).await.unwrap_err();
        assert!(error.to_string().contains("region"), "{:?}: {}", served.maker(), chain(&error));
    }
}

#[test]
fn the_docs_name_the_versions_that_are_tried() {
    let read = |path: &str| fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let docs = read("docs/s3.md");
    for (name, pinned, before, after) in [
        ("moto", "tests/store/servers/moto.txt", "moto==", " "),
        ("s3rver", "tests/store/servers/s3rver/package.json", "\"s3rver\": \"", "\""),
        ("Garage", "scripts/get-garage", "version=", "\n"),
    ] {
        let text = read(pinned);
        let version = text.split_once(before).and_then(|(_, rest)| rest.split_once(after)).unwrap().0;
        assert!(docs.contains(&format!("| {name} {version} |")), "docs/s3.md does not name {name} {version}");
    }
}
