//! Every source of credentials that the AWS tools know, also where it fails once.

use crate::Bucket;
use crate::aws::{Answer, KEYS, Request, Server, metadata, sts};
use crate::child::Child;

/// The bucket takes the keys "test" and "secret" only.
const FOUND: &str = "found at 1: None";

fn at(bucket: &Bucket) -> Child {
    Child::new().with("AWS_ENDPOINT_URL_S3", &bucket.server.endpoint())
}

async fn finds(child: &Child, source: &str) {
    let said = child.ask().await;
    assert!(said.contains(FOUND), "{source}: {said}");
}

/// How a service fails once; none: it does not.
fn first_failures() -> [(&'static str, Option<Answer>); 4] {
    [
        ("at once", None),
        ("status 500", Some(Answer::status(500))),
        ("closed", Some(Answer::Close)),
        ("no answer", Some(Answer::Hang)),
    ]
}

#[tokio::test]
async fn keys_come_from_variables_and_profiles() {
    let bucket = Bucket::start().await;
    finds(&at(&bucket).with_keys(), "variables").await;
    let child = at(&bucket).with("AWS_PROFILE", "deploy");
    child.write(".aws/credentials", "[deploy]\naws_access_key_id = test\naws_secret_access_key = secret\n");
    finds(&child, "the credentials file").await;
    let child = at(&bucket).without("AWS_REGION");
    let config = "[default]\naws_access_key_id = test\naws_secret_access_key = secret\nregion = eu-west-1\n";
    let path = child.write("elsewhere", config);
    finds(&child.with("AWS_CONFIG_FILE", &path), "another config file").await;
    let child = at(&bucket);
    let keys = child.write("keys.json", KEYS);
    child.write(".aws/config", &format!("[default]\ncredential_process = cat \"{keys}\"\n"));
    finds(&child, "credential_process").await;
}

#[tokio::test]
async fn roles_are_assumed_at_sts() {
    let bucket = Bucket::start().await;
    for (how, first) in first_failures().into_iter().take(3) {
        let server = Server::start_failing(first, sts).await;
        let child = at(&bucket).with("AWS_ENDPOINT_URL_STS", &server.url());
        child.write(
            ".aws/config",
            "[default]\nrole_arn = arn:aws:iam::1:role/web\nsource_profile = base\n\
             [profile base]\naws_access_key_id = base\naws_secret_access_key = base\n",
        );
        finds(&child, &format!("role_arn, {how}")).await;
        assert!(server.requests().last().unwrap().body.contains("Action=AssumeRole&"), "{:?}", server.requests());
    }
    // The SDK would wait for such an answer until its cache gives up, after most of a minute.
    let server = Server::start_failing(Some(Answer::Hang), sts).await;
    let child = at(&bucket).with("AWS_ENDPOINT_URL_STS", &server.url()).with("AWS_ROLE_ARN", "arn:aws:iam::1:role/web");
    let token = child.write("token", "a-web-token");
    finds(&child.with("AWS_WEB_IDENTITY_TOKEN_FILE", &token), "web identity").await;
    assert!(server.requests().last().unwrap().body.contains("WebIdentityToken=a-web-token"), "{:?}", server.requests());
}

#[tokio::test]
async fn a_role_that_sts_refuses_is_a_final_failure() {
    let bucket = Bucket::start().await;
    let denied = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
        <Code>AccessDenied</Code><Message>not for you</Message></Error></ErrorResponse>";
    let refuse = move |_: &Request, _| Answer::Say { status: 403, header: "", body: denied.to_owned() };
    let server = Server::start(refuse).await;
    let child = at(&bucket).with("AWS_ENDPOINT_URL_STS", &server.url()).with("AWS_ROLE_ARN", "arn:aws:iam::1:role/web");
    let token = child.write("token", "a-web-token");
    let said = child.with("AWS_WEB_IDENTITY_TOKEN_FILE", &token).ask().await;
    let expected = "cannot be used: not for you\n";
    assert!(said.matches("failed: credentials: ").count() == 2 && said.contains(expected), "{said}");
}

#[tokio::test]
async fn a_container_gets_the_keys_of_its_role() {
    let bucket = Bucket::start().await;
    for (how, first) in first_failures().into_iter().take(3) {
        let server = Server::start_failing(first, |_| Answer::ok(KEYS)).await;
        let url = format!("{}/role", server.url());
        let child = at(&bucket).with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url);
        finds(&child.with("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let-me-in"), how).await;
        assert_eq!(server.requests().last().unwrap().headers["authorization"], "let-me-in");
    }
}

#[tokio::test]
async fn an_instance_gets_keys_and_region_from_its_metadata_service_which_is_asked_again() {
    let bucket = Bucket::start().await;
    for (how, first) in first_failures() {
        let server = Server::start_failing(first, metadata).await;
        let child = at(&bucket).without("AWS_EC2_METADATA_DISABLED");
        finds(&child.with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url()), how).await;
    }
}

#[tokio::test]
async fn a_metadata_service_that_goes_on_failing_is_a_passing_failure() {
    let bucket = Bucket::start().await;
    let server = Server::start(|_, _| Answer::Close).await;
    let child = at(&bucket).without("AWS_EC2_METADATA_DISABLED");
    let said = child.with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url()).ask().await;
    assert_eq!(said.matches("failed: credentials_unavailable: ").count(), 2, "{said}");
}

#[tokio::test]
async fn a_metadata_service_that_is_disabled_is_none() {
    let bucket = Bucket::start().await;
    let server = Server::start(|_, _| Answer::status(403)).await;
    let child = at(&bucket).without("AWS_EC2_METADATA_DISABLED");
    let said = child.with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url()).ask().await;
    assert!(said.contains("failed: no_credentials: ") && said.contains("metadata service is disabled"), "{said}");
}

#[tokio::test]
async fn an_sso_profile_is_named_with_what_to_use_instead() {
    let bucket = Bucket::start().await;
    let child = at(&bucket).with("AWS_PROFILE", "dev");
    child.write(
        ".aws/config",
        "[profile dev]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = web\n\
         [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.example\n",
    );
    let said = child.ask().await;
    for needed in ["failed: credentials", "profile \"dev\"", "SSO", "aws configure export-credentials --profile dev"] {
        assert!(said.matches(needed).count() >= 2, "{needed}: {said}");
    }
}

#[tokio::test]
async fn missing_credentials_or_region_are_explained_in_one_line() {
    let bucket = Bucket::start().await;
    let said = at(&bucket).ask().await;
    let line = said.lines().find(|line| line.starts_with("failed: no_credentials")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("AWS_ACCESS_KEY_ID") && !said.contains("\n  Environment"), "{said}");
    let said = Child::new().with_keys().without("AWS_REGION").ask().await;
    assert!(said.contains("failed: settings") && said.contains("store.region"), "{said}");
}
