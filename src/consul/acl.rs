//! The identity and permissions of a token; also creates policies and tokens, for the demo and the tests.
//!
//! The answers are only hints for messages: `doctor` and `publish` use them to name a missing permission in advance. Consul
//! itself checks each request, so nothing here protects anything.

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Call, Client};
use super::error::{Error, Operation};
use super::settings::Secret;

/// How many permissions Consul checks in one call (64, since 1.6).
const RIGHTS_AT_ONCE: usize = 64;

/// The identity of a token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TokenSelf {
    /// The public id, which is safe to show.
    #[serde(rename = "AccessorID")]
    pub accessor_id: String,
    /// The description that an operator gave it.
    #[serde(default)]
    pub description: String,
}

/// A kind of resource in Consul's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resource {
    /// The agent's own endpoints, by the Consul agent's name.
    Agent,
    /// Events, by name.
    Event,
    /// Keys, by their full name.
    Key,
    /// Nodes of the catalog.
    Node,
    /// Services of the catalog.
    Service,
    /// Sessions, by the name of their Consul node.
    Session,
}

/// The level of a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Permit {
    Read,
    Write,
}

/// One permission on one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Right {
    pub(crate) resource: Resource,
    /// The resource's name. Empty means all resources, like a rule for the prefix `""`.
    #[serde(rename = "Segment")]
    pub(crate) name: String,
    #[serde(rename = "Access")]
    pub(crate) permit: Permit,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = match self.resource {
            Resource::Agent => "agent",
            Resource::Event => "event",
            Resource::Key => "key",
            Resource::Node => "node",
            Resource::Service => "service",
            Resource::Session => "session",
        };
        let permit = match self.permit {
            Permit::Read => "read",
            Permit::Write => "write",
        };
        let of_all = if self.name.is_empty() { "_prefix" } else { "" };
        write!(f, "{resource}{of_all} \"{}\" {permit}", self.name)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Verdict {
    allow: bool,
}

#[derive(Deserialize)]
struct CreatedToken {
    #[serde(rename = "SecretID")]
    secret: String,
}

impl Client {
    /// The identity of this client's token. `None` if Consul has no ACLs.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a token that Consul does not know.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn token_self(&self) -> Result<Option<TokenSelf>, Error> {
        let operation = Operation::read("acl token self", "");
        let answer = self.send(Call::get(operation.clone(), "/v1/acl/token/self").also(&[401])).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            if String::from_utf8_lossy(&answer.body).contains("ACL support disabled") {
                return Ok(None);
            }
            return Err(Error::from_answer(operation, answer.status, &answer.body));
        }
        answer.parse(&operation).map(Some)
    }

    /// Which of `rights` this client's token lacks. `None` if Consul has no ACLs, or does not support this query.
    ///
    /// Consul's own web page uses the same call (`/v1/internal/acl/authorize`), which writes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a token that Consul does not know; else the errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub(crate) async fn rights_missing(&self, rights: &[Right]) -> Result<Option<Vec<Right>>, Error> {
        let mut missing = Vec::new();
        for some in rights.chunks(RIGHTS_AT_ONCE) {
            let operation = Operation::read("acl authorize", "");
            let call = Call::post(operation.clone(), "/v1/internal/acl/authorize").json(&json!(some));
            let answer = self.send(call.also(&[401, 404])).await?;
            // 401: no ACLs. 404: a Consul without this internal endpoint. Neither says anything about the token.
            if answer.status != StatusCode::OK {
                return Ok(None);
            }
            let verdicts: Vec<Verdict> = answer.parse(&operation)?;
            if verdicts.len() != some.len() {
                let problem = format!("{} permissions were queried, but {} were answered", some.len(), verdicts.len());
                return Err(Error::Malformed { operation, problem });
            }
            missing.extend(
                some.iter().zip(verdicts).filter(|(_, verdict)| !verdict.allow).map(|(right, _)| right.clone()),
            );
        }
        Ok(Some(missing))
    }

    /// Creates a policy from rules in Consul's HCL. Needs `acl = "write"`.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; [`Error::Status`] if the name is taken or the rules are invalid.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled call may have created the policy.
    pub async fn policy_create(&self, name: &str, rules: &str) -> Result<(), Error> {
        let operation = Operation::write("acl policy create", name);
        self.send(Call::put(operation, "/v1/acl/policy").json(&json!({"Name": name, "Rules": rules}))).await?;
        Ok(())
    }

    /// Creates a token with these policies, given by name, and returns its secret. Needs `acl = "write"`.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; [`Error::Status`] if a policy does not exist.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled call may have created an unused token.
    pub async fn token_create(&self, description: &str, policies: &[&str]) -> Result<Secret, Error> {
        let operation = Operation::write("acl token create", description);
        let policies: Vec<_> = policies.iter().map(|name| json!({"Name": name})).collect();
        let body = json!({"Description": description, "Policies": policies});
        let created: CreatedToken = self.fetch(Call::put(operation, "/v1/acl/token").json(&body)).await?;
        Ok(Secret::new(created.secret))
    }
}
