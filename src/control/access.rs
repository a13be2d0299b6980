//! Consul with the caller's token, and the names of keys.

use std::sync::Arc;

use super::attester::{Attester, PlannedWrite};
use super::code::{Code, Failure};
use super::kv::{Kv, Replaced};
use crate::consul::Client;
use crate::document::units_in;
use crate::protocol::ids::{ModifyIndex, Unit};
use crate::protocol::keys::Keys;

/// Prints a line of progress. The line still holds control characters.
pub(crate) type Tell = fn(&str);

/// Consul with one caller's rights.
#[derive(Clone, Debug)]
pub struct Access {
    /// Consul's KV store.
    pub(crate) kv: Kv,
    /// The names of keys.
    pub(crate) keys: Keys,
    /// Prints progress.
    pub(crate) tell: Tell,
    /// Attests each write before it happens; none: writes go unattested.
    attester: Option<Arc<dyn Attester>>,
}

impl Access {
    /// Over this client, whose token is the caller's.
    #[must_use]
    pub fn new(client: Client, keys: Keys, tell: Tell) -> Self {
        Self { kv: Kv::new(client, keys.clone()), keys, tell, attester: None }
    }

    /// The same with an attester, which attests each write before it happens.
    #[must_use]
    pub(crate) fn attested_by(self, attester: Arc<dyn Attester>) -> Self {
        Self { attester: Some(attester), ..self }
    }

    /// Writes the planned key if it still stands at `index`. The attester attests the write first.
    ///
    /// # Errors
    ///
    /// As [`Kv::replace`], and the reason for which the attester refuses the write.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may have happened, or happen yet.
    pub(crate) async fn replace(&self, planned: PlannedWrite<'_>, index: ModifyIndex) -> Result<Replaced, Failure> {
        let write = self.kv.replace(planned.key, planned.value, index);
        self.attesting(planned, write, |replaced| matches!(replaced, Replaced::At(_))).await
    }

    /// Does `write`, which writes what `planned` says, once the attester has attested it; `has_happened` tells by its result
    /// whether it was written.
    pub(super) async fn attesting<T>(
        &self,
        planned: PlannedWrite<'_>,
        write: impl Future<Output = Result<T, Failure>>,
        has_happened: impl Fn(&T) -> bool,
    ) -> Result<T, Failure> {
        let Some(attester) = &self.attester else { return write.await };
        attester.before(planned).await?;
        let written = write.await;
        let is_off = match &written {
            Ok(result) => !has_happened(result),
            // It may have happened: what stands then is still vouched for.
            Err(failure) => failure.code != Code::Unknown,
        };
        if is_off {
            attester.not_written().await;
        }
        written
    }

    /// Every unit that has keys.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    pub(crate) async fn units(&self) -> Result<Vec<Unit>, Failure> {
        let names = self.kv.names(self.keys.prefix()).await?;
        Ok(units_in(self.keys.prefix(), names.iter().map(String::as_str)))
    }

    /// The failure for a unit without keys. Its hint lists the units that have keys.
    pub(crate) async fn unknown(&self, unit: &Unit) -> Failure {
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
