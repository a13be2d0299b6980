//! The Consul agent of this client: its name, and the services and checks registered with it.
//!
//! The Consul agent keeps a registration across restarts of Cutover's agent. A registration costs a write in Consul's log
//! only when it changes, or when the status of its check changes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Call, Client, escape};
use super::error::{Error, Operation};

/// The identity of the Consul agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSelf {
    /// The node's name in Consul.
    pub node: String,
    pub datacenter: String,
    /// Consul's version, for example `1.8.7`.
    pub version: String,
}

/// A check's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Consul removes the instance from DNS and health queries.
    Critical,
    /// Healthy.
    Passing,
    /// Working, but needs attention.
    Warning,
}

impl CheckStatus {
    /// The status as a word of Consul's API.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Passing => "passing",
            Self::Warning => "warning",
        }
    }
}

/// A TTL check. It turns critical without an update for [`Check::ttl`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The id, unique on the Consul agent.
    pub id: String,
    /// The name that operators see.
    pub name: String,
    /// Notes for operators.
    pub notes: String,
    /// How long an update is valid.
    pub ttl: Duration,
    /// The status until the first update. Registering again resets it.
    pub status: CheckStatus,
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The id, unique on the Consul agent.
    pub id: String,
    /// The name, which instances on other nodes share.
    pub name: String,
    /// Tags, by which queries select instances.
    pub tags: Vec<String>,
    /// Metadata, shown in the catalog.
    pub meta: BTreeMap<String, String>,
    /// The port; none if the service does not listen.
    pub port: Option<u16>,
    /// The check that decides the health of this instance.
    pub check: Check,
}

/// A service as the agent lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisteredService {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Service")]
    pub name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
    /// 0 if the service has no port.
    #[serde(default)]
    pub port: u16,
}

/// A check as the agent lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisteredCheck {
    #[serde(rename = "CheckID")]
    pub(crate) id: String,
    pub(crate) name: String,
    pub status: CheckStatus,
    #[serde(default)]
    pub output: String,
    /// The service of the check; empty for a check of the node.
    #[serde(rename = "ServiceID", default)]
    pub service_id: String,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct RawSelf {
    #[serde(rename = "Config")]
    config: RawConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    node_name: String,
    datacenter: String,
    version: String,
}

impl Check {
    fn to_json(&self, id_field: &'static str) -> Value {
        json!({
            id_field: self.id,
            "Name": self.name,
            "Notes": self.notes,
            "TTL": format!("{}ms", self.ttl.as_millis()),
            "Status": self.status.as_str(),
        })
    }
}

impl Client {
    /// The identity of the Consul agent.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] without `agent` read; else the errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn agent_self(&self) -> Result<AgentSelf, Error> {
        let raw: RawSelf = self.fetch(Call::get(Operation::read("agent self", ""), "/v1/agent/self")).await?;
        let RawConfig { node_name: node, datacenter, version } = raw.config;
        Ok(AgentSelf { node, datacenter, version })
    }

    /// Registers a service instance with its check. Replaces an instance with the same id.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] without `service` write for the name; else the errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe to repeat: the same registration again changes nothing but the check's status.
    pub async fn service_register(&self, service: &Service) -> Result<(), Error> {
        let mut body = json!({
            "ID": service.id,
            "Name": service.name,
            "Tags": service.tags,
            "Meta": service.meta,
            "Check": service.check.to_json("CheckID"),
        });
        if let (Some(port), Some(fields)) = (service.port, body.as_object_mut()) {
            fields.insert("Port".to_owned(), port.into());
        }
        let operation = Operation::write("service register", service.id.as_str());
        self.send(Call::put(operation, "/v1/agent/service/register").json(&body)).await?;
        Ok(())
    }

    /// Removes a service instance and its checks.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; [`Error::Status`] (404, on 1.8: 500) for one that is not registered.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled call may have taken effect.
    pub async fn service_deregister(&self, id: &str) -> Result<(), Error> {
        let operation = Operation::write("service deregister", id);
        self.send(Call::put(operation, format!("/v1/agent/service/deregister/{}", escape(id)))).await?;
        Ok(())
    }

    /// Registers a check on the node, or on a service of this agent that another program registered.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] without `service` (or `node`) write; [`Error::Status`] for an unknown service.
    ///
    /// # Cancel safety
    ///
    /// Safe to repeat: the same registration again changes nothing but the check's status.
    pub async fn check_register(&self, check: &Check, service_id: Option<&str>) -> Result<(), Error> {
        // In a service the field is `CheckID`, here it is `ID`. Consul refuses unknown fields.
        let mut body = check.to_json("ID");
        if let (Some(service), Some(fields)) = (service_id, body.as_object_mut()) {
            fields.insert("ServiceID".to_owned(), service.into());
        }
        let operation = Operation::write("check register", check.id.as_str());
        self.send(Call::put(operation, "/v1/agent/check/register").json(&body)).await?;
        Ok(())
    }

    /// Removes a check.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; [`Error::Status`] (404, on 1.8: 500) for one that is not registered.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled call may have taken effect.
    pub async fn check_deregister(&self, id: &str) -> Result<(), Error> {
        let operation = Operation::write("check deregister", id);
        self.send(Call::put(operation, format!("/v1/agent/check/deregister/{}", escape(id)))).await?;
        Ok(())
    }

    /// Updates a TTL check. The check of a service is named `service:<service id>` unless it has an id.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`]; [`Error::Status`] (404, on 1.8: 500) if the agent does not know the check, for
    /// example after it lost its data: register again.
    ///
    /// # Cancel safety
    ///
    /// Safe to repeat.
    pub async fn check_update(&self, check_id: &str, status: CheckStatus, output: &str) -> Result<(), Error> {
        let operation = Operation::write("check update", check_id);
        let body = json!({"Status": status.as_str(), "Output": output});
        self.send(Call::put(operation, format!("/v1/agent/check/update/{}", escape(check_id))).json(&body)).await?;
        Ok(())
    }

    /// The services of this agent, by id, as far as the token may see them.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn agent_services(&self) -> Result<BTreeMap<String, RegisteredService>, Error> {
        self.fetch(Call::get(Operation::read("agent services", ""), "/v1/agent/services")).await
    }

    /// The checks of this agent, by id, as far as the token may see them.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn agent_checks(&self) -> Result<BTreeMap<String, RegisteredCheck>, Error> {
        self.fetch(Call::get(Operation::read("agent checks", ""), "/v1/agent/checks")).await
    }
}
