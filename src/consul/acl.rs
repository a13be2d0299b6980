//! Who a token is, and what it may; and, for an operator's token, new policies and tokens (the demo and the tests make theirs so).

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Call, Client};
use super::error::{Error, Operation};
use super::settings::Secret;

/// How many rights Consul judges in one call (64, since 1.6).
const RIGHTS_AT_ONCE: usize = 64;

/// Who a token is. Its secret, which Consul's answer also holds, is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TokenSelf {
    /// The public id.
    #[serde(rename = "AccessorID")]
    pub accessor_id: String,
    /// What the operator wrote beside it.
    #[serde(default)]
    pub description: String,
}

/// What a right is about, as Consul's rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
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
    /// Sessions, by the Consul node that they are of.
    Session,
}

/// How far a right goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Permit {
    /// To see it.
    Read,
    /// To change it.
    Write,
}

/// One right, on one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Right {
    /// About what.
    pub resource: Resource,
    /// Its name; empty: all of them, as a rule for the prefix `""` gives it.
    #[serde(rename = "Segment")]
    pub name: String,
    /// How far.
    #[serde(rename = "Access")]
    pub permit: Permit,
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
struct Judged {
    allow: bool,
}

#[derive(Deserialize)]
struct Made {
    #[serde(rename = "SecretID")]
    secret: String,
}

impl Client {
    /// Who this client's token is. `None`: Consul runs without ACLs.
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

    /// Which of `rights` this client's token lacks. `None`: Consul runs without ACLs, or is one that does not tell.
    ///
    /// Consul's own web page asks the same (`/v1/internal/acl/authorize`); nothing is tried out, and nothing is written.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a token that Consul does not know; else the errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn rights_missing(&self, rights: &[Right]) -> Result<Option<Vec<Right>>, Error> {
        let mut missing = Vec::new();
        for some in rights.chunks(RIGHTS_AT_ONCE) {
            let operation = Operation::read("acl authorize", "");
            let call = Call::post(operation.clone(), "/v1/internal/acl/authorize").json(&json!(some));
            let answer = self.send(call.also(&[401, 404])).await?;
            if answer.status != StatusCode::OK {
                return Ok(None);
            }
            let judged: Vec<Judged> = answer.parse(&operation)?;
            if judged.len() != some.len() {
                let problem = format!("{} rights were asked for, and {} are answered", some.len(), judged.len());
                return Err(Error::Malformed { operation, problem });
            }
            missing.extend(some.iter().zip(judged).filter(|(_, judged)| !judged.allow).map(|(right, _)| right.clone()));
        }
        Ok(Some(missing))
    }

    /// Makes a policy from rules in Consul's HCL. Needs `acl = "write"`.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; [`Error::Status`] when the name is taken or the rules do not parse.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled call may have made the policy.
    pub async fn policy_create(&self, name: &str, rules: &str) -> Result<(), Error> {
        let operation = Operation::write("acl policy create", name);
        self.send(Call::put(operation, "/v1/acl/policy").json(&json!({"Name": name, "Rules": rules}))).await?;
        Ok(())
    }

    /// Makes a token with these policies, by name; returns its secret. Needs `acl = "write"`.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; [`Error::Status`] when a policy does not exist.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled call may have made a token that nobody knows.
    pub async fn token_create(&self, description: &str, policies: &[&str]) -> Result<Secret, Error> {
        let operation = Operation::write("acl token create", description);
        let policies: Vec<_> = policies.iter().map(|name| json!({"Name": name})).collect();
        let body = json!({"Description": description, "Policies": policies});
        let made: Made = self.fetch(Call::put(operation, "/v1/acl/token").json(&body)).await?;
        Ok(Secret::new(made.secret))
    }
}
