//! What can be looked at from here: Consul, the caller's token, each unit's keys, its coordinator, and the clock.
//!
//! Each finding says how to fix what is bad. What only a node knows is asked of it, by [`ask`]. Rights
//! are asked of Consul, never tried. Not here: the artifact store, which has its own settings.

use std::time::Duration;

use jiff::SignedDuration;

use super::access::Access;
use super::ask::ask;
use super::code::{Code, Failure};
use super::read;
use super::rights::{self, Lacking};
use crate::consul::Error;
use crate::document::{NodeReply, StatusDocument, UnitHealth};
use crate::protocol::ids::Unit;
use crate::protocol::record::{Ask, Author, Finding, Mark, Sweep};
use crate::telemetry::chain;

/// How far clocks may be apart. Nothing of the protocol rests on them; release names, freezes and people do.
pub(crate) const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(5);

/// Consul itself, and which token the caller has.
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
            findings.push(Finding::new(about, Mark::Good, &format!("{} answers, and has a leader", client.address())));
        }
        Ok(false) => findings.push(
            Finding::new(about, Mark::Bad, &format!("{} answers, and knows no leader", client.address()))
                .remedy("start the Consul servers that are missing; `consul operator raft list-peers` names them"),
        ),
        Err(error) => {
            let says = format!("{} does not answer: {}", client.address(), chain(&error));
            findings.push(
                Finding::new(about, Mark::Bad, &says)
                    .remedy("CONSUL_HTTP_ADDR or --http-addr say where Consul's agent listens; is it running?"),
            );
            return findings;
        }
    }
    // The version needs a right that nothing else here needs.
    if let Ok(agent) = client.agent_self().await {
        let says = format!("agent {} in {}, version {}", agent.node, agent.datacenter, agent.version);
        findings.push(Finding::new("version", Mark::Note, &says));
    }
    findings.push(match client.token_self().await {
        Ok(None) => Finding::new("token", Mark::Note, "Consul runs without ACLs: everybody may do everything"),
        Ok(Some(token)) => {
            let (id, description) = (&token.accessor_id, &token.description);
            Finding::new("token", Mark::Good, &format!("accessor {id}, \"{description}\""))
        }
        Err(error) => Finding::new("token", Mark::Bad, &chain(&error))
            .remedy("CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE or --token-file give a token that Consul knows"),
    });
    findings
}

/// One unit: its keys and the caller's rights on them, and then every node's own answer.
///
/// # Errors
///
/// [`Code::Busy`] where the nodes could not be asked since others ask them: that says nothing of the unit. All else that
/// cannot be found out is a finding.
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
        Ok(status) => here.extend(looks(&status)),
        Err(error) => here.push(trouble("keys", &error)),
    }
    let nodes = match ask(access, unit, Ask::Doctor, author, limit).await {
        Ok(nodes) => nodes,
        Err(busy) if busy.code == Code::Busy => return Err(busy),
        Err(error) => {
            here.push(trouble("nodes", &error));
            Vec::new()
        }
    };
    if let Some(finding) = clock(&nodes) {
        here.push(finding);
    }
    Ok(UnitHealth { unit: unit.clone(), here, nodes })
}

fn trouble(about: &str, error: &Failure) -> Finding {
    Finding::new(about, Mark::Bad, &error.chain()).remedy(error.hint.as_deref().unwrap_or_default())
}

/// The rights that deploying here takes and the token lacks.
async fn rights_on(access: &Access, unit: &Unit) -> Finding {
    let about = "rights";
    let wanted = rights::of_deployer(&access.keys, unit);
    match rights::lacking(access.kv.client(), &wanted).await {
        Ok(Lacking::Nothing) => Finding::new(about, Mark::Good, "the token may deploy here, and ask the nodes"),
        Ok(Lacking::NotTold) => Finding::new(about, Mark::Note, "not checked: Consul has no ACLs, or does not tell"),
        Ok(Lacking::These(missing)) => {
            let says = format!("the token lacks {}", rights::listed(&missing));
            Finding::new(about, Mark::Warn, &says).remedy(&format!(
                "`cutover consul acl-policy deployer --unit {unit}` prints the policy that deploying needs"
            ))
        }
        Err(error @ Error::Forbidden { .. }) => Finding::new(about, Mark::Bad, &chain(&error))
            .remedy("give a token that Consul knows, by CONSUL_HTTP_TOKEN or --token-file"),
        Err(error) => Finding::new(about, Mark::Warn, &format!("not checked: {}", chain(&error))),
    }
}

/// What the unit's keys tell.
fn looks(status: &StatusDocument) -> Vec<Finding> {
    let unit = &status.unit;
    let mut findings = Vec::new();
    findings.push(match &status.coordinator {
        Some(node) => Finding::new("coordinator", Mark::Good, &format!("{node} coordinates")),
        None => Finding::new("coordinator", Mark::Bad, "no agent coordinates this group, so requests wait").remedy(
            "start an agent of this group with coordinate = true; if one runs, its log says why it does not coordinate",
        ),
    });
    let way_on = format!("`cutover recover {unit}` rebuilds the keys from what the nodes run");
    let gone = status.current.as_ref().map(|current| Sweep::alarm(&current.artifact));
    findings.extend(status.troubles.iter().map(|trouble| {
        if gone.as_ref() == Some(trouble) {
            let again = "publish it again from the same commit: what it was is what it must be, byte for byte";
            return Finding::new("archive", Mark::Bad, trouble).remedy(again);
        }
        Finding::new("keys", Mark::Bad, trouble).remedy(&way_on)
    }));
    findings.extend(status.problems.iter().map(|problem| {
        let says = format!("{} cannot be read: {}", problem.key, problem.problem);
        Finding::new("keys", Mark::Bad, &says)
            .remedy("an older program cannot read what a newer one writes; else see docs/keys.md")
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

/// Whether this machine's clock is the one that is wrong: most nodes' differ from it.
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
            &format!("agrees with {} of {all} nodes", all.saturating_sub(apart)),
        ));
    }
    let says = format!("this machine's clock differs from those of {apart} of {all} nodes");
    Some(Finding::new("clock", Mark::Warn, &says).remedy("let this machine keep time by NTP, as the nodes do"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::AnswerState;

    #[test]
    fn a_clock_that_differs_from_most_nodes_is_our_own() {
        let node = |mark| NodeReply {
            findings: vec![Finding::new("clock", mark, "x")],
            ..NodeReply::without_answer("web-1".parse().unwrap(), AnswerState::Answered)
        };
        assert_eq!(clock(&[node(Mark::Warn), node(Mark::Warn), node(Mark::Good)]).unwrap().mark, Mark::Warn);
        assert_eq!(clock(&[node(Mark::Warn), node(Mark::Good), node(Mark::Good)]).unwrap().mark, Mark::Good);
        assert_eq!(clock(&[]), None);
    }
}
