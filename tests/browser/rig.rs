//! A fleet, two page agents, a proxy before them, and the tokens of people.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::fleet::{Fleet, FleetSpec, UNIT};
use crate::page_agent::PageAgent;
use crate::proxy::{Fault, Proxy};

/// A second unit, on the first node alone: an overview of one unit shows little.
pub(crate) const OTHER_UNIT: &str = "blog/staging";

/// For how long a deploy may be held: until everybody has looked at it.
const TIME: &str = "30m";

/// A browser needs much of a core: two rigs run at the same time.
const SLOTS: usize = 3;

/// Everything that a scenario plays in.
pub(crate) struct Rig {
    /// The page is at the first of them; the second one is what the proxy can turn to.
    pub(crate) page_agents: [PageAgent; 2],
    /// Where people go: a proxy to a page agent.
    pub(crate) proxy: Proxy,
    runtime: Runtime,
    pub(crate) fleet: Fleet,
    /// Who may deploy, and who may only look; each token is described by its owner's name.
    tokens: [(&'static str, String); 2],
}

impl Rig {
    /// Three nodes with hooks, of which the first coordinates; Consul denies what no policy allows.
    pub(crate) fn start() -> Self {
        let fleet =
            Fleet::start(&FleetSpec { acl: true, late: &[0, 1, 2], settings, slots: SLOTS, ..FleetSpec::default() });
        for (index, node) in fleet.nodes.iter().enumerate() {
            let policy = if index == 0 { "coordinator" } else { "agent" };
            node.set_token(&token(&fleet, &format!("agent-{}", node.name), policy, &node.name));
            fleet.start_agent(index);
        }
        fleet.wait_for_presence(&[0, 1, 2]);
        let page_agents = [PageAgent::start(&fleet, None), PageAgent::start(&fleet, Some(1))];
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = page_agents[0].address().parse().unwrap();
        let proxy = runtime.block_on(Proxy::start(address, &[], Fault::Pass));
        let tokens =
            [("ann", "deployer"), ("vic", "viewer")].map(|(name, policy)| (name, token(&fleet, name, policy, "any")));
        Self { page_agents, proxy, runtime, fleet, tokens }
    }

    /// A person's token.
    pub(crate) fn token_of(&self, name: &str) -> &str {
        let (_, token) = self.tokens.iter().find(|(owner, _)| *owner == name).expect("nobody is called so");
        token
    }

    /// Makes the proxy send everyone to this page agent; open connections are cut.
    pub(crate) fn turn_to(&self, agent: usize) {
        let _in_runtime = self.runtime.enter();
        self.proxy.turn_to(self.page_agents[agent].address().parse().unwrap());
    }

    /// What a scenario needs to know.
    pub(crate) fn facts(&self) -> Value {
        // An agent is always called localhost, whatever its address; so is the proxy.
        let url = self.proxy.endpoint().replace("127.0.0.1", "localhost");
        let names: Vec<&str> = self.fleet.nodes.iter().map(|node| node.name.as_str()).collect();
        let tokens: Value = self.tokens.iter().map(|(name, token)| ((*name).to_owned(), json!(token))).collect();
        json!({"url": url, "unit": UNIT, "other": OTHER_UNIT, "nodes": names, "tokens": tokens})
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for agent in &self.page_agents {
                eprintln!("--- page agent {}:\n{}", agent.address(), agent.log_tail());
            }
        }
    }
}

/// What the nodes' settings say of their units.
///
/// The hooks are those of the other tests, but their commands are the same on every node: nodes whose settings differ
/// are shown as having drifted apart.
fn settings(index: usize, dir: &Path) -> String {
    let mut text = format!(
        "coordinate = {}\nprefetch = [\"master\"]\nprepare_timeout = \"{TIME}\"\n[deploy.\"{UNIT}\".hooks]\n",
        index == 0
    );
    for hook in ["prepare", "switched", "check", "reverted"] {
        let command = format!("exec sh $HOME/hook {hook}");
        writeln!(text, "{hook} = {{ command = [\"sh\", \"-c\", \"{command}\"], timeout = \"{TIME}\" }}").unwrap();
    }
    if index == 0 {
        let deploy_to = dir.join("blog");
        write!(text, "[deploy.\"{OTHER_UNIT}\"]\ndeploy_to = \"{}\"\n", deploy_to.display()).unwrap();
    }
    text
}

/// A token with one of the policies that we ship, for both units.
pub(crate) fn token(fleet: &Fleet, name: &str, policy: &str, node: &str) -> String {
    let rules = [UNIT, OTHER_UNIT].map(|unit| {
        let (app, _) = unit.split_once('/').unwrap();
        (format!("{name}-{app}"), rules(policy, unit, node))
    });
    fleet.token_with(name, &rules)
}

/// One of the policies that we ship, its placeholders filled in.
fn rules(policy: &str, unit: &str, node: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("consul/policies/{policy}.hcl"));
    let rules = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (app, group) = unit.split_once('/').unwrap();
    rules.replace("{{app}}", app).replace("{{group}}", group).replace("{{node}}", node)
}
