//! The printed policies of AWS, enforced by a server: they allow what each role does, and nothing else.

use std::process::Command;

use cutover::artifact::store::{Class, S3Credentials, S3Store, Store, Upload};
use cutover_rig::iam::Policy;
use cutover_rig::s3::S3Server;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{BUCKET, LOCALHOST, app, limits, noise, settings_at, write};

const ROLES: [&str; 3] = ["node", "coordinator", "ci"];

/// What `cutover iam-policy` prints for a role.
fn printed(role: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    let arguments = ["iam-policy", role, "--store", &format!("s3://{BUCKET}/builds"), "--store-region", "eu-west-1"];
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn user(role: &str) -> S3Credentials {
    S3Credentials { access_key: role.to_owned(), secret_key: "secret".to_owned() }
}

/// A server with one user per role, who may do what the policy allows.
struct Guarded {
    server: S3Server,
    disk: TempDir,
}

impl Guarded {
    async fn start(policy: impl Fn(&str) -> Value) -> Self {
        let disk = tempfile::tempdir().unwrap();
        let users = ROLES.map(|role| (user(role), Policy::new(policy(role))));
        let server = S3Server::start_for(LOCALHOST, disk.path(), BUCKET, &users).await.unwrap();
        Self { server, disk }
    }

    fn store(&self, role: &str) -> Store {
        let settings = settings_at(&self.server.endpoint(), limits());
        Store::S3(S3Store::with_credentials(BUCKET, "builds", &settings, &user(role)).unwrap())
    }

    async fn put(&self, role: &str, key: &str, mebibytes: usize) -> Result<(), Class> {
        let file = write(self.disk.path(), "content", &noise((mebibytes << 20) + 1));
        self.store(role).put_file(key, &file, &Upload::default()).await.map_err(|error| error.class())
    }
}

#[tokio::test]
async fn the_printed_policies_allow_what_each_role_does_and_no_more() {
    let guarded = Guarded::start(printed).await;
    let (archive, segment) = ("builds/shop/master-15e9f13a.tar.gz", "builds/shop/history/production-1");
    // CI uploads in one request and in parts, reads, replaces, and removes.
    for mebibytes in [1, 11] {
        guarded.put("ci", archive, mebibytes).await.unwrap();
    }
    let ci = guarded.store("ci");
    assert!(ci.head(archive).await.unwrap().is_some());
    assert_eq!(ci.head("builds/shop/missing").await.unwrap(), None, "a missing object is known to be missing");
    ci.remove_dead_uploads(&app()).await;
    let stop = Upload::default();
    stop.stop.cancel();
    let file = write(guarded.disk.path(), "content", &noise(11 << 20));
    ci.put_file(archive, &file, &stop).await.unwrap_err();
    // Each agent reads.
    for role in ["node", "coordinator"] {
        let store = guarded.store(role);
        assert!(store.get(archive, 100).await.unwrap().next_chunk().await.unwrap().is_some());
        assert_eq!(store.head("builds/shop/missing").await.unwrap(), None);
        assert_eq!(store.delete(archive).await.unwrap_err().class(), Class::Forbidden);
        // A refused request with a long body may end with a cut connection.
        for mebibytes in [0, 11] {
            assert_eq!(guarded.put(role, archive, mebibytes).await, Err(Class::Forbidden), "{role}");
        }
    }
    // A coordinator writes the history, and no other agent does.
    guarded.put("coordinator", segment, 1).await.unwrap();
    assert!(guarded.store("coordinator").head(segment).await.unwrap().is_some());
    assert_eq!(guarded.put("node", segment, 0).await, Err(Class::Forbidden));
    // Nobody leaves the prefix.
    for role in ROLES {
        assert_eq!(guarded.put(role, "elsewhere/shop/history/x", 0).await, Err(Class::Forbidden), "{role}");
    }
    ci.delete(archive).await.unwrap();
    assert_eq!(ci.head(archive).await.unwrap(), None);
}

#[tokio::test]
async fn the_server_of_these_tests_refuses_what_a_policy_lacks() {
    let without_list = |role: &str| {
        let mut policy = printed(role);
        let statements = policy["Statement"].as_array_mut().unwrap();
        statements.retain(|statement| statement["Resource"] != json!(format!("arn:aws:s3:::{BUCKET}")));
        policy
    };
    let guarded = Guarded::start(without_list).await;
    guarded.put("ci", "builds/shop/x", 1).await.unwrap();
    let node = guarded.store("node");
    assert!(node.head("builds/shop/x").await.unwrap().is_some());
    assert_eq!(node.head("builds/shop/missing").await.unwrap_err().class(), Class::Forbidden);
}
