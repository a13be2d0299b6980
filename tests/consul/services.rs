//! The agent: who it is, services, checks, events.

use std::collections::BTreeMap;
use std::time::Duration;

use cutover::consul::{Check, CheckStatus, Error, Service};

use crate::support::{eventually, shared};

fn check(id: &str) -> Check {
    Check {
        id: id.to_owned(),
        name: "follows the release".to_owned(),
        notes: "critical while the node runs another release".to_owned(),
        ttl: Duration::from_mins(10),
        status: CheckStatus::Critical,
    }
}

#[tokio::test]
async fn a_service_and_a_check_of_anothers_service_come_and_go() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let service = Service {
        id: "cutover-shop-production".to_owned(),
        name: "cutover".to_owned(),
        tags: vec!["shop/production".to_owned()],
        meta: BTreeMap::from([("version".to_owned(), "0.1.0".to_owned())]),
        port: Some(8740),
        check: check("cutover:shop/production"),
    };
    client.service_register(&service).await.unwrap();
    let found = &client.agent_services().await.unwrap()[&service.id];
    assert_eq!(found.name, service.name);
    assert_eq!(found.tags, service.tags);
    assert_eq!(found.meta, service.meta);
    assert_eq!(found.port, 8740);
    client.check_update("cutover:shop/production", CheckStatus::Warning, "drift").await.unwrap();
    let checks = client.agent_checks().await.unwrap();
    let own = &checks["cutover:shop/production"];
    assert_eq!(own.status, CheckStatus::Warning);
    assert_eq!(own.output.as_str(), "drift");
    assert_eq!(own.service_id.as_str(), &*service.id);

    client.check_register(&check("follows"), Some(&service.id)).await.unwrap();
    client.check_update("follows", CheckStatus::Passing, "").await.unwrap();
    let checks = client.agent_checks().await.unwrap();
    assert_eq!(checks["follows"].status, CheckStatus::Passing);
    assert_eq!(checks["follows"].service_id.as_str(), &*service.id);
    client.check_deregister("follows").await.unwrap();
    assert!(client.check_update("follows", CheckStatus::Passing, "").await.is_err());
    let error = client.check_register(&check("lost"), Some("no-such-service")).await.unwrap_err();
    assert!(matches!(error, Error::Status { .. }) && error.to_string().contains("no-such-service"), "{error}");

    client.service_deregister(&service.id).await.unwrap();
    assert!(!client.agent_services().await.unwrap().contains_key(&service.id));
}

#[tokio::test]
async fn the_agent_says_who_it_is() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let agent = client.agent_self().await.unwrap();
    assert_eq!(agent.node.as_str(), "n1");
    assert_eq!(agent.datacenter.as_str(), "dc1");
    assert!(agent.version.contains('.'), "{agent:?}");
    eventually("the node is alive", async || client.alive_nodes().await.unwrap().contains("n1").then_some(())).await;
}

#[tokio::test]
async fn an_event_carries_a_hundred_bytes_and_no_more() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let id = client.event_fire("cutover-build", "x".repeat(100)).await.unwrap();
    assert_eq!(id.len(), 36);
    let error = client.event_fire("cutover-build", "x".repeat(101)).await.unwrap_err();
    assert!(error.to_string().contains("101 bytes"), "{error}");
}
