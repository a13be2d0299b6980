//! The requests of a scenario to the fleet, and their answers.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::rig::Rig;
use crate::thousand_nodes;

/// In how much time the thousand nodes answer.
const CROWD_TIME: Duration = Duration::from_secs(2);

/// One line of a scenario.
#[derive(Debug, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Ask {
    /// Runs `cutover` with the token that may do everything, or with that of this person.
    Cutover {
        args: Vec<String>,
        #[serde(default)]
        r#as: Option<String>,
    },
    /// Puts a thousand nodes into Consul; gives the path of their deploy.
    Crowd {},
    /// All of the thousand answer within two seconds.
    CrowdAnswers { answer: String },
    /// Brings the deploy of the thousand to a phase.
    CrowdPhase { phase: String },
    /// Makes a hook of a node fail, saying this.
    Fail { node: usize, hook: String, words: String },
    /// Makes a hook of a node wait.
    Hold { node: usize, hook: String },
    /// A key of the unit, as JSON.
    Key { key: String },
    /// Kills a page agent.
    KillPageAgent { agent: usize },
    /// Stops a page agent (SIGSTOP); its connections stay open.
    FreezePageAgent { agent: usize },
    /// Lets a hook of a node succeed again.
    Mend { node: usize, hook: String },
    /// Publishes a build of master, and waits until every node has it unpacked.
    Publish { version: String },
    /// Writes a key, below `cutover/`.
    Put { key: String, value: String },
    /// Lets a hook go on that waits.
    Release { node: usize, hook: String },
    /// Starts a page agent again.
    StartPageAgent { agent: usize },
    /// The tree that a build was published from.
    Tree { version: String },
    /// Makes the proxy send everyone to this page agent.
    TurnTo { agent: usize },
    /// Waits until a hook waits.
    WaitHook { node: usize, hook: String },
    /// Waits until the newest deploy is in this phase.
    WaitPhase { phase: String },
    /// Which version each node runs.
    Versions {},
}

/// Does it.
pub(crate) fn answer(rig: &Rig, ask: Ask) -> Value {
    let fleet = &rig.fleet;
    match ask {
        Ask::Cutover { args, r#as } => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let output = match r#as {
                None => fleet.cutover(&args),
                Some(name) => fleet.cutover_as(rig.token_of(&name), &args),
            };
            return json!({"code": output.code, "stdout": output.stdout, "stderr": output.stderr});
        }
        Ask::Crowd {} => {
            thousand_nodes::gather(&fleet.consul);
            return json!({"unit": thousand_nodes::UNIT, "epoch": thousand_nodes::EPOCH, "nodes": thousand_nodes::NODES});
        }
        Ask::CrowdAnswers { answer } => thousand_nodes::answer_all(&fleet.consul, &answer, CROWD_TIME),
        Ask::CrowdPhase { phase } => thousand_nodes::advance(&fleet.consul, &phase),
        Ask::Fail { node, hook, words } => fleet.nodes[node].fail(&hook, &words),
        Ask::Hold { node, hook } => fleet.nodes[node].hold(&hook),
        Ask::Key { key } => return fleet.json(&key).unwrap_or(Value::Null),
        Ask::FreezePageAgent { agent } => rig.page_agents[agent].freeze(),
        Ask::KillPageAgent { agent } => rig.page_agents[agent].kill(),
        Ask::Mend { node, hook } => fleet.nodes[node].mend(&hook),
        Ask::Publish { version } => return json!(fleet.publish_and_stage(&version).artifact),
        Ask::Put { key, value } => {
            let reply = fleet.consul.call("PUT", &format!("kv/cutover/{key}"), value.as_bytes()).unwrap();
            assert_eq!(reply.status, 200, "{key}: {reply:?}");
        }
        Ask::Release { node, hook } => fleet.nodes[node].release(&hook),
        Ask::StartPageAgent { agent } => rig.page_agents[agent].start_again(),
        Ask::Tree { version } => return json!(fleet.dir.path().join("build").join(version)),
        Ask::TurnTo { agent } => rig.turn_to(agent),
        Ask::WaitHook { node, hook } => fleet.nodes[node].wait_hook(&hook),
        Ask::WaitPhase { phase } => return fleet.wait_phase(&phase),
        Ask::Versions {} => return fleet.nodes.iter().map(|node| json!(node.read("current/version"))).collect(),
    }
    Value::Null
}
