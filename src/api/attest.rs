//! The agent attests who made a request: `by` is then verified, not only claimed.
//!
//! [`vouch`] decides the author, and returns an access that writes an attestation of each write first: in
//! `attests/<node>/<id>`, over its exact bytes, with the agent's own token. If the write does not happen, the attestation
//! is removed. If the agent may not attest, or Consul refuses it, the write continues unverified: only the caller's token
//! decides what the caller may do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::sync::Mutex;

use super::error::Problem;
use super::{Api, Caller};
use crate::control::attester::Attesting;
use crate::control::{Access, Attester, Code, Failure, Kv, PlannedWrite, Replaced, Scope};
use crate::document::units_in;
use crate::protocol::ids::{ModifyIndex, Unit};

use crate::protocol::record::{Attestation, Author, FORMAT, Identity, MAX_LABEL_BYTES, UNATTRIBUTED, decode, encode};
use crate::telemetry::chain;

/// Allowed values of `via`.
const MEANS: [&str; 4] = ["api", "ui", "chat", "ci"];

/// The longest `id`, in bytes: it becomes a part of a key.
const MAX_ID_BYTES: usize = 128;
/// Its form, as [`vouch`] checks it.
pub(super) const ID_PATTERN: &str = "^[A-Za-z0-9._:-]{1,128}$";

/// The longest `reason` that the `OpenAPI` document promises to accept, in characters. Longer ones are accepted as long as
/// the whole record fits into 4 KiB.
const MAX_REASON_CHARS: usize = 1024;

/// The author as the caller claims it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimedAuthor {
    /// The claimed author. If left out, the agent uses the caller's identity; a claimed name is shown beside it.
    #[schemars(length(max = MAX_LABEL_BYTES))]
    pub(crate) by: Option<String>,
    /// The way the request came; `api` if left out.
    #[schemars(extend("enum" = MEANS))]
    pub(crate) via: Option<String>,
    /// The reason, shown in the history.
    #[serde(default)]
    #[schemars(length(max = MAX_REASON_CHARS))]
    pub(crate) reason: String,
    /// The caller's id for the request; a fresh one if left out.
    #[schemars(regex(pattern = ID_PATTERN))]
    pub(crate) id: Option<String>,
}

/// Describes the fields of a claim in the schema of a body that has them beside its own.
pub(super) fn with_claimed_author(body: &mut Schema) {
    let claim =
        SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<ClaimedAuthor>();
    let fields = claim.get("properties").and_then(Value::as_object).cloned();
    if let Some(properties) = body.get_mut("properties").and_then(Value::as_object_mut) {
        properties.extend(fields.into_iter().flatten());
    }
}

/// The author of a write, and the access to write with. Without an identity (no ACLs, or the anonymous token) the author
/// is the claim, and nothing is attested.
///
/// `access` has the caller's permissions, or those of the user's token file. The returned access is for one request.
///
/// # Errors
///
/// 400 for an unknown `via`, and for an `id` that cannot be a key.
pub(crate) fn vouch(
    api: &Arc<Api>,
    access: &Access,
    identity: Option<Identity>,
    claim: ClaimedAuthor,
) -> Result<(Access, Author), Problem> {
    let ClaimedAuthor { by, via, reason, id } = claim;
    let by = by.filter(|by| !by.trim().is_empty() && by != UNATTRIBUTED);
    let via = via.unwrap_or_else(|| "api".to_owned());
    if !MEANS.contains(&via.as_str()) {
        return Err(Problem::usage(format!("via: {via:?} is not one of {}", MEANS.join(", ")), "leave it out for api"));
    }
    let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.len() > MAX_ID_BYTES || !id.bytes().all(plain) {
        let hint = format!("write up to {MAX_ID_BYTES} of A-Z a-z 0-9 . _ : - or leave it out");
        return Err(Problem::usage("id: contains a character that is not allowed, or is too long", hint));
    }
    let Some(identity) = identity else {
        let by = by.unwrap_or_else(|| UNATTRIBUTED.to_owned());
        return Ok((access.clone(), Author { by, via, reason, id }));
    };
    // A claimed name is kept beside the verified identity; the history shows both.
    let author = Author { by: by.unwrap_or_else(|| identity.name.clone()), via, reason, id };
    Ok((access.clone().attested_by(attester_of(api, identity)), author))
}

/// Does one attested write for the caller, and finishes it even if the client disconnects.
///
/// # Errors
///
/// As [`vouch`], and those of the write.
///
/// # Cancel safety
///
/// Safe: dropped, the write goes on.
pub(super) async fn write<T, F>(
    api: &Arc<Api>,
    caller: Caller,
    claim: ClaimedAuthor,
    write: impl FnOnce(Access, Author) -> F + Send + 'static,
) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send,
{
    let written = Arc::clone(api);
    api.finish(async move {
        let (access, author) = vouch(&written, caller.access(), caller.identity().await?, claim)?;
        Ok(write(access, author).await?)
    })
    .await
}

/// Attests the writes of one request as made by `identity`.
pub fn attester_of(api: &Arc<Api>, identity: Identity) -> Arc<dyn Attester> {
    Arc::new(AgentAttester { api: Arc::clone(api), identity, written: Mutex::default() })
}

