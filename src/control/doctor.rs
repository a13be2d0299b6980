//! Checks that need no node: Consul, the caller's token, each unit's keys, its coordinator, and the clock; and the wording
//! that they share with the nodes' own checks.
//!
//! Each bad finding says how to fix it. Nodes check themselves, and are queried with [`ask`]. Rights are queried from
//! Consul, never tried. Non-goals: the artifact store, which has its own settings.

use std::time::Duration;

use jiff::SignedDuration;

use super::access::Access;
use super::ask::ask;
use super::code::{Code, Failure};
use super::read;
use super::rights::{self, Lacking};
use crate::consul::Error;
use crate::document::status::GroupTrouble;
use crate::document::{NodeReply, StatusDocument, UnitHealth};
use crate::protocol::ids::Unit;
use crate::protocol::record::{Ask, Author, Finding, Mark};
use crate::telemetry::chain;

/// How far clocks may differ. The protocol does not depend on clocks, but release names, freezes and people do.
pub(crate) const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(5);
/// The remedy for clocks that differ by more than [`CLOCKS_APART`].
pub(crate) const SYNCHRONIZE_CLOCKS: &str = "synchronize the clocks of all machines with NTP";
/// The remedy for a missing or unknown token.
const GIVE_A_TOKEN: &str =
    "set a token that Consul knows, with CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE or --token-file";
/// The remedy for an archive that is missing from the store.
pub(crate) const PUBLISH_AGAIN: &str =
    "publish the same commit again: the archive must be identical, and gets the same name and record";

/// The finding about the rights of `whose` token. `role` is the argument of `cutover consul acl-policy` that prints the
/// policy the token needs, and `if_lacking` the mark if a right is missing.
pub(crate) fn rights_finding(about: &str, whose: &str, role: &str, lacking: &Lacking, if_lacking: Mark) -> Finding {
    match lacking {
        Lacking::Nothing => Finding::new(about, Mark::Good, &format!("{whose} has every right it needs")),
        Lacking::NotTold => {
            let says = format!("not checked: ACLs are off, or Consul does not report the rights of {whose}");
            Finding::new(about, Mark::Note, &says)
        }
        Lacking::These(missing) => {
            Finding::new(about, if_lacking, &format!("{whose} lacks {}", rights::listed(missing)))
                .remedy(&format!("`cutover consul acl-policy {role}` prints the policy that this token needs"))
        }
    }
}

/// Checks Consul itself, and the caller's token.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn consul(access: &Access) -> Vec<Finding> {
    let client = access.kv.client();
    let about = "consul";
    let mut findings = Vec::new();
    match client.has_leader().await {
        Ok(true) => {
            findings.push(Finding::new(about, Mark::Good, &format!("{} answers and has a leader", client.address())));
        }
        Ok(false) => findings.push(
            Finding::new(about, Mark::Bad, &format!("{} answers, but knows no leader", client.address()))
                .remedy("start the missing Consul servers; `consul operator raft list-peers` lists them"),
        ),
        Err(error) => {
            let says = format!("{} does not answer: {}", client.address(), chain(&error));
            findings.push(
                Finding::new(about, Mark::Bad, &says)
                    .remedy("start Consul's agent, or set its address with CONSUL_HTTP_ADDR or --http-addr"),
            );
            return findings;
        }
    }
    // Reading the version needs a right that no other check here needs, so a failure is ignored.
    if let Ok(agent) = client.agent_self().await {
        let says = format!("agent {} in {}, version {}", agent.node, agent.datacenter, agent.version);
        findings.push(Finding::new("version", Mark::Note, &says));
    }
    findings.push(match client.token_self().await {
        Ok(None) => Finding::new("token", Mark::Note, "ACLs are off in Consul: every client has every right"),
        Ok(Some(token)) => {
            let (id, description) = (&token.accessor_id, &token.description);
            Finding::new("token", Mark::Good, &format!("accessor {id}, \"{description}\""))
        }
        Err(error) => Finding::new("token", Mark::Bad, &chain(&error)).remedy(GIVE_A_TOKEN),
    });
    findings
}

/// Checks a unit: its keys, the caller's rights on them, and every node's own checks.
///
/// # Errors
///
/// [`Code::Busy`] if other commands keep querying the nodes, which says nothing about the unit. Every other problem is a
/// finding.
///
/// # Cancel safety
///
/// As [`ask`].
pub(crate) async fn unit(
    access: &Access,
    unit: &Unit,
    author: &Author,
    limit: Duration,
) -> Result<UnitHealth, Failure> {
    let mut here = vec![rights_on(access, unit).await];
    match read::status(access, unit).await {
        Ok(status) => here.extend(key_findings(&status)),
        Err(error) => here.push(failure("keys", &error)),
    }
    let nodes = match ask(access, unit, Ask::Doctor, author, limit).await {
        Ok(nodes) => nodes,
        Err(busy) if busy.code == Code::Busy => return Err(busy),
        Err(error) => {
            here.push(failure("nodes", &error));
            Vec::new()
        }
    };
    if let Some(finding) = clock(&nodes) {
        here.push(finding);
    }
    Ok(UnitHealth { unit: unit.clone(), here, nodes })
}

