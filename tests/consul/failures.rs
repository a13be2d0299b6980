//! Consul away, frozen, without a leader: every call ends, and says what may be concluded.

use std::net::TcpListener;
use std::time::Duration;

use cutover::consul::{Change, Class, Client, Consistency, Error, SessionId, Settings, TxnOp, Watch};
use cutover::protocol::ids::ModifyIndex;
use cutover_rig::cluster::ClusterSpec;
use rustix::process::Signal;

use crate::support::{both_ways, start};

#[tokio::test]
async fn a_refused_connection_is_unreachable_and_nothing_was_sent() {
    // Taken and given back: nobody listens on it now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new(&Settings { address: address.to_string(), ..Settings::default() }).unwrap();
    for error in [
        client.kv_put("a", "x").await.unwrap_err(),
        client.kv_get("a", Consistency::Default).await.unwrap_err(),
        client.catalog_nodes().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(error.is_unreachable() && error.class() == Class::Transient && !error.outcome_unknown());
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_frozen_agent_costs_the_time_limit_and_leaves_writes_unknown() {
    let mut fleet = start(ClusterSpec { servers: 1, ..ClusterSpec::default() }).await;
    let [(_, rs), (_, own)] = both_ways(&fleet);
    for client in [&rs, &own] {
        client.kv_put("frozen", "x").await.unwrap();
    }
    let mut watch = Watch::key(&own, "frozen", Consistency::Stale).with_wait(Duration::from_secs(1));
    watch.next().await;
    fleet.cluster.signal(0, Signal::STOP).unwrap();
    let session = SessionId::new("00000000-0000-4000-8000-000000000000");
    let txn = [TxnOp::Delete { key: "frozen".to_owned() }];
    let (put, cas, whole, get, renew, change) = tokio::join!(
        rs.kv_put("frozen", "rs"),
        own.kv_cas("frozen", "own", ModifyIndex(1)),
        own.txn(&txn, Consistency::Default),
        own.kv_get("frozen", Consistency::Default),
        own.session_renew(&session),
        watch.next(),
    );
    for error in [put.unwrap_err(), cas.unwrap_err(), whole.unwrap_err()] {
        assert!(matches!(error, Error::TimedOut { .. }) && error.outcome_unknown(), "{error}");
    }
    let error = get.unwrap_err();
    assert!(error.is_unreachable() && !error.outcome_unknown(), "{error}");
    assert!(matches!(renew.unwrap_err(), Error::TimedOut { .. }));
    assert!(matches!(change, Change::Failed(Error::TimedOut { .. })), "{change:?}");
    fleet.cluster.signal(0, Signal::CONT).unwrap();
}

#[tokio::test]
async fn without_a_quorum_only_stale_reads_answer() {
    let mut fleet = start(ClusterSpec { servers: 3, ..ClusterSpec::default() }).await;
    let client = fleet.cluster.client(0).unwrap();
    client.kv_put("quorum", "x").await.unwrap();
    // The write is on the leader and one more; wait until it is here too.
    crate::support::eventually("the first server has it", async || {
        client.kv_get("quorum", Consistency::Stale).await.unwrap()
    })
    .await;
    fleet.cluster.kill(1).unwrap();
    fleet.cluster.kill(2).unwrap();
    let read = client.kv_get("quorum", Consistency::Consistent).await.unwrap_err();
    assert!(read.class() == Class::Transient && !read.outcome_unknown(), "{read}");
    let write = client.kv_put("quorum", "y").await.unwrap_err();
    assert!(write.class() == Class::Transient && write.outcome_unknown(), "{write}");
    let tree = [TxnOp::GetTree { prefix: "quorum".to_owned() }];
    assert!(client.txn(&tree, Consistency::Consistent).await.is_err(), "a consistent read needs a quorum");
    assert!(client.txn(&tree, Consistency::Stale).await.is_ok());
    assert_eq!(client.kv_get("quorum", Consistency::Stale).await.unwrap().unwrap().value, b"x");
}
