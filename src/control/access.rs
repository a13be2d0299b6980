//! Consul with the caller's token, and the names of keys.

use std::sync::Arc;

use super::code::{Code, Failure};
use super::kv::{Kv, Replaced};
use super::witness::{Deed, Witness};
use crate::consul::Client;
use crate::document::units_in;
use crate::protocol::ids::{ModifyIndex, Unit};
use crate::protocol::keys::Keys;

/// Prints a line of progress. The line still holds control characters.
pub type Tell = fn(&str);

/// Consul with one caller's rights.
#[derive(Clone, Debug)]
pub struct Access {
    /// Consul's KV store.
    pub kv: Kv,
    /// The names of keys.
    pub keys: Keys,
    /// Prints progress.
    pub tell: Tell,
    /// Attests each write before it happens; none: writes go unattested.
    witness: Option<Arc<dyn Witness>>,
}

impl Access {
    /// Over this client, whose token is the caller's.
    #[must_use]
    pub fn new(client: Client, keys: Keys, tell: Tell) -> Self {
        Self { kv: Kv::new(client, keys.clone()), keys, tell, witness: None }
    }

    /// The same with a witness, which attests each write before it happens.
    #[must_use]
    pub fn witnessed(self, witness: Arc<dyn Witness>) -> Self {
        Self { witness: Some(witness), ..self }
    }

    /// Writes the deed's key if it still stands at `index`, before the eyes of the witness.
    ///
    /// # Errors
    ///
    /// As [`Kv::replace`], and what the witness objects.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may have happened, or happen yet.
    pub async fn replace(&self, deed: Deed<'_>, index: ModifyIndex) -> Result<Replaced, Failure> {
        let write = self.kv.replace(deed.key, deed.value, index);
        self.witnessing(deed, write, |replaced| matches!(replaced, Replaced::At(_))).await
    }

    /// Does `write`, which writes what `deed` says, before the eyes of the witness; `has_happened` tells by its result
    /// whether it was written.
    pub(super) async fn witnessing<T>(
        &self,
        deed: Deed<'_>,
        write: impl Future<Output = Result<T, Failure>>,
        has_happened: impl Fn(&T) -> bool,
    ) -> Result<T, Failure> {
        let Some(witness) = &self.witness else { return write.await };
        witness.before(deed).await?;
        let written = write.await;
        let is_vain = match &written {
            Ok(result) => !has_happened(result),
            // It may have happened: what stands then is still vouched for.
            Err(failure) => failure.code != Code::Unknown,
        };
        if is_vain {
            witness.in_vain().await;
        }
        written
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

    /// The failure for a unit without keys. Its hint lists the units that have keys.
    pub async fn unknown(&self, unit: &Unit) -> Failure {
        let failure = Failure::new(Code::NotFound, format!("{unit} is not known under {}", self.keys.prefix()));
        match self.units().await {
            Ok(units) if units.is_empty() => failure
                .hint("there are no groups yet: a group appears when its first agent with coordinate = true starts"),
            Ok(units) => {
                let names: Vec<String> = units.iter().take(20).map(ToString::to_string).collect();
                failure.hint(format!("known groups: {}; a group appears when its first agent starts", names.join(", ")))
            }
            Err(unreadable) => unreadable,
        }
    }
}
