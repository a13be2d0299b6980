//! Attestations as the coordinator reads them: which ones match a value, and which ones were never used.
//!
//! An attestation matches a value only if all of these agree: the `id` in the value, the digest of the whole value, the
//! value's key, and the node under whose prefix the attestation is stored, which callers cannot write. Otherwise the
//! author in the value stays unverified. A signature that was added to the record of a build afterwards does not count: its
//! publisher wrote the rest.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::consul::{Entry, Snapshot};
use crate::protocol::ids::Node;
use crate::protocol::record::{Attestation, Identity, before_signature, clip, decode};
use crate::protocol::snapshot::Attestations;

/// The longest part of an identity that the history keeps, in bytes. A token's description has no length limit.
const LONGEST_NAME: usize = 256;
/// How long an unused attestation is kept. The agent writes it right before the value that it attests, and the coordinator
/// reads that value within a round. The attestation of a waiting request is kept longer.
const UNUSED: SignedDuration = SignedDuration::from_mins(10);

/// The attestations that match `value` in `key`. If several attestations match, the identity comes from the first node by name.
/// `keys` must contain all of `prefix`, the unit's `attests/`.
pub(super) fn matching(keys: &Snapshot, prefix: &str, key: &str, value: &[u8]) -> Option<Attestations> {
    let id = id_of(value)?;
    let unsigned = before_signature(value);
    let digests = [Some(value), unsigned.as_ref().map(String::as_bytes)];
    let digests = digests.map(|bytes| bytes.map(|bytes| hex::encode(Sha256::digest(bytes))));
    let matching = keys.under(prefix).filter_map(|entry| {
        let (node, attest) = read(entry, prefix, Some(&id))?;
        (digests.iter().flatten().any(|digest| digest == attest.sha256.as_str()) && attest.key == key)
            .then_some((node, attest.identity))
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

/// Keys to remove: expired attestations, and keys that are no attestation. Attestations for `waiting`, the values that a
/// coordinator may still take, are kept.
pub(super) fn unused<'a>(
    keys: &'a Snapshot,
    prefix: &'a str,
    waiting: &[&[u8]],
    now: Timestamp,
) -> impl Iterator<Item = &'a Entry> {
    let digests: Vec<String> = waiting.iter().map(|value| hex::encode(Sha256::digest(value))).collect();
    keys.under(prefix).filter(move |entry| match read(entry, prefix, None) {
        None => true,
        Some((_, attest)) => {
            now.duration_since(attest.at) > UNUSED && !digests.iter().any(|digest| digest == attest.sha256.as_str())
        }
    })
}

/// Reads an attestation that is stored under the node it names; with `id`, only one with this id.
fn read(entry: &Entry, prefix: &str, id: Option<&str>) -> Option<(Node, Attestation)> {
    let (node, mark) = entry.key.strip_prefix(prefix)?.split_once('/')?;
    if id.is_some_and(|id| id != mark) {
        return None;
    }
    let attest: Attestation = decode(&entry.key, &entry.value).ok()?;
    (attest.node.as_str() == node).then_some((attest.node.clone(), attest))
}

/// The caller's id in a value: the field `id` of a JSON object.
fn id_of(value: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    let id = value.get("id")?.as_str()?;
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{FORMAT, Means, Signature, encode, with_signature};

    #[test]
    fn a_build_that_was_signed_meanwhile_keeps_its_verified_author() {
        let (prefix, key) = ("cutover/shop/production/attests/", "cutover/shop/builds/master-1");
        let record = r#"{"artifact":"master-1","by":"ann","id":"a1"}"#;
        let attest = Attestation {
            format: FORMAT,
            key: key.to_owned(),
            sha256: hex::encode(Sha256::digest(record)).parse().unwrap(),
            identity: Identity { name: "ann".to_owned(), means: Means::Token, accessor: None, token: String::new() },
            node: "web-1".parse().unwrap(),
            at: Timestamp::UNIX_EPOCH,
        };
        let (at, attest) = (format!("{prefix}web-1/a1"), encode(&attest));
        let keys: Snapshot = [(at.as_str(), attest.as_str())].into_iter().collect();
        let author = |value: &str| Some(matching(&keys, prefix, key, value.as_bytes())?.identity.name);
        assert_eq!(author(record).as_deref(), Some("ann"));
        let signature = Signature::from("four lines".to_owned());
        let signed = with_signature(record.as_bytes(), &signature).unwrap();
        assert_eq!(author(&signed).as_deref(), Some("ann"));
        assert_eq!(author(&signed.replace("master-1", "master-2")), None, "anything else counts");
    }
}
