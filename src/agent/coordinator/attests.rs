//! Attestations as the coordinator reads them: which of them vouches for some bytes, and which nobody has used.
//!
//! A match is one in everything: the mark that the bytes carry, the digest of all of them, the key that they stand in, and
//! the node in whose keys the attestation stands, which callers cannot write. Anything less is no match, and what the bytes say about their author stays a claim.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::consul::{Entry, Snapshot};
use crate::protocol::ids::Node;
use crate::protocol::record::{Attestation, Identity, clip, decode};
use crate::protocol::snapshot::Attestations;

/// The longest part of an identity that is kept in the history, in bytes: a token's description may be of any length.
const LONGEST_NAME: usize = 256;
/// How long an attestation waits to be used. It is written right before what it vouches for, which waits at most for the
/// coordinator's next look; what stands in a key is never cleared away under it.
const UNUSED: SignedDuration = SignedDuration::from_mins(10);

/// The attestation that matches `value`, as it stands in `key`; of several the first by its node's name speaks. `keys` is a
/// read of all of `prefix`, the unit's `attests/`.
pub(super) fn matching(keys: &Snapshot, prefix: &str, key: &str, value: &[u8]) -> Option<Attestations> {
    let id = mark_of(value)?;
    let digest = hex::encode(Sha256::digest(value));
    let matching = keys.under(prefix).filter_map(|entry| {
        let (node, attest) = read(entry, prefix, Some(&id))?;
        (attest.sha256.as_str() == digest && attest.key == key).then_some((node, attest.identity))
    });
    let mut matching: Vec<(Node, Identity)> = matching.collect();
    matching.sort_by(|(a, _), (b, _)| a.cmp(b));
    matching.truncate(Attestations::NODES);
    let (nodes, identities): (Vec<Node>, Vec<Identity>) = matching.into_iter().unzip();
    let identity = identities.into_iter().next()?;
    let Identity { name, means, accessor, token } = identity;
    let accessor = accessor.map(|accessor| clip(&accessor, LONGEST_NAME));
    let identity = Identity { name: clip(&name, LONGEST_NAME), means, accessor, token: clip(&token, LONGEST_NAME) };
    Some(Attestations { nodes, id, identity })
}

/// Attestations that nobody has used in time, and what is none: to be removed. Those of `standing`, the values that may
/// still be taken, are left.
pub(super) fn unused<'a>(
    keys: &'a Snapshot,
    prefix: &'a str,
    standing: &[&[u8]],
    now: Timestamp,
) -> impl Iterator<Item = &'a Entry> {
    let digests: Vec<String> = standing.iter().map(|value| hex::encode(Sha256::digest(value))).collect();
    keys.under(prefix).filter(move |entry| match read(entry, prefix, None) {
        None => true,
        Some((_, attest)) => {
            now.duration_since(attest.at) > UNUSED && !digests.iter().any(|digest| digest == attest.sha256.as_str())
        }
    })
}

/// An attestation in the keys of the node that it names; with `id` only under that mark.
fn read(entry: &Entry, prefix: &str, id: Option<&str>) -> Option<(Node, Attestation)> {
    let (node, mark) = entry.key.strip_prefix(prefix)?.split_once('/')?;
    if id.is_some_and(|id| id != mark) {
        return None;
    }
    let attest: Attestation = decode(&entry.key, &entry.value).ok()?;
    (attest.node.as_str() == node).then_some((attest.node.clone(), attest))
}

/// The caller's own mark in what was written: the field `id` of a JSON object.
fn mark_of(value: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    let id = value.get("id")?.as_str()?;
    (!id.is_empty()).then(|| id.to_owned())
}
