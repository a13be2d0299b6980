//! Sessions: life, end, and what becomes of their keys.

use cutover::consul::{Behavior, Consistency, SessionId, SessionSpec};
use cutover_rig::cluster::ClusterSpec;

use crate::support::{eventually, shared, start};

#[tokio::test]
async fn a_session_lives_until_it_is_destroyed() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let id = client.session_create(&SessionSpec::new("presence")).await.unwrap();
    assert!(client.session_renew(&id).await.unwrap());
    let info = client.session_info(&id, Consistency::Consistent).await.unwrap().unwrap();
    assert_eq!(info.node.as_str(), "n1");
    assert_eq!(info.name.as_str(), "presence");
    assert_eq!(info.id, id);
    assert!(client.session_list(Consistency::Consistent).await.unwrap().contains(&info));
    client.session_destroy(&id).await.unwrap();
    assert!(!client.session_renew(&id).await.unwrap(), "a dead session is not renewed");
    assert_eq!(client.session_info(&id, Consistency::Consistent).await.unwrap(), None);
    client.session_destroy(&id).await.unwrap();
    let unknown = SessionId::new("00000000-0000-4000-8000-000000000000");
    assert!(!client.session_renew(&unknown).await.unwrap());
}

#[tokio::test]
async fn a_session_that_nobody_renews_ends_and_lets_its_keys_go() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let kept = client.session_create(&SessionSpec::new("kept")).await.unwrap();
    let deleting = SessionSpec { behavior: Behavior::Delete, ..SessionSpec::new("deleting") };
    let deleting = client.session_create(&deleting).await.unwrap();
    assert!(client.kv_acquire("sessions/ttl/kept", "x", &kept).await.unwrap());
    assert!(client.kv_acquire("sessions/ttl/deleted", "x", &deleting).await.unwrap());
    eventually("both sessions end", async || {
        let kept = client.session_info(&kept, Consistency::Consistent).await.unwrap();
        let deleting = client.session_info(&deleting, Consistency::Consistent).await.unwrap();
        (kept.is_none() && deleting.is_none()).then_some(())
    })
    .await;
    let left = client.kv_list("sessions/ttl/", Consistency::Consistent).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].key.as_str(), "sessions/ttl/kept");
    assert_eq!(left[0].session, None);
    // Without lock-delay the key is free at once.
    let next = client.session_create(&SessionSpec::new("next")).await.unwrap();
    assert!(client.kv_acquire("sessions/ttl/kept", "y", &next).await.unwrap());
}

#[tokio::test]
async fn a_session_ends_with_its_nodes_agent_and_the_node_can_come_back() {
    let mut fleet = start(ClusterSpec { servers: 1, clients: 1, ..ClusterSpec::default() }).await;
    let (server, node) = (fleet.cluster.client(0).unwrap(), fleet.cluster.client(1).unwrap());
    assert_eq!(server.catalog_nodes().await.unwrap(), ["n1", "n2"]);
    let id = node.session_create(&SessionSpec::new("node")).await.unwrap();
    assert_eq!(server.session_info(&id, Consistency::Consistent).await.unwrap().unwrap().node, "n2");
    let pid = fleet.cluster.node(1).unwrap().pid().unwrap();
    fleet.cluster.stop(1).await.unwrap();
    assert_eq!(fleet.cluster.node(1).unwrap().pid(), None);
    eventually("the session ends with its agent", async || {
        server.session_info(&id, Consistency::Consistent).await.unwrap().is_none().then_some(())
    })
    .await;
    fleet.cluster.restart(1).await.unwrap_or_else(|e| panic!("{e}"));
    assert_ne!(fleet.cluster.node(1).unwrap().pid(), Some(pid));
    assert!(!node.session_renew(&id).await.unwrap());
    node.session_create(&SessionSpec::new("node")).await.unwrap();
}
