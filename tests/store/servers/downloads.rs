//! Downloads from every server: in parts, resumed, and never of two objects.

use std::path::Path;

use cutover::artifact::cache::CacheLimits;
use cutover::artifact::store::{Class, Store};
use cutover::kind::HasKind;

use super::program::{Ability, servers};
use super::{compare, put, replace};
use crate::fetch::{cached, fetch};
use crate::gate::{Gate, Request, Way};
use crate::{Node, app, build_of, digest, noise};

const PART: u64 = 1 << 20;
/// Four parts and a short one.
const ARCHIVE_BYTES: usize = (4 << 20) + 12_345;

fn node(store: Store, cache: &Path) -> Node {
    Node::with(store, cache, CacheLimits { budget_bytes: 1 << 40, min_free_bytes: Some(1) }, PART)
}

#[tokio::test]
async fn parts_from_every_server_arrive_at_the_same_time_and_only_what_was_cut_is_asked_for_again() {
    let content = noise(ARCHIVE_BYTES);
    let build = build_of(&content);
    for served in servers().await {
        put(&served.store(), &build, &content).await;
        // The second part is not answered before the third is asked for, which is cut after its beginning.
        let gate = Gate::start(served.address(), |_, request: &Request| match request.range() {
            (from, _) if from == PART => Way::UntilRequests(3),
            (from, _) if from == 2 * PART => Way::Cut { after_bytes: 300_000 },
            _ => Way::Pass,
        })
        .await;
        let cache = tempfile::tempdir().unwrap();
        let (outcome, read) = fetch(&node(served.store_at(&gate.endpoint()), cache.path()), &build).await;
        assert_eq!(outcome.unwrap().downloaded_bytes, build.packed_bytes, "{:?}", served.maker());
        assert!(read.unwrap() == content, "{:?}", served.maker());
        let size = build.packed_bytes;
        let mut expected: Vec<_> =
            (0..size.div_ceil(PART)).map(|part| (part * PART, size.min((part + 1) * PART) - 1)).collect();
        expected.insert(3, (2 * PART + 300_000, 3 * PART - 1));
        assert_eq!(gate.ranges(), expected, "{:?}", served.maker());
    }
}

#[tokio::test]
async fn parts_of_two_objects_are_not_mixed_also_where_the_server_does_not_compare_versions() {
    let (one, two) = (noise(ARCHIVE_BYTES), vec![7; ARCHIVE_BYTES]);
    let build = build_of(&one);
    for served in servers().await {
        put(&served.store(), &build, &one).await;
        // The first attempt ends after one part, and another one goes on after the object was replaced.
        let gate = Gate::start(
            served.address(),
            |number, _| if number == 0 { Way::Pass } else { Way::Cut { after_bytes: 0 } },
        )
        .await;
        let cache = tempfile::tempdir().unwrap();
        let (outcome, _) = fetch(&node(served.store_at(&gate.endpoint()), cache.path()), &build).await;
        assert_eq!(outcome.unwrap_err().class(), Class::Transient);
        replace(&served, &build, &two).await;
        let gate = Gate::start(served.address(), |_, _| Way::Pass).await;
        let node = node(served.store_at(&gate.endpoint()), cache.path());
        let (outcome, read) = fetch(&node, &build).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.class()), ("replaced", Class::Transient), "{:?}: {error}", served.maker());
        assert!(read.is_none() && !cached(&cache, &build, "tar.gz.part").exists(), "{:?}", served.maker());
        assert!(gate.requests()[0].header("if-match").is_some());
        // The server's own answer to the request that names the object of before.
        let tag = gate.requests()[0].header("if-match").unwrap().to_owned();
        let get = served.client().get_object().bucket(crate::BUCKET).key(served.store().key(&app(), &build));
        let status = get.if_match(tag).send().await.err().map(|e| e.raw_response().unwrap().status().as_u16());
        assert_eq!(status, served.has(Ability::IfMatch).then_some(412), "{:?}", served.maker());
        // What is there now is another archive, as its reader finds.
        let (outcome, read) = fetch(&node, &build).await;
        assert_eq!(outcome.unwrap().cached_bytes, 0, "{:?}", served.maker());
        assert_ne!(digest(&read.unwrap()), build.sha256.as_str());
    }
}

#[tokio::test]
async fn an_object_that_is_missing_or_cut_is_not_downloaded_from_any_server() {
    let content = noise(ARCHIVE_BYTES);
    let build = build_of(&content);
    for served in servers().await {
        let cache = tempfile::tempdir().unwrap();
        let node = node(served.store(), cache.path());
        let (outcome, _) = fetch(&node, &build).await;
        assert_eq!(outcome.unwrap_err().class(), Class::NotFound, "{:?}", served.maker());
        // Of what is left, some parts of the archive are there, and others lie behind its end.
        for left in [ARCHIVE_BYTES - 1, 1_500_000, 1] {
            replace(&served, &build, &content[..left]).await;
            let (outcome, read) = fetch(&node, &build).await;
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.class()), ("wrong_size", Class::Verify), "{:?}: {error}", served.maker());
            assert!(error.to_string().contains(&format!("has {left} bytes")) && read.is_none(), "{error}");
        }
        // A node that has a beginning asks for what lies behind the end of the object.
        std::fs::write(cached(&cache, &build, "tar.gz.part"), &content[..2_000_000]).unwrap();
        let (outcome, _) = fetch(&node, &build).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.class()), ("wrong_size", Class::Verify), "{:?}: {error}", served.maker());
        put(&served.store(), &build, &content).await;
        assert_eq!(compare(&served.store(), &build).await, cutover::artifact::store::Stored::Intact);
        let (outcome, read) = fetch(&node, &build).await;
        outcome.unwrap();
        assert!(read.unwrap() == content, "{:?}", served.maker());
    }
}
