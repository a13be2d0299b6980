//! What doctor and a dry run say of signatures on this node: the pinned keys, and what was signed by others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{is_coordinator, newest};
use crate::agent::daemon::context::Context;
use crate::agent::node::signatures;
use crate::consul::Consistency;
use crate::protocol::ids::{KeyId, ReleaseName};
use crate::protocol::record::{Build, Fault, Finding, Mark, Step, decode};
use crate::signing::{Rules, named_key};
use crate::telemetry::chain;

pub(super) const ABOUT: &str = "signatures";
/// The most names in one sentence; the rest are counted.
const MOST_NAMES: usize = 5;
/// The remedy for what a withdrawn key has signed.
const WITHDRAWN: &str = "if the key was stolen, find out who made them, and remove them; else nothing: a release stays usable for a rollback";

/// Whether this node accepts the signature of a planned deploy; none if it has no rules.
pub(super) async fn of_planned(ctx: &Context, build: &Build, release: Option<&ReleaseName>) -> Option<Finding> {
    if ctx.settings.signatures.is_empty() {
        return None;
    }
    Some(match signatures::check_placed(ctx, build, release).await {
        Ok(()) => Finding::new(ABOUT, Mark::Good, "this node accepts the build by its keys and require_signature"),
        Err(fault) => Finding::new(ABOUT, Mark::Bad, &fault.reason),
    })
}

/// All findings of doctor.
pub(super) async fn look(ctx: &Arc<Context>) -> Vec<Finding> {
    let rules = &ctx.settings.signatures;
    let mut findings = Vec::new();
    findings.extend(if rules.is_empty() { without_keys(ctx).await } else { Some(pinned(rules)) });
    match on_disk(ctx).await {
        Ok(found) => findings.extend(found.iter().filter(|(key, _)| !rules.pins(key)).map(withdrawn)),
        Err(fault) => findings.push(Finding::new(ABOUT, Mark::Bad, &fault.reason)),
    }
    // Every node could list the builds, but one answer is enough.
    if !rules.is_empty() && is_coordinator(ctx).await.unwrap_or(false) {
        match builds(ctx).await {
            Ok(found) => {
                let foreign_keys = found.by_key.iter().filter(|(key, _)| !rules.pins(key));
                findings.extend(foreign_keys.map(|by| foreign(rules, by)));
                findings.extend(unsigned(rules, &found.unsigned));
            }
            Err(error) => {
                let says = format!("the signatures of the builds are not checked: {}", chain(&error));
                findings.push(Finding::new(ABOUT, Mark::Warn, &says));
            }
        }
    }
    findings
}

fn pinned(rules: &Rules) -> Finding {
    let keys: Vec<&str> = rules.keys.iter().map(|key| key.id().as_str()).collect();
    let asked = if rules.required { "is set" } else { "is not set" };
    Finding::new(ABOUT, Mark::Good, &format!("pinned: {}; require_signature {asked}", keys.join(", ")))
}

/// A warning if this node checks no signatures, although the newest build has one.
async fn without_keys(ctx: &Context) -> Option<Finding> {
    let artifact = newest(ctx).await?;
    let key = ctx.agent.keys.build(&ctx.unit.app, &artifact);
    let entry = ctx.agent.consul.kv_get(&key, Consistency::Default).await.ok().flatten()?;
    let signer = named_key(decode::<Build>(&key, &entry.value).ok()?.signature.as_ref()?).ok()?;
    let says =
        format!("no key is pinned on this node, so it checks no signature; {artifact} is signed by key {signer}");
    Some(Finding::new(ABOUT, Mark::Warn, &says).remedy("pin the public key under [signatures] keys, on every node"))
}

/// What is on the disk, by the key that this node verified it by.
async fn on_disk(ctx: &Arc<Context>) -> Result<BTreeMap<KeyId, Vec<String>>, Fault> {
    ctx.on_disk(Step::Preflight, |site| {
        let mut found: BTreeMap<KeyId, Vec<String>> = BTreeMap::new();
        for record in site.records()? {
            let Some(key) = record.signed_by else { continue };
            found.entry(key).or_default().push(format!("release {} ({})", record.release, record.artifact));
        }
        for staged in site.staged()? {
            let Some(key) = staged.signed_by else { continue };
            found.entry(key).or_default().push(format!("staged {}", staged.artifact));
        }
        Ok::<_, std::io::Error>(found)
    })
    .await
}

fn withdrawn((key, names): (&KeyId, &Vec<String>)) -> Finding {
    let says = format!("verified by key {key}, which is no longer pinned: {}", some_of(names));
    Finding::new(ABOUT, Mark::Warn, &says).remedy(WITHDRAWN)
}

/// The builds of the app.
#[derive(Default)]
struct Builds {
    /// Those whose signature names a key, by that key.
    by_key: BTreeMap<KeyId, Vec<String>>,
    /// Those without a signature.
    unsigned: Vec<String>,
}

async fn builds(ctx: &Context) -> Result<Builds, crate::consul::Error> {
    let mut found = Builds::default();
    for entry in ctx.agent.consul.kv_list(&ctx.agent.keys.builds(&ctx.unit.app), Consistency::Stale).await? {
        let Ok(build) = decode::<Build>(&entry.key, &entry.value) else { continue };
        match build.signature.as_ref().map(named_key) {
            Some(Ok(key)) => found.by_key.entry(key).or_default().push(build.artifact.to_string()),
            // What is no signature is refused by every node, with the reason.
            Some(Err(_)) => {}
            None => found.unsigned.push(build.artifact.to_string()),
        }
    }
    Ok(found)
}

fn foreign(rules: &Rules, (key, names): (&KeyId, &Vec<String>)) -> Finding {
    let says = format!("builds signed by key {key}, which is not pinned: {}", some_of(names));
    let (mark, remedy) = if rules.required {
        (
            Mark::Warn,
            "they cannot be deployed: publish them again with --sign, a pinned key and --replace-signature, or pin that key if it is yours",
        )
    } else {
        (Mark::Note, "they count as unsigned; pin that key if it is yours")
    };
    Finding::new(ABOUT, mark, &says).remedy(remedy)
}

fn unsigned(rules: &Rules, names: &[String]) -> Option<Finding> {
    let says = format!("builds that are not signed, {} in all: {}", names.len(), some_of(names));
    let remedy = if rules.required {
        "they cannot be deployed: publish those that you need again with --sign"
    } else {
        "publish those that you need again with --sign before you set require_signature"
    };
    (!names.is_empty()).then(|| Finding::new(ABOUT, Mark::Note, &says).remedy(remedy))
}

fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST_NAMES) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