fn failure(about: &str, error: &Failure) -> Finding {
    Finding::new(about, Mark::Bad, &error.chain()).remedy(error.hint.as_deref().unwrap_or_default())
}

/// Whether the token has the rights that deploying to this unit needs.
async fn rights_on(access: &Access, unit: &Unit) -> Finding {
    let about = "rights";
    let wanted = rights::of_deployer(&access.keys, unit);
    match rights::lacking(access.kv.client(), &wanted).await {
        Ok(lacking) => rights_finding(about, "the token", &format!("deployer --unit {unit}"), &lacking, Mark::Warn),
        Err(error @ Error::Forbidden { .. }) => Finding::new(about, Mark::Bad, &chain(&error)).remedy(GIVE_A_TOKEN),
        Err(error) => Finding::new(about, Mark::Warn, &format!("not checked: {}", chain(&error))),
    }
}

fn key_findings(status: &StatusDocument) -> Vec<Finding> {
    let unit = &status.unit;
    let mut findings = Vec::new();
    findings.push(match &status.coordinator {
        Some(node) => Finding::new("coordinator", Mark::Good, &format!("{node} coordinates")),
        None => Finding::new("coordinator", Mark::Bad, "no agent coordinates this group, so requests wait").remedy(
            "start an agent of this group with coordinate = true; if one runs, its log says why it does not coordinate",
        ),
    });
    let recover = format!("`cutover recover {unit}` rebuilds the keys from what the nodes run");
    findings.extend(status.troubles.iter().map(|trouble| match trouble {
        GroupTrouble::Archive(text) => Finding::new("archive", Mark::Bad, text).remedy(PUBLISH_AGAIN),
        GroupTrouble::Keys(text) => Finding::new("keys", Mark::Bad, text).remedy(&recover),
    }));
    findings.extend(status.problems.iter().map(|problem| {
        let says = format!("{} cannot be read: {}", problem.key, problem.problem);
        Finding::new("keys", Mark::Bad, &says)
            .remedy("if a newer Cutover wrote the key, upgrade this program; otherwise see docs/keys.md")
    }));
    if status.troubles.is_empty() && status.problems.is_empty() {
        let current = status.current.as_ref().map_or("nothing yet".to_owned(), |c| format!("{}", c.artifact));
        findings.push(Finding::new("keys", Mark::Good, &format!("readable; committed is {current}")));
    }
    if let Some(freeze) = &status.freeze {
        let says = format!("frozen by {}: {}", freeze.author.by, freeze.author.reason);
        findings.push(Finding::new("freeze", Mark::Note, &says).remedy(&format!("`cutover unfreeze {unit}` lifts it")));
    }
    findings
}

/// Compares this machine's clock with the nodes. If most nodes differ from it, this machine's clock is probably wrong.
fn clock(nodes: &[NodeReply]) -> Option<Finding> {
    let clocks: Vec<&Finding> = nodes.iter().filter_map(|node| node.finding("clock")).collect();
    let apart = clocks.iter().filter(|finding| finding.mark != Mark::Good).count();
    if clocks.is_empty() {
        return None;
    }
    let all = clocks.len();
    if apart.saturating_mul(2) <= all {
        return Some(Finding::new(
            "clock",
            Mark::Good,
            &format!("agrees with the clocks of {} of {all} nodes", all.saturating_sub(apart)),
        ));
    }
    let says = format!("this machine's clock differs from the clocks of {apart} of {all} nodes");
    Some(Finding::new("clock", Mark::Warn, &says).remedy(SYNCHRONIZE_CLOCKS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::AnswerState;

    #[test]
    fn a_clock_that_differs_from_most_nodes_is_reported() {
        let node = |mark| NodeReply {
            findings: vec![Finding::new("clock", mark, "x")],
            ..NodeReply::without_answer("web-1".parse().unwrap(), AnswerState::Answered)
        };
        assert_eq!(clock(&[node(Mark::Warn), node(Mark::Warn), node(Mark::Good)]).unwrap().mark, Mark::Warn);
        assert_eq!(clock(&[node(Mark::Warn), node(Mark::Good), node(Mark::Good)]).unwrap().mark, Mark::Good);
        assert_eq!(clock(&[]), None);
    }
}
