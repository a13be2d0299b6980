//! Access to Consul with one caller's token.

use std::sync::Arc;

use super::attester::{Attester, PlannedWrite};
use super::code::{Code, Failure};
use super::kv::{Kv, Replaced};
use crate::consul::Client;
use crate::document::units_in;
use crate::protocol::ids::{ModifyIndex, Unit};
use crate::protocol::keys::Keys;

/// Prints a line of progress. The line may contain control characters, which the function must remove.
pub(crate) type PrintLine = fn(&str);

/// Consul with one caller's rights.
#[derive(Clone, Debug)]
pub struct Access {
    pub(crate) kv: Kv,
    pub(crate) keys: Keys,
    pub(crate) print_line: PrintLine,
    /// None: writes are not attested.
    attester: Option<Arc<dyn Attester>>,
}

impl Access {
    /// Access through this client, which has the caller's token.
    #[must_use]
    pub fn new(client: Client, keys: Keys, print_line: PrintLine) -> Self {
        Self { kv: Kv::new(client, keys.clone()), keys, print_line, attester: None }
    }

    /// The same access with an attester, which attests each write before it happens.
    #[must_use]
    pub(crate) fn attested_by(self, attester: Arc<dyn Attester>) -> Self {
        Self { attester: Some(attester), ..self }
    }

    /// Writes the planned key if its index is still `index`; 0: if it does not exist. The attester attests the write first.
    ///
    /// # Errors
    ///
    /// As [`Kv::replace`], and as [`Attester::before`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may have happened, or may still happen.
    pub(crate) async fn replace(&self, planned: PlannedWrite<'_>, index: ModifyIndex) -> Result<Replaced, Failure> {
        let write = self.kv.replace(planned.key, planned.value, index);
        self.attesting(planned, write, |replaced| matches!(replaced, Replaced::At(_))).await
    }

    /// Has `planned` attested, then runs `write`, which must write exactly that. `has_happened` tells from its result
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
        let is_unwritten = match &written {
            Ok(result) => !has_happened(result),
            // The write may have happened, so its attestation must stay.
            Err(failure) => failure.code != Code::Unknown,
        };
        if is_unwritten {
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
