//! What everything that is asked needs: Consul with the caller's token, and the names of keys.

use super::code::{Code, Failure};
use super::kv::Kv;
use crate::consul::Client;
use crate::document::units_in;
use crate::protocol::ids::Unit;
use crate::protocol::keys::Keys;

/// Hears what is worth knowing while something is under way, a line at a time, not yet cleaned.
pub type Tell = fn(&str);

/// Consul with one caller's rights.
#[derive(Clone, Debug)]
pub struct Access {
    /// Consul's KV store.
    pub kv: Kv,
    /// The names of keys.
    pub keys: Keys,
    /// Who hears what is worth knowing meanwhile.
    pub tell: Tell,
}

impl Access {
    /// Over this client, whose token is the caller's.
    #[must_use]
    pub const fn new(client: Client, keys: Keys, tell: Tell) -> Self {
        Self { kv: Kv::new(client), keys, tell }
    }

    /// Every unit that has keys.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    pub async fn units(&self) -> Result<Vec<Unit>, Failure> {
        let names = self.kv.names(self.keys.prefix()).await?;
        Ok(units_in(self.keys.prefix(), names.iter().map(String::as_str)))
    }

    /// The failure for a unit without keys, with what there is instead.
    pub async fn unknown(&self, unit: &Unit) -> Failure {
        let failure = Failure::new(Code::NotFound, format!("{unit} is not known under {}", self.keys.prefix()));
        match self.units().await {
            Ok(units) if units.is_empty() => {
                failure.hint("no unit is: units appear when their first agent with coordinate = true starts")
            }
            Ok(units) => {
                let names: Vec<String> = units.iter().take(20).map(ToString::to_string).collect();
                failure.hint(format!("known are {}; a unit appears when its first agent starts", names.join(", ")))
            }
            Err(unreadable) => unreadable,
        }
    }
}
