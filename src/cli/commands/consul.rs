//! `cutover consul`: prints configuration for Consul, with the names filled in.
//!
//! Changes nothing: writing policies and reloading Consul agents need permissions that this command should not have.

use std::collections::BTreeMap;

use crate::cli::args::{AclPolicy, Handler, Role, WatchConfig};
use crate::cli::output;
use crate::control::{Code, Failure};

const WATCHES_HTTP: &str = include_str!("../../../consul/watches.json");
const WATCHES_SCRIPT: &str = include_str!("../../../consul/watches-script.json");

/// Prints the watch, for the Consul agent's configuration directory.
///
/// # Errors
///
/// Exit code 1 if stdout cannot be written.
pub(crate) fn watch_config(args: &WatchConfig) -> Result<Code, Failure> {
    output::result(match args.handler {
        Handler::Http => WATCHES_HTTP,
        Handler::Script => WATCHES_SCRIPT,
    })?;
    Ok(Code::Done)
}

/// Prints a role's policy.
///
/// # Errors
///
/// Exit code 2 if a name that the role needs is missing.
pub(crate) fn acl_policy(args: &AclPolicy, prefix: &str) -> Result<Code, Failure> {
    let group = args.unit.as_ref().map(|unit| unit.group.to_string());
    let app =
        args.unit.as_ref().map(|unit| unit.app.to_string()).or_else(|| args.app.as_ref().map(ToString::to_string));
    let names = [("node", args.node.as_ref().map(ToString::to_string)), ("app", app), ("group", group)];
    let names = names.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    output::result(&fill(template(args.role), &names, prefix)?)?;
    Ok(Code::Done)
}

const fn template(role: Role) -> &'static str {
    match role {
        Role::Agent => include_str!("../../../consul/policies/agent.hcl"),
        Role::Api => include_str!("../../../consul/policies/api.hcl"),
        Role::Coordinator => include_str!("../../../consul/policies/coordinator.hcl"),
        Role::Deployer => include_str!("../../../consul/policies/deployer.hcl"),
        Role::Operator => include_str!("../../../consul/policies/operator.hcl"),
        Role::Publisher => include_str!("../../../consul/policies/publisher.hcl"),
        Role::Viewer => include_str!("../../../consul/policies/viewer.hcl"),
    }
}

/// Fills the names into the template. Names are validated types, so they cannot break the syntax of a rule.
fn fill(template: &str, names: &BTreeMap<&str, String>, prefix: &str) -> Result<String, Failure> {
    let mut text = template.to_owned();
    for (name, flag) in [("node", "--node"), ("app", "--unit or --app"), ("group", "--unit")] {
        let mark = format!("{{{{{name}}}}}");
        match names.get(name) {
            Some(value) => text = text.replace(&mark, value),
            None if text.contains(&mark) => {
                return Err(Failure::new(Code::Usage, format!("this policy needs {flag}"))
                    .hint("for example: `cutover consul acl-policy agent --unit shop/production --node web-1`"));
            }
            None => {}
        }
    }
    Ok(text.replace("\"cutover/", &format!("\"{prefix}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 7] =
        [Role::Agent, Role::Api, Role::Coordinator, Role::Deployer, Role::Operator, Role::Publisher, Role::Viewer];

    fn names(given: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
        given.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    #[test]
    fn every_policy_has_all_its_names_filled_in() {
        let all = names(&[("node", "web-1"), ("app", "shop"), ("group", "production")]);
        for role in ROLES {
            let policy = fill(template(role), &all, "cutover/").unwrap();
            assert!(!policy.contains("{{") && policy.contains("key_prefix \"cutover/"), "{policy}");
        }
        assert!(fill(template(Role::Agent), &all, "x/y/").unwrap().contains("\"x/y/shop/production/acks/web-1\""));
    }

    #[test]
    fn a_missing_name_is_a_usage_error_only_if_the_policy_needs_it() {
        assert_eq!(fill(template(Role::Agent), &names(&[]), "cutover/").unwrap_err().code, Code::Usage);
        assert!(fill(template(Role::Publisher), &names(&[("app", "shop")]), "cutover/").is_ok());
        assert!(fill(template(Role::Viewer), &names(&[]), "cutover/").is_ok());
    }
}
