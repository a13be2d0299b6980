//! Sessions: what locks and presence are bound to. Create, renew, look up, destroy.
//!
//! Measured facts that callers build on: a session that is not renewed ends after exactly twice its TTL, a change of
//! Consul's leader starts that time anew, and a clean stop of the node's own Consul agent ends all its sessions at once.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Call, Client, Consistency, escape};
use super::error::{Error, Operation};

/// The time limit of a renewal. Well below the shortest TTL (10 s), so that two failed ones still leave time before the
/// session can end (20 s); a Consul that is that slow counts as one that did not renew.
pub const RENEW_LIMIT: Duration = Duration::from_secs(4);

/// A session's id, a UUID that Consul made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// An id that was kept from before. What is no UUID, Consul does not know either.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of a session's keys when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// They stay, and are no longer held.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// A session to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// Shown to operators by `consul` and its UI.
    pub name: String,
    /// The node that it belongs to; `None`: the agent's own.
    pub node: Option<String>,
    /// How long it lives without renewal, at least (10 s to 24 h); it ends after twice that.
    pub ttl: Duration,
    /// How long a lock stays closed after a session ended by force. 0: not at all; our fence is the epoch.
    pub lock_delay: Duration,
    /// What becomes of its keys.
    pub behavior: Behavior,
    /// The node's checks that end it when critical.
    pub checks: Vec<String>,
}

impl SessionSpec {
    /// A session as the protocol wants it: TTL 10 s (Consul's minimum), ended by `serfHealth`, keys released, no delay.
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

/// A session that lives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SessionInfo {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: SessionId,
    /// Its name.
    pub name: String,
    /// The node that it belongs to.
    pub node: String,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: SessionId,
}

impl Client {
    /// Makes a session.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] without `session` write for the node; [`Error::Status`] when a check is critical or the node
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

    /// Renews a session. `false`: it is gone, and with it every lock that it held. Costs Consul no write. Its limit is
    /// [`RENEW_LIMIT`].
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; all others leave open whether it was renewed: stop acting under it in time.
    ///
    /// # Cancel safety
    ///
    /// Safe: a renewal that happened unseen does no harm.
    pub async fn session_renew(&self, id: &SessionId) -> Result<bool, Error> {
        let operation = Operation::write("session renew", id.as_str());
        let path = format!("/v1/session/renew/{}", escape(id.as_str()));
        let answer = self.send(Call::put(operation, path).limit(RENEW_LIMIT).also(&[404])).await?;
        Ok(answer.status == StatusCode::OK)
    }

    /// Ends a session; one that is gone already is no error. Its locks become free after its lock-delay.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; for the others see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Safe in effect: the session ends now or by its TTL.
    pub async fn session_destroy(&self, id: &SessionId) -> Result<(), Error> {
        let operation = Operation::write("session destroy", id.as_str());
        self.send(Call::put(operation, format!("/v1/session/destroy/{}", escape(id.as_str())))).await?;
        Ok(())
    }

    /// Looks a session up. `None`: it is gone, or the token may not see it (`session` read for its node).
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

    /// Every session that lives, as far as the token may see them.
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
