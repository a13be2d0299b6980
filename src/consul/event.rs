//! User events, which only wake agents. Consul loses some, repeats some, and never delivers one to an agent that was away.

use serde::Deserialize;

use super::client::{Call, Client, escape};
use super::error::{Error, Operation};

/// The longest payload in bytes, from the documentation of current Consul (1.8 accepts about 300 more).
pub(crate) const EVENT_LIMIT_BYTES: usize = 100;

#[derive(Deserialize)]
struct Fired {
    #[serde(rename = "ID")]
    id: String,
}

impl Client {
    /// Fires an event to every agent of the datacenter that can be reached right now; returns its id.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] beyond [`EVENT_LIMIT_BYTES`]; [`Error::Forbidden`] without `event` write for the name.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled event may have been fired. Events can arrive twice anyway.
    pub async fn event_fire(&self, name: &str, payload: impl AsRef<[u8]> + Send) -> Result<String, Error> {
        let operation = Operation::write("event fire", name);
        let (payload, limit) = (payload.as_ref(), EVENT_LIMIT_BYTES);
        if payload.len() > limit {
            return Err(Error::TooLarge { operation, size: payload.len(), unit: "bytes", limit });
        }
        let call = Call::put(operation, format!("/v1/event/fire/{}", escape(name))).bytes(payload.to_vec());
        Ok(self.fetch::<Fired>(call).await?.id)
    }
}
