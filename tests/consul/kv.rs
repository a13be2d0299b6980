//! Keys and values, on both ways to Consul.

use cutover::consul::{Consistency, Error, SessionId, SessionSpec, VALUE_LIMIT_BYTES};
use cutover::protocol::ids::ModifyIndex;

use crate::support::{both_ways, shared};

#[tokio::test]
async fn a_lost_check_and_set_writes_nothing() {
    let fleet = shared().await;
    for (way, client) in both_ways(&fleet) {
        let key = format!("kv/cas/{way}");
        assert!(client.kv_cas(&key, "first", ModifyIndex(0)).await.unwrap());
        assert!(!client.kv_cas(&key, "again", ModifyIndex(0)).await.unwrap(), "{way}: index 0 only creates");
        let first = client.kv_get(&key, Consistency::Consistent).await.unwrap().unwrap();
        assert!(client.kv_cas(&key, "second", first.modify_index).await.unwrap());
        assert!(!client.kv_cas(&key, "late", first.modify_index).await.unwrap(), "{way}");
        let stands = client.kv_get(&key, Consistency::Default).await.unwrap().unwrap();
        assert_eq!(stands.value, b"second");
        assert!(stands.modify_index > first.modify_index && stands.create_index == first.create_index);
    }
}

#[tokio::test]
async fn the_same_bytes_again_move_no_index_and_pass_again() {
    let fleet = shared().await;
    for (way, client) in both_ways(&fleet) {
        let key = format!("kv/same/{way}");
        client.kv_put(&key, "x").await.unwrap();
        let first = client.kv_get(&key, Consistency::Default).await.unwrap().unwrap();
        assert!(client.kv_cas(&key, "x", first.modify_index).await.unwrap());
        assert!(client.kv_cas(&key, "x", first.modify_index).await.unwrap());
        client.kv_put(&key, "x").await.unwrap();
        assert_eq!(client.kv_get(&key, Consistency::Default).await.unwrap().unwrap(), first);
    }
}

#[tokio::test]
async fn a_delete_takes_exactly_its_key_and_only_at_its_index() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let keys = ["kv/delete/n1", "kv/delete/n1/sub", "kv/delete/n10"];
    for key in keys {
        client.kv_put(key, "x").await.unwrap();
    }
    let entry = client.kv_get(keys[0], Consistency::Default).await.unwrap().unwrap();
    assert!(!client.kv_delete_cas(keys[0], ModifyIndex(entry.modify_index.0 - 1)).await.unwrap());
    let error = client.kv_delete_cas(keys[0], ModifyIndex(0)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(client.kv_keys("kv/delete/", Consistency::Default).await.unwrap(), keys);
    assert!(client.kv_delete_cas(keys[0], entry.modify_index).await.unwrap());
    assert_eq!(client.kv_keys("kv/delete/", Consistency::Default).await.unwrap(), keys[1..]);
    assert!(client.kv_delete_cas("", ModifyIndex(1)).await.is_err(), "that would name the whole store");
}

#[tokio::test]
async fn values_are_bytes_and_keys_are_escaped() {
    let fleet = shared().await;
    for (way, client) in both_ways(&fleet) {
        let prefix = format!("kv/bytes {way}?a=b&c#d/");
        let (binary, empty) = (format!("{prefix}binary%2F"), format!("{prefix}empty"));
        client.kv_put(&binary, [0xff, 0x00, 0xfe]).await.unwrap();
        client.kv_put(&empty, "").await.unwrap();
        let entries = client.kv_list(&prefix, Consistency::Stale).await.unwrap();
        let found: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.value.as_slice())).collect();
        assert_eq!(found, [(binary.as_str(), [0xff, 0x00, 0xfe].as_slice()), (empty.as_str(), &[])]);
    }
}

#[tokio::test]
async fn missing_keys_read_as_none_or_empty() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    client.kv_put("kv/absent/below/x", "x").await.unwrap();
    assert_eq!(client.kv_get("kv/absent/below", Consistency::Default).await.unwrap(), None);
    assert_eq!(client.kv_list("kv/absent/none/", Consistency::Default).await.unwrap(), []);
    assert!(client.kv_keys("kv/absent/none/", Consistency::Default).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lock_has_one_holder_and_release_frees_it_at_once() {
    let fleet = shared().await;
    for (way, client) in both_ways(&fleet) {
        let key = format!("kv/lock/{way}");
        let one = client.session_create(&SessionSpec::new("one")).await.unwrap();
        let two = client.session_create(&SessionSpec::new("two")).await.unwrap();
        assert!(client.kv_acquire(&key, "one", &one).await.unwrap());
        assert!(!client.kv_acquire(&key, "two", &two).await.unwrap());
        assert!(client.kv_acquire(&key, "one again", &one).await.unwrap(), "{way}: the holder may write");
        assert!(!client.kv_release(&key, "", &two).await.unwrap());
        let held = client.kv_get(&key, Consistency::Default).await.unwrap().unwrap();
        assert_eq!(held.session.as_ref(), Some(&one));
        assert_eq!(held.value.as_slice(), b"one again".as_slice());
        assert!(client.kv_release(&key, "free", &one).await.unwrap());
        assert!(client.kv_acquire(&key, "two", &two).await.unwrap());
        let dead = SessionId::new("00000000-0000-4000-8000-000000000000");
        let error = client.kv_acquire(&key, "dead", &dead).await.unwrap_err();
        assert!(matches!(error, Error::InvalidSession { .. }) && !error.outcome_unknown(), "{way}: {error}");
    }
}

#[tokio::test]
async fn the_largest_value_fits_and_one_byte_more_is_refused_here() {
    let fleet = shared().await;
    for (way, client) in both_ways(&fleet) {
        let key = format!("kv/size/{way}");
        client.kv_put(&key, vec![b'x'; VALUE_LIMIT_BYTES]).await.unwrap();
        let error = client.kv_put(&key, vec![b'x'; VALUE_LIMIT_BYTES + 1]).await.unwrap_err();
        assert!(error.to_string().contains("524289 bytes"), "{error}");
    }
}
