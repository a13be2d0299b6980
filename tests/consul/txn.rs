//! Transactions: all or nothing, refusals by name, limits, and one consistent read.

use cutover::consul::{Client, Consistency, Error, Read, SessionSpec, Settings, TxnOp, TxnResult};
use cutover::protocol::ids::ModifyIndex;

use crate::support::shared;

fn set(key: &str, value: &str) -> TxnOp {
    TxnOp::Set { key: key.to_owned(), value: value.into() }
}

async fn refused(client: &Client, operations: &[TxnOp], index: usize, words: &str) {
    match client.txn(operations, Consistency::Default).await.unwrap() {
        TxnResult::Applied(entries) => panic!("applied: {entries:?}"),
        TxnResult::Refused(refusals) => {
            assert_eq!(refusals[0].op_index, index, "{refusals:?}");
            assert!(refusals[0].what.contains(words), "{refusals:?}");
        }
    }
}

#[tokio::test]
async fn a_write_is_refused_whole_when_an_index_or_a_session_does_not_hold() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let (lock, record) = ("txn/fence/lock", "txn/fence/record");
    let session = client.session_create(&SessionSpec::new("fence")).await.unwrap();
    assert!(client.kv_acquire(lock, "", &session).await.unwrap());
    client.kv_put(record, "old").await.unwrap();
    let at = client.kv_get(record, Consistency::Consistent).await.unwrap().unwrap().modify_index;
    let fence = TxnOp::CheckSession { key: lock.to_owned(), session: session.clone() };
    let cas = |index| TxnOp::Cas { key: record.to_owned(), value: b"new".to_vec(), index };
    let check = |index| TxnOp::CheckIndex { key: record.to_owned(), index };
    let stale = ModifyIndex(at.0 - 1);

    refused(&client, &[fence.clone(), set("txn/fence/other", "x"), check(stale)], 2, "failed index check").await;
    refused(&client, &[fence.clone(), set("txn/fence/other", "x"), cas(stale)], 2, "index").await;
    let whole = [fence.clone(), check(at), cas(at), set("txn/fence/other", "x")];
    let result = client.txn(&whole, Consistency::Default).await.unwrap();
    let TxnResult::Applied(entries) = result else { panic!("{result:?}") };
    let written: Vec<_> = entries.iter().filter(|e| e.modify_index > at).collect();
    assert_eq!(written.len(), 2, "{entries:?}");
    assert!(written.iter().all(|e| e.modify_index == written[0].modify_index), "one place in the log: {entries:?}");

    client.session_destroy(&session).await.unwrap();
    refused(&client, &[fence, set("txn/fence/late", "x")], 0, "failed session check").await;
    assert_eq!(client.kv_get("txn/fence/late", Consistency::Consistent).await.unwrap(), None);
}

#[tokio::test]
async fn locks_existence_and_deletes_work_inside() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let key = |name: &str| format!("txn/verbs/{name}");
    let session = client.session_create(&SessionSpec::new("verbs")).await.unwrap();
    let lock = TxnOp::Lock { key: key("lock"), value: b"held".to_vec(), session: session.clone() };
    let absent = TxnOp::CheckNotExists { key: key("new") };
    let operations = [absent.clone(), lock, set(&key("new"), "1"), set(&key("gone"), "1")];
    assert!(matches!(client.txn(&operations, Consistency::Default).await.unwrap(), TxnResult::Applied(_)));
    refused(&client, &[absent], 0, "exists").await;
    let new = client.kv_get(&key("new"), Consistency::Default).await.unwrap().unwrap();
    let operations = [
        TxnOp::Unlock { key: key("lock"), value: b"free".to_vec(), session },
        TxnOp::DeleteCas { key: key("new"), index: new.modify_index },
        TxnOp::Delete { key: key("gone") },
    ];
    assert!(matches!(client.txn(&operations, Consistency::Default).await.unwrap(), TxnResult::Applied(_)));
    let left = client.kv_list("txn/verbs/", Consistency::Default).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].value.as_slice(), b"free".as_slice());
    assert_eq!(left[0].session, None);
}

#[tokio::test]
async fn an_absent_key_refuses_a_read_and_an_empty_prefix_does_not() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    for consistency in [Consistency::Default, Consistency::Stale, Consistency::Consistent] {
        let get = TxnOp::Get { key: "txn/read/none".to_owned() };
        let result = client.txn(&[get], consistency).await.unwrap();
        assert!(matches!(&result, TxnResult::Refused(r) if r[0].what.contains("doesn't exist")), "{result:?}");
        let tree = TxnOp::GetTree { prefix: "txn/read/none/".to_owned() };
        assert_eq!(client.txn(&[tree], consistency).await.unwrap(), TxnResult::Applied(vec![]));
    }
}

#[tokio::test]
async fn one_consistent_read_brings_keys_and_prefixes_and_nothing_else() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    for key in ["a/barrier", "a/barrier-old", "a/acks/n1", "a/acks/n2", "a/nodes/n1", "a/other"] {
        client.kv_put(&format!("txn/snap/{key}"), key).await.unwrap();
    }
    let key = |name: &str| Read::Key(format!("txn/snap/a/{name}"));
    let prefix = |name: &str| Read::Prefix(format!("txn/snap/a/{name}"));
    let reads = [key("barrier"), key("abort"), prefix("acks/"), prefix("nodes/"), prefix("history/")];
    let snapshot = client.snapshot(&reads, Consistency::Consistent).await.unwrap();
    assert_eq!(snapshot.key("txn/snap/a/barrier").unwrap().value, b"a/barrier");
    assert!(snapshot.key("txn/snap/a/abort").is_none());
    let all: Vec<_> = snapshot.under("txn/snap/").map(|e| e.key.trim_start_matches("txn/snap/a/")).collect();
    assert_eq!(all, ["acks/n1", "acks/n2", "barrier", "nodes/n1"]);
    assert_eq!(snapshot.under("txn/snap/a/history/").count(), 0);
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_size_before_it_is_sent() {
    // Nothing listens there: an error about size shows that nothing was sent.
    let settings = Settings { address: "127.0.0.1:1".to_owned(), ..Settings::default() };
    let client = Client::new(&settings).unwrap();
    let many: Vec<TxnOp> = (0..65).map(|n| set(&format!("txn/many/{n}"), "x")).collect();
    let error = client.txn(&many, Consistency::Default).await.unwrap_err();
    assert!(error.to_string().contains("65 operations"), "{error}");
    assert!(!error.outcome_unknown());
    let error = client.txn(&[set("txn/large", &"x".repeat(400_000))], Consistency::Default).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: 533_334.., .. }), "{error}");

    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    assert!(matches!(client.txn(&many[..64], Consistency::Default).await.unwrap(), TxnResult::Applied(_)));
    let fits = set("txn/large", &"x".repeat(390_000));
    assert!(matches!(client.txn(&[fits], Consistency::Default).await.unwrap(), TxnResult::Applied(_)));
}
