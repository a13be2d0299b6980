//! `cutover node`: forgets or repairs a node.

use std::collections::BTreeMap;

use super::forget;
use crate::cli::args::{NodeCommand, NodeRepair};
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::request::author;
use crate::cli::view;
use crate::control::ask::ask;
use crate::control::{Code, Failure};
use crate::document::{AnswerState, NodeReply, RepairDocument};
use crate::protocol::ids::{Node, Unit};
use crate::protocol::record::Ask;

/// Runs the subcommand.
///
/// # Errors
///
/// As the subcommand.
pub(crate) async fn run(context: &Context, args: &NodeCommand) -> Result<Code, Failure> {
    match args {
        NodeCommand::Forget(args) => forget::run(context, args).await,
        NodeCommand::Repair(args) => repair(context, args).await,
    }
}

/// Lets a node point `current` back at its release, and prints its answer.
///
/// # Errors
///
/// Exit code 3 for an unknown node, 4 if the node refuses, 5 if it does not answer in time, 6 if another command is
/// querying the nodes, 8 if its agent is away.
async fn repair(context: &Context, args: &NodeRepair) -> Result<Code, Failure> {
    let units = match &args.unit {
        Some(unit) => vec![unit.clone()],
        None => units_of(context, &args.node).await?,
    };
    let mut answers = BTreeMap::new();
    for unit in units {
        let question = Ask::Repair { node: args.node.clone() };
        let asked = ask(&context.access, &unit, question, &author(""), args.timeout).await?;
        answers.extend(asked.into_iter().map(|answer| (unit.clone(), answer)));
    }
    let code = answers.values().map(code_of).max().unwrap_or(Code::Done);
    let result =
        answers.iter().map(|(unit, answer)| format!("{unit}: {}", summary(answer))).collect::<Vec<_>>().join("; ");
    let headline = if code == Code::Done {
        format!("{} is repaired: {result}", args.node)
    } else {
        format!("{} is not repaired: {result}", args.node)
    };
    let document = RepairDocument {
        node: args.node.clone(),
        well: code == Code::Done,
        headline,
        code: code as u8,
        units: answers,
    };
    output::result(&match context.format {
        Format::Text => view::repair(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(code)
}

/// Every group that the node is registered in.
async fn units_of(context: &Context, node: &Node) -> Result<Vec<Unit>, Failure> {
    let mut found = Vec::new();
    for unit in context.access.units().await? {
        if context.access.kv.entry(&context.access.keys.unit(&unit).node(node)).await?.is_some() {
            found.push(unit);
        }
    }
    if found.is_empty() {
        let what = format!("{node} is registered in no group under {}", context.access.keys.prefix());
        return Err(Failure::new(Code::NotFound, what).hint("`cutover status` lists all groups with their nodes"));
    }
    Ok(found)
}

fn code_of(answer: &NodeReply) -> Code {
    match answer.heard {
        AnswerState::Answered if answer.is_well() => Code::Done,
        AnswerState::Answered => Code::Refused,
        AnswerState::NoAnswer => Code::Unknown,
        AnswerState::Away => Code::Unreachable,
    }
}

fn summary(answer: &NodeReply) -> String {
    match (answer.heard, answer.findings.first()) {
        (AnswerState::Answered, Some(finding)) => finding.says.clone(),
        (AnswerState::Answered, None) => "nothing to report".to_owned(),
        (AnswerState::NoAnswer, _) => {
            "no answer in time; `cutover status` shows whether the node still drifts".to_owned()
        }
        (AnswerState::Away, _) => "no answer: the agent is away".to_owned(),
    }
}
