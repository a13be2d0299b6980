//! Who a token is; and, for an operator's token, new policies and tokens (the demo and the tests make theirs so).

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::client::{Call, Client};
use super::error::{Error, Operation};
use super::settings::Secret;

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
