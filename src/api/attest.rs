//! The agent vouches for who has asked: `by` is then more than a claim.
//!
//! [`vouch`] finds out what `by` is to be, and gives an access whose writes are each attested first, byte for byte, in
//! `attests/<node>/<id>`, with the agent's own token. A write that does not happen takes its attestation with it. Where
//! the agent has no right to vouch, or Consul does not take it, the caller's write goes on unverified: what it may do is
//! decided by the caller's token alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::sync::Mutex;

use super::error::Problem;
use super::{Api, Caller};
use crate::control::attester::Attesting;
use crate::control::{Access, Attester, Code, Failure, Kv, PlannedWrite, Replaced, Scope};
use crate::document::units_in;
use crate::protocol::ids::{ModifyIndex, Unit};

use crate::protocol::record::{Attestation, Author, FORMAT, Identity, UNATTRIBUTED, decode, encode};
use crate::telemetry::chain;

/// What a request may say that it came through; all of it comes through the API in the end.
const MEANS: [&str; 4] = ["api", "ui", "chat", "ci"];

/// The longest `id`, in bytes: it becomes a part of a key.
const MAX_ID_BYTES: usize = 128;

/// What a caller says about themselves and their request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Who they say has asked; none: they leave it to the agent.
    pub by: Option<String>,
    /// Through what they say to come: `api`, `ui`, `chat` or `ci`; none: `api`.
    pub via: Option<String>,
    /// Why; may be empty.
    #[serde(default)]
    pub reason: String,
    /// Their own mark; none: a fresh one.
    pub id: Option<String>,
}

/// The author of a write for somebody, and the access to write with. Without an identity, as where Consul has no ACLs,
/// the claim is taken for what it is, and nobody vouches.
///
/// `access` has the caller's rights, or their delegate's. Each access that is given is for one request.
///
/// # Errors
///
/// 400 for an unknown `via`, and for an `id` that cannot be a key.
pub fn vouch(
    api: &Arc<Api>,
    access: &Access,
    identity: Option<Identity>,
    claim: Claim,
) -> Result<(Access, Author), Problem> {
    let Claim { by, via, reason, id } = claim;
    let by = by.filter(|by| !by.trim().is_empty() && by != UNATTRIBUTED);
    let via = via.unwrap_or_else(|| "api".to_owned());
    if !MEANS.contains(&via.as_str()) {
        return Err(Problem::usage(format!("via: {via:?} is not one of {}", MEANS.join(", ")), "leave it out for api"));
    }
    let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.len() > MAX_ID_BYTES || !id.bytes().all(plain) {
        let hint = format!("write up to {MAX_ID_BYTES} of A-Z a-z 0-9 . _ : - or leave it out for a fresh one");
        return Err(Problem::usage("id: it holds other characters than a mark may, or too many", hint));
    }
    let Some(identity) = identity else {
        let by = by.unwrap_or_else(|| UNATTRIBUTED.to_owned());
        return Ok((access.clone(), Author { by, via, reason, id }));
    };
    // Another name stays what it is, a claim: the history shows whom the agent vouches for, and the claim beside it.
    let author = Author { by: by.unwrap_or_else(|| identity.name.clone()), via, reason, id };
    Ok((access.clone().attested_by(attester_of(api, identity)), author))
}

/// Does one write for the caller, vouched for, and to its end also where they hang up.
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
    claim: Claim,
    write: impl FnOnce(Access, Author) -> F + Send + 'static,
) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send,
{
    let written = Arc::clone(api);
    api.to_its_end(async move {
        let (access, author) = vouch(&written, caller.access(), caller.identity().await?, claim)?;
        Ok(write(access, author).await?)
    })
    .await
}

/// Who vouches for `identity`, for one write.
pub fn attester_of(api: &Arc<Api>, identity: Identity) -> Arc<dyn Attester> {
    Arc::new(Voucher { api: Arc::clone(api), identity, written: Mutex::default() })
}

/// Vouches for one caller.
#[derive(Debug)]
struct Voucher {
    api: Arc<Api>,
    identity: Identity,
    /// The attestations that stand by this request's doing, or may.
    written: Mutex<Vec<Written>>,
}

/// One attestation of this request's.
#[derive(Debug)]
struct Written {
    key: String,
    /// Where it stands; none: Consul did not say whether it was written.
    index: Option<ModifyIndex>,
    attest: Attestation,
}

impl Attester for Voucher {
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

impl Voucher {
    async fn attest(&self, planned: PlannedWrite<'_>) -> Result<(), Failure> {
        let Ok(sha256) = hex::encode(Hasher::digest(planned.value)).parse() else { return Ok(()) };
        let (identity, node) = (self.identity.clone(), self.api.node.clone());
        let at = Timestamp::now();
        let attest = Attestation { format: FORMAT, key: planned.key.to_owned(), sha256, identity, node, at };
        let own = Kv::new(self.api.own.clone(), self.api.keys.clone());
        let units = match self.units(planned.scope).await {
            Ok(units) => units,
            Err(failure) => {
                self.tell(&failure);
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
                    self.tell(&failure);
                }
            }
        }
        Ok(())
    }

    async fn note(&self, key: String, index: Option<ModifyIndex>, attest: &Attestation) {
        self.written.lock().await.push(Written { key, index, attest: attest.clone() });
    }

    /// The mark is taken. By the same request, sent again: as good. By another: its author would lose their attestation.
    async fn compare(&self, own: &Kv, key: &str, attest: &Attestation) -> Result<(), Failure> {
        let standing =
            own.entry(key).await.ok().flatten().and_then(|entry| decode::<Attestation>(key, &entry.value).ok());
        let is_same =
            |it: &Attestation| (&it.key, &it.sha256, &it.identity) == (&attest.key, &attest.sha256, &attest.identity);
        if standing.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        Err(Failure::new(Code::Refused, "the request's id is that of another request")
            .hint("leave it out for a fresh one, or choose another"))
    }

    /// Found with the agent's own token: what it vouches in does not depend on what the caller may read.
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

    /// Said once where it is a matter of rights, which does not change by itself.
    fn tell(&self, failure: &Failure) {
        let error = chain(failure);
        if failure.code != Code::NotAllowed {
            tracing::warn!(error, "a request goes on unverified: the agent could not vouch for who has asked");
        } else if !self.api.told_unattested.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error,
                "requests go on unverified: this agent's token may not vouch for who has asked; see consul/policies/api.hcl"
            );
        }
    }

    async fn withdraw(&self) {
        for written in self.written.lock().await.drain(..) {
            if let Err(error) = self.take_back(&written).await {
                // It vouches for bytes that nobody has written: no more than a key too many, which the coordinator clears.
                tracing::warn!(key = written.key, error = chain(&error), "an attestation could not be withdrawn");
            }
        }
    }

    async fn take_back(&self, Written { key, index, attest }: &Written) -> Result<(), Failure> {
        let own = Kv::new(self.api.own.clone(), self.api.keys.clone());
        // The same request, sent twice at once: what the other one has written is still vouched for.
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
