//! Sessions, which hold locks and presence: create, renew, look up, destroy.
//!
//! Measured facts that callers depend on: a session that is not renewed ends after exactly twice its TTL, a change of Consul's
//! leader restarts that time, and a clean stop of the node's own Consul agent ends all its sessions at once.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Call, Client, Consistency, escape};
use super::error::{Error, Operation};

/// The time limit of a renewal. Well below the shortest TTL (10 s), so that there is time for two failed
/// renewals before the session can end (20 s). A slower Consul counts as one that did not renew.
pub(crate) const RENEW_LIMIT: Duration = Duration::from_secs(4);

/// A session's id, a UUID from Consul.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// Wraps a stored id, unchecked. To Consul an invalid id is the id of a session that has ended.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happens to a session's keys when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// They stay, without their lock.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// A session to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// Shown to operators by `consul` and its UI.
    pub name: String,
    /// The Consul node of the session; `None` for the node of the Consul agent.
    pub node: Option<String>,
    /// The TTL, 10 s to 24 h. Without renewal the session ends after twice this time.
    pub ttl: Duration,
    /// How long a lock cannot be acquired after its session was ended by force. Cutover sets 0, because the protocol fences
    /// by epoch.
    pub lock_delay: Duration,
    /// What happens to the locked keys when the session ends.
    pub behavior: Behavior,
    /// The node's checks that end the session when critical.
    pub checks: Vec<String>,
}

impl SessionSpec {
    /// A session for the protocol: TTL 10 s (Consul's minimum), ended by `serfHealth`, keys released, no delay.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            node: None,
            ttl: Duration::from_secs(10),
            lock_delay: Duration::ZERO,
            behavior: Behavior::Release,
            checks: vec!["serfHealth".to_owned()],
        }
    }
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SessionInfo {
    #[serde(rename = "ID")]
    pub id: SessionId,
    pub name: String,
    /// The Consul node of the session.
    pub node: String,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: SessionId,
}

impl Client {
    /// Creates a session.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] without `session` write for the node; [`Error::Status`] if a check is critical or the node
    /// is not registered yet. After an unknown outcome there may be one session too many, which ends by its TTL.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled call may leave a session behind, which ends by its TTL.
    pub async fn session_create(&self, spec: &SessionSpec) -> Result<SessionId, Error> {
        let behavior = match spec.behavior {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        };
        let mut body = json!({
            "Name": spec.name,
            "TTL": format!("{}ms", spec.ttl.as_millis()),
            "LockDelay": format!("{}ms", spec.lock_delay.as_millis()),
            "Behavior": behavior,
            "NodeChecks": spec.checks,
        });
        if let (Some(node), Some(fields)) = (&spec.node, body.as_object_mut()) {
            fields.insert("Node".to_owned(), node.as_str().into());
        }
        let operation = Operation::write("session create", spec.name.as_str());
        let created: Created = self.fetch(Call::put(operation, "/v1/session/create").json(&body)).await?;
        Ok(created.id)
    }

    /// Renews a session. `false` if it has ended, together with all its locks. Causes no write in Consul's log. The time limit
    /// is [`RENEW_LIMIT`].
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]. After other errors it is unknown whether it was renewed: stop using it in time.
    ///
    /// # Cancel safety
    ///
    /// Safe: an unnoticed renewal is harmless.
    pub async fn session_renew(&self, id: &SessionId) -> Result<bool, Error> {
        let operation = Operation::write("session renew", id.as_str());
        let path = format!("/v1/session/renew/{}", escape(id.as_str()));
        let answer = self.send(Call::put(operation, path).limit(RENEW_LIMIT).also(&[404])).await?;
        Ok(answer.status == StatusCode::OK)
    }

    /// Ends a session. Succeeds if it has ended already. Its locks are free after its lock-delay.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; for the others see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Safe: the session ends now or by its TTL.
    pub async fn session_destroy(&self, id: &SessionId) -> Result<(), Error> {
        let operation = Operation::write("session destroy", id.as_str());
        self.send(Call::put(operation, format!("/v1/session/destroy/{}", escape(id.as_str())))).await?;
        Ok(())
    }

    /// Looks up a session. `None` if it has ended, or the token may not read it (`session` read for its node).
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn session_info(&self, id: &SessionId, consistency: Consistency) -> Result<Option<SessionInfo>, Error> {
        let operation = Operation::read("session info", id.as_str());
        let call = Call::get(operation, format!("/v1/session/info/{}", escape(id.as_str()))).consistency(consistency);
        let found: Option<Vec<SessionInfo>> = self.fetch(call).await?;
        Ok(found.unwrap_or_default().into_iter().next())
    }

    /// All live sessions that the token may read.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn session_list(&self, consistency: Consistency) -> Result<Vec<SessionInfo>, Error> {
        let call = Call::get(Operation::read("session list", ""), "/v1/session/list").consistency(consistency);
        Ok(self.fetch::<Option<Vec<SessionInfo>>>(call).await?.unwrap_or_default())
    }
}