/// Attests the writes of one request.
#[derive(Debug)]
struct AgentAttester {
    api: Arc<Api>,
    identity: Identity,
    /// The attestations that this request wrote, or may have written.
    written: Mutex<Vec<Written>>,
}

/// One attestation of this request.
#[derive(Debug)]
struct Written {
    key: String,
    /// Its index; none where Consul did not say whether it was written.
    index: Option<ModifyIndex>,
    attest: Attestation,
}

impl Attester for AgentAttester {
    fn before<'a>(&'a self, planned: PlannedWrite<'a>) -> Attesting<'a, Result<(), Failure>> {
        Box::pin(async move {
            let attested = self.attest(planned).await;
            if attested.is_err() {
                self.withdraw().await;
            }
            attested
        })
    }

    fn not_written(&self) -> Attesting<'_, ()> {
        Box::pin(self.withdraw())
    }
}

impl AgentAttester {
    async fn attest(&self, planned: PlannedWrite<'_>) -> Result<(), Failure> {
        let Ok(sha256) = hex::encode(Hasher::digest(planned.value)).parse() else { return Ok(()) };
        let (identity, node) = (self.identity.clone(), self.api.node.clone());
        let at = Timestamp::now();
        let attest = Attestation { format: FORMAT, key: planned.key.to_owned(), sha256, identity, node, at };
        let own = Kv::new(self.api.own.clone(), self.api.keys.clone());
        let units = match self.units(planned.scope).await {
            Ok(units) => units,
            Err(failure) => {
                self.log_unverified(&failure);
                return Ok(());
            }
        };
        for unit in units {
            let key = self.api.keys.unit(&unit).attest(&self.api.node, planned.id);
            match own.replace(&key, &encode(&attest), ModifyIndex(0)).await {
                Ok(Replaced::At(index)) => self.note(key, Some(index), &attest).await,
                Ok(Replaced::Lost) => self.compare(&own, &key, &attest).await?,
                Err(failure) => {
                    if failure.code == Code::Unknown {
                        self.note(key, None, &attest).await;
                    }
                    self.log_unverified(&failure);
                }
            }
        }
        Ok(())
    }

    async fn note(&self, key: String, index: Option<ModifyIndex>, attest: &Attestation) {
        self.written.lock().await.push(Written { key, index, attest: attest.clone() });
    }

    /// The id is already in use. Fine if the same request was sent twice; refused if it belongs to another request.
    async fn compare(&self, own: &Kv, key: &str, attest: &Attestation) -> Result<(), Failure> {
        let standing =
            own.entry(key).await.ok().flatten().and_then(|entry| decode::<Attestation>(key, &entry.value).ok());
        let is_same =
            |it: &Attestation| (&it.key, &it.sha256, &it.identity) == (&attest.key, &attest.sha256, &attest.identity);
        if standing.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        Err(Failure::new(Code::Refused, "another request already uses this id")
            .hint("leave the id out, or choose another"))
    }

    /// The units of the scope, read with the agent's own token, because the caller may not be allowed to list them.
    async fn units(&self, scope: Scope<'_>) -> Result<Vec<Unit>, Failure> {
        let prefix = self.api.keys.prefix();
        match scope {
            Scope::Unit(unit) => Ok(vec![unit.clone()]),
            Scope::App(app) => {
                let names =
                    Kv::new(self.api.own.clone(), self.api.keys.clone()).names(&format!("{prefix}{app}/")).await?;
                Ok(units_in(prefix, names.iter().map(String::as_str)))
            }
        }
    }

    /// Logs why a write is unverified. A missing permission is logged once, because it does not change by itself.
    fn log_unverified(&self, failure: &Failure) {
        let error = chain(failure);
        if failure.code != Code::NotAllowed {
            tracing::warn!(
                error,
                "a request continues with an unverified author: cannot write its attestation: {error}"
            );
        } else if !self.api.logged_unattested.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error,
                "requests continue with unverified authors: this agent's token may not write attestations \
                 (see consul/policies/api.hcl): {error}"
            );
        }
    }

    async fn withdraw(&self) {
        for written in self.written.lock().await.drain(..) {
            if let Err(failure) = self.remove(&written).await {
                // Harmless: nothing with these bytes was written, and the coordinator removes old attestations.
                let (key, error) = (&written.key, chain(&failure));
                tracing::warn!(
                    key,
                    error,
                    "cannot remove the attestation {key} of a write that did not happen: {error}"
                );
            }
        }
    }

    async fn remove(&self, Written { key, index, attest }: &Written) -> Result<(), Failure> {
        let own = Kv::new(self.api.own.clone(), self.api.keys.clone());
        // The same request was sent twice at once, and the other one wrote these bytes: its attestation stays.
        let stands = own.entry(&attest.key).await?.map(|entry| hex::encode(Hasher::digest(&entry.value)));
        if stands.as_deref() == Some(attest.sha256.as_str()) {
            return Ok(());
        }
        let index = match index {
            Some(index) => *index,
            None => match own.entry(key).await? {
                Some(entry) if entry.value == encode(attest).as_bytes() => entry.modify_index,
                _ => return Ok(()),
            },
        };
        self.api.own.kv_delete_cas(key, index).await?;
        Ok(())
    }
}
