//! ACLs with default deny: what is refused is refused by name, and who a token is.

use std::process::Command;

use cutover::consul::{Class, Client, Consistency, Error, SessionSpec, Settings, TxnOp, TxnResult};
use cutover::protocol::ids::ModifyIndex;
use cutover_rig::cluster::ClusterSpec;

use crate::support::{bin, both_ways, shared, shared_with_acl, start};

const RULES: &str = r#"
key "acl/own" { policy = "write" }
key_prefix "acl/read/" { policy = "read" }
session "n1" { policy = "write" }
event "cutover-build" { policy = "write" }
node_prefix "" { policy = "read" }
"#;

#[tokio::test]
async fn a_refused_operation_names_the_missing_right() {
    let fleet = shared_with_acl().await;
    fleet.cluster.create_policy("narrow", RULES).await.unwrap();
    let token = fleet.cluster.create_token("ann's token", &["narrow"]).await.unwrap();
    let admin = fleet.cluster.client(0).unwrap();
    admin.kv_put("acl/read/x", "x").await.unwrap();
    admin.kv_put("acl/secret/x", "x").await.unwrap();
    for (way, other) in both_ways(&fleet) {
        let client = other.with_token(Some(&token)).unwrap();
        client.kv_put("acl/own", way).await.unwrap();
        assert!(client.kv_get("acl/read/x", Consistency::Default).await.unwrap().is_some());
        let errors = [
            client.kv_get("acl/secret/x", Consistency::Default).await.unwrap_err(),
            client.kv_put("acl/read/x", "y").await.unwrap_err(),
            client.kv_cas("acl/ownx", "y", ModifyIndex(0)).await.unwrap_err(),
            client.kv_delete_cas("acl/read/x", ModifyIndex(1)).await.unwrap_err(),
            client.event_fire("cutover-other", "x").await.unwrap_err(),
            client.agent_self().await.unwrap_err(),
            client.policy_create("mine", "").await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_forbidden() && error.class() == Class::Forbidden, "{way}: {error}");
            assert!(!error.outcome_unknown());
            assert!(!format!("{error} {error:?}").contains(token.expose()), "{way}");
        }
        // A list is filtered, not refused.
        assert_eq!(client.kv_keys("acl/", Consistency::Default).await.unwrap().len(), 2);
        assert_eq!(client.catalog_nodes().await.unwrap(), ["n1"]);
        client.event_fire("cutover-build", "shop").await.unwrap();
        let session = client.session_create(&SessionSpec::new("ann")).await.unwrap();
        assert!(client.session_renew(&session).await.unwrap());
    }
}

#[tokio::test]
async fn a_transaction_without_the_right_is_forbidden_and_not_refused() {
    let fleet = shared_with_acl().await;
    let admin = fleet.cluster.client(0).unwrap();
    admin.policy_create("txn", r#"key "acltxn/own" { policy = "write" }"#).await.unwrap();
    let token = admin.token_create("txn", &["txn"]).await.unwrap();
    let client = admin.with_token(Some(&token)).unwrap();
    let set = |key: &str| TxnOp::Set { key: key.to_owned(), value: b"x".to_vec() };
    let result = client.txn(&[set("acltxn/own")], Consistency::Default).await.unwrap();
    assert!(matches!(result, TxnResult::Applied(_)), "{result:?}");
    let error = client.txn(&[set("acltxn/own"), set("acltxn/own2")], Consistency::Default).await.unwrap_err();
    assert!(error.is_forbidden() && !error.outcome_unknown(), "{error}");
    assert_eq!(admin.kv_get("acltxn/own2", Consistency::Consistent).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_knows_who_it_is() {
    let fleet = shared_with_acl().await;
    let admin = fleet.cluster.client(0).unwrap();
    let token = admin.token_create("deploys by ann", &[]).await.unwrap();
    let own = admin.with_token(Some(&token)).unwrap().token_self().await.unwrap().unwrap();
    assert_eq!(own.description, "deploys by ann");
    assert_eq!(own.accessor_id.len(), 36);
    let stranger = cutover::consul::Secret::new("00000000-0000-4000-8000-000000000000");
    let error = admin.with_token(Some(&stranger)).unwrap().token_self().await.unwrap_err();
    assert!(error.is_forbidden(), "{error}");

    let open = shared().await;
    let client: Client = open.cluster.client(0).unwrap();
    assert_eq!(client.token_self().await.unwrap(), None, "without ACLs nobody is anybody");
}

#[tokio::test]
async fn without_a_token_the_client_is_anonymous_even_if_consuls_agent_has_a_default_token() {
    // Of its own: what the others ask without a token is to be refused.
    let fleet = start(ClusterSpec { servers: 1, acl: true, ..ClusterSpec::default() }).await;
    let place = fleet.cluster.node(0).unwrap();
    let token = fleet.cluster.management_token().unwrap().expose();
    let given = Command::new(bin())
        .args(["acl", "set-agent-token", "-http-addr", &place.http_addr(), "default", token])
        .env("CONSUL_HTTP_TOKEN", token)
        .output()
        .unwrap();
    assert!(given.status.success(), "{}", String::from_utf8_lossy(&given.stderr));
    for (way, admin) in both_ways(&fleet) {
        admin.kv_put("secret", "x").await.unwrap();
        let anonymous = admin.with_token(None).unwrap();
        let read = anonymous.kv_get("secret", Consistency::Default).await;
        assert!(read.as_ref().is_err_and(Error::is_forbidden), "{way}: {read:?}");
        let written = anonymous.kv_put("secret", "y").await;
        assert!(written.as_ref().is_err_and(Error::is_forbidden), "{way}: {written:?}");
    }
    // A call without any token is what Consul's agent lends its own to.
    let settings = Settings { token: None, ..fleet.cluster.settings(0).unwrap() };
    let lent = Client::new(&settings).unwrap().kv_get("secret", Consistency::Default).await.unwrap();
    assert_eq!(lent.unwrap().value, b"x");
}
