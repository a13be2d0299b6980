//! `cutover iam-policy`: prints the least policy of AWS for a role, for the configured bucket and prefix.
//!
//! The permissions follow from the calls of the role's code ([`StoreRole`]). Changes nothing, and sends nothing.

use serde_json::{Value, json};

use crate::artifact::store::{Permission, StoreRole, StoreUrl, Subject};
use crate::cli::args::{IamPolicy, IamRole};
use crate::cli::output;
use crate::cli::store::{Location, locate};
use crate::control::{Code, Failure};
use crate::protocol::ids::App;

/// The version of the policy language: IAM User Guide, "IAM JSON policy elements: Version".
const LANGUAGE: &str = "2012-10-17";

/// Prints the policy.
///
/// # Errors
///
/// Exit code 2 if no bucket is configured.
pub(crate) async fn run(args: &IamPolicy) -> Result<Code, Failure> {
    let location = locate(&args.store).await?;
    let role = match args.role {
        IamRole::Node => StoreRole::Node,
        IamRole::Coordinator => StoreRole::Coordinator,
        IamRole::Ci => StoreRole::Ci,
    };
    let policy = policy(&location, role, args.app.as_ref())?;
    output::result(&format!("{policy:#}\n"))?;
    Ok(Code::Done)
}

fn policy(location: &Location, role: StoreRole, app: Option<&App>) -> Result<Value, Failure> {
    let StoreUrl::S3 { bucket, prefix } = location.url() else {
        return Err(Failure::new(Code::Usage, "the artifact store is a directory, which needs no policy of AWS")
            .hint("set --store s3://bucket/prefix"));
    };
    let partition = partition(location.region().as_deref());
    let bucket = format!("arn:{partition}:s3:::{bucket}");
    let of_app = app.map_or("*", App::as_str);
    let below = if prefix.is_empty() { format!("/{of_app}") } else { format!("/{prefix}/{of_app}") };
    let resource = |subject| match (subject, app) {
        (Subject::Bucket, _) => bucket.clone(),
        (Subject::History, _) => format!("{bucket}{below}/history/*"),
        (Subject::Objects, Some(_)) => format!("{bucket}{below}/*"),
        (Subject::Objects, None) => format!("{bucket}{below}"),
    };
    let permissions = role.permissions();
    let statements: Vec<Value> = [Subject::Objects, Subject::History, Subject::Bucket]
        .into_iter()
        .filter_map(|subject| {
            let of_subject = permissions.iter().filter(|it: &&Permission| it.subject == subject);
            let actions: Vec<&str> = of_subject.map(|it| it.action).collect();
            (!actions.is_empty()).then(|| json!({"Effect": "Allow", "Action": actions, "Resource": resource(subject)}))
        })
        .collect();
    Ok(json!({"Version": LANGUAGE, "Statement": statements}))
}

/// The first part of Amazon Resource Names, which differs in a few regions: AWS General Reference, "ARNs".
fn partition(region: Option<&str>) -> &'static str {
    match region {
        Some(region) if region.starts_with("cn-") => "aws-cn",
        Some(region) if region.starts_with("us-gov-") => "aws-us-gov",
        Some(_) | None => "aws",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::StoreArgs;

    async fn printed(url: &str, region: Option<&str>, role: StoreRole, app: Option<&str>) -> Result<Value, Failure> {
        let store = Some(url.to_owned());
        let args = StoreArgs { store, store_region: region.map(str::to_owned), ..StoreArgs::default() };
        let app = app.map(|app| app.parse::<App>().unwrap());
        policy(&locate(&args).await.unwrap(), role, app.as_ref())
    }

    #[tokio::test]
    async fn a_policy_names_the_configured_bucket_and_prefix() {
        let coordinator = printed("s3://artifacts/builds", None, StoreRole::Coordinator, None).await.unwrap();
        let statement =
            |actions: &[&str], resource: &str| json!({"Effect": "Allow", "Action": actions, "Resource": resource});
        let expected = json!({"Version": "2012-10-17", "Statement": [
            statement(&["s3:GetObject"], "arn:aws:s3:::artifacts/builds/*"),
            statement(&["s3:PutObject"], "arn:aws:s3:::artifacts/builds/*/history/*"),
            statement(&["s3:ListBucket"], "arn:aws:s3:::artifacts"),
        ]});
        assert_eq!(coordinator, expected);
    }

    #[tokio::test]
    async fn app_and_region_narrow_it_down() {
        let resources = async |url, region, app| {
            let policy = printed(url, region, StoreRole::Coordinator, app).await.unwrap();
            policy["Statement"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["Resource"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            resources("s3://artifacts/a/b", Some("cn-north-1"), Some("shop")).await,
            [
                "arn:aws-cn:s3:::artifacts/a/b/shop/*",
                "arn:aws-cn:s3:::artifacts/a/b/shop/history/*",
                "arn:aws-cn:s3:::artifacts"
            ]
        );
        assert_eq!(
            resources("s3://artifacts", Some("us-gov-west-1"), None).await,
            [
                "arn:aws-us-gov:s3:::artifacts/*",
                "arn:aws-us-gov:s3:::artifacts/*/history/*",
                "arn:aws-us-gov:s3:::artifacts"
            ]
        );
    }

    #[tokio::test]
    async fn a_directory_has_no_policy() {
        let refused = printed("dir:///srv/artifacts", None, StoreRole::Node, None).await.unwrap_err();
        assert_eq!(refused.code, Code::Usage);
    }
}
