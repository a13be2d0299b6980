//! The rights in Consul that each role needs, for [`doctor`](super::doctor) and the agent's check of itself.
//!
//! The policies in `consul/policies/` grant these rights. Missing rights are found by querying Consul, never by trying.

use crate::consul::{Client, Error, Permit, Resource, Right};
use crate::protocol::ids::{Epoch, Node, Unit};
use crate::protocol::keys::{BUILD_EVENT, Keys};

/// The part that an agent takes in its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Follows,
    /// Follows, and may coordinate.
    Coordinates,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    Nothing,
    /// Consul does not report rights: ACLs are off, or it is too old.
    NotTold,
    These(Vec<Right>),
}

/// A sample name, which stands for all names under a prefix.
const ANY: &str = "x";

/// A sample key, which stands for all keys under `prefix`.
fn below(prefix: &str) -> String {
    format!("{prefix}{ANY}")
}

fn right(resource: Resource, name: impl Into<String>, permit: Permit) -> Right {
    Right { resource, name: name.into(), permit }
}

fn keys_to(permit: Permit, names: impl IntoIterator<Item = String>) -> impl Iterator<Item = Right> {
    names.into_iter().map(move |name| right(Resource::Key, name, permit))
}

/// The agent whose rights are checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role<'a> {
    pub(crate) node: &'a Node,
    /// The name of its Consul agent.
    pub(crate) consul_node: &'a str,
    /// The app's own service, to which the agent adds the check of the release; none if it is not configured.
    pub(crate) service: Option<&'a str>,
    pub(crate) part: Part,
}

/// The rights of an agent for `unit`: those of `agent.hcl`, or of `coordinator.hcl` with `coordinate = true`.
#[must_use]
pub(crate) fn of_agent(keys: &Keys, unit: &Unit, role: &Role<'_>) -> Vec<Right> {
    let at = keys.unit(unit);
    let (node, app) = (role.node, &unit.app);
    let read = [at.barrier(), at.question(), keys.latest(app), at.members(Epoch::default()), below(&keys.builds(app))];
    let own = [at.ack(node), at.node(node), at.reply(node), at.attest(node, ANY)];
    let mut rights: Vec<Right> = keys_to(Permit::Read, read).chain(keys_to(Permit::Write, own)).collect();
    rights.extend([
        right(Resource::Session, role.consul_node, Permit::Write),
        right(Resource::Session, "", Permit::Read),
        right(Resource::Event, BUILD_EVENT, Permit::Read),
        right(Resource::Service, "cutover", Permit::Write),
        right(Resource::Service, "", Permit::Read),
        right(Resource::Agent, role.consul_node, Permit::Read),
        right(Resource::Node, "", Permit::Read),
    ]);
    rights.extend(role.service.map(|service| right(Resource::Service, service, Permit::Write)));
    if role.part == Part::Coordinates {
        let epoch = Epoch::default();
        let drive = [at.deploy(), at.abort(), at.freeze(), at.coordinator(), at.barrier(), at.status()];
        let record = [at.members(epoch), at.history(epoch), at.action(epoch), at.seen(), at.archive(), at.store()];
        let pass_on = [at.told(ANY), below(&at.all_forgotten()), below(&at.attests())];
        rights.extend(keys_to(Permit::Write, drive.into_iter().chain(record).chain(pass_on)));
    }
    rights
}

/// The rights of a person who deploys to and operates `unit`: those of `deployer.hcl`.
#[must_use]
pub(crate) fn of_deployer(keys: &Keys, unit: &Unit) -> Vec<Right> {
    let at = keys.unit(unit);
    let bad = below(&keys.bad_marks(&unit.app));
    let reads = keys_to(Permit::Read, [at.barrier(), at.status(), below(&at.nodes()), below(&at.acks())]);
    reads.chain(keys_to(Permit::Write, [at.deploy(), at.abort(), at.freeze(), at.question(), bad])).collect()
}

/// The rights among `rights` that the client's token lacks.
///
/// # Errors
///
/// As any call of Consul.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn lacking(client: &Client, rights: &[Right]) -> Result<Lacking, Error> {
    Ok(match client.rights_missing(rights).await? {
        None => Lacking::NotTold,
        Some(missing) if missing.is_empty() => Lacking::Nothing,
        Some(missing) => Lacking::These(missing),
    })
}

/// Rights as a list for people: the first few, and the number of others.
#[must_use]
pub(crate) fn listed(rights: &[Right]) -> String {
    /// Enough to recognise the missing policy. The whole list would not fit into a node's answer.
    const SHOWN: usize = 6;
    let shown: Vec<String> = rights.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = match rights.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule of a policy: its resource, its name, and `read` or `write`.
    type Rule = (String, String, String);

    /// The rules of a shipped policy, with its placeholders filled in.
    fn rules(policy: &str) -> Vec<Rule> {
        let path = format!("{}/consul/policies/{policy}.hcl", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("{{app}}", "shop").replace("{{group}}", "production").replace("{{node}}", "web-1");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let quoted = |line: &str| line.split('"').nth(1).unwrap().to_owned();
        let heads = lines.windows(2).filter(|pair| pair[0].ends_with('{'));
        heads.map(|pair| (pair[0].split(' ').next().unwrap().to_owned(), quoted(pair[0]), quoted(pair[1]))).collect()
    }

    fn gives((kind, name, policy): &Rule, right: &Right) -> bool {
        let resource = serde_json::to_value(right.resource).unwrap();
        let is_about = match kind.strip_suffix("_prefix") {
            Some(kind) => resource == kind && right.name.starts_with(name.as_str()),
            None => resource == kind.as_str() && right.name == *name,
        };
        is_about && (policy == "write" || right.permit == Permit::Read)
    }

    /// Fails unless the policy grants exactly the rights in `asked`.
    fn assert_as_shipped(policy: &str, asked: &[Right]) {
        let rules = rules(policy);
        for right in asked {
            assert!(rules.iter().any(|rule| gives(rule, right)), "{policy}.hcl lacks {right}");
        }
        for rule in &rules {
            let is_asked = |right: &&Right| gives(rule, right) && (rule.2 == "read") == (right.permit == Permit::Read);
            assert!(asked.iter().any(|right| is_asked(&right)), "{policy}.hcl grants {rule:?}, which is not needed");
        }
    }

    #[test]
    fn the_shipped_policies_grant_exactly_the_needed_rights() {
        let (keys, unit, node) = (Keys::default(), "shop/production".parse().unwrap(), "web-1".parse().unwrap());
        for (policy, part) in [("agent", Part::Follows), ("coordinator", Part::Coordinates)] {
            let role = Role { node: &node, consul_node: "web-1", service: None, part };
            assert_as_shipped(policy, &of_agent(&keys, &unit, &role));
        }
    }

    #[test]
    fn a_configured_service_needs_the_right_to_write_it() {
        let (keys, unit, node) = (Keys::default(), "shop/production".parse().unwrap(), "web-1".parse().unwrap());
        let role = Role { node: &node, consul_node: "web-1", service: Some("shop"), part: Part::Follows };
        let asked = of_agent(&keys, &unit, &role);
        assert!(asked.contains(&right(Resource::Service, "shop", Permit::Write)), "{asked:?}");
    }
}
