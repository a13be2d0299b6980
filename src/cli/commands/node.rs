//! `cutover node`: what concerns one node.

use std::collections::BTreeMap;

use super::forget;
use crate::cli::args::{NodeCommand, NodeRepair};
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::request::author;
use crate::cli::view;
use crate::control::ask::ask;
use crate::control::{Code, Failure};
use crate::document::{AskedNode, Heard, RepairDocument};
use crate::protocol::ids::{Node, Unit};
use crate::protocol::record::Ask;

/// Runs the subcommand.
///
/// # Errors
///
/// As the subcommand.
pub async fn run(context: &Context, args: &NodeCommand) -> Result<Code, Failure> {
    match args {
        NodeCommand::Forget(args) => forget::run(context, args).await,
        NodeCommand::Repair(args) => repair(context, args).await,
    }
}

/// Has a node put `current` back, and prints what it says.
///
/// # Errors
///
/// Exit code 3 for a node that is registered nowhere, 4 where it refuses, 5 where it does not answer in time, 6 where
/// somebody else asks the nodes something, 8 where it is away.
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
    let told = answers.iter().map(|(unit, answer)| format!("{unit}: {}", says(answer))).collect::<Vec<_>>().join("; ");
    let headline = if code == Code::Done {
        format!("{} is in order: {told}", args.node)
    } else {
        format!("{}: {told}", args.node)
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

/// Every unit that the node is registered in.
async fn units_of(context: &Context, node: &Node) -> Result<Vec<Unit>, Failure> {
    let mut found = Vec::new();
    for unit in context.access.units().await? {
        if context.access.kv.entry(&context.access.keys.unit(&unit).node(node)).await?.is_some() {
            found.push(unit);
        }
    }
    if found.is_empty() {
        let what = format!("{node} is registered in no group under {}", context.access.keys.prefix());
        return Err(Failure::new(Code::NotFound, what).hint("`cutover status` lists groups with their nodes"));
    }
    Ok(found)
}

fn code_of(answer: &AskedNode) -> Code {
    match answer.heard {
        Heard::Answered if answer.is_well() => Code::Done,
        Heard::Answered => Code::Refused,
        Heard::NoAnswer => Code::Unknown,
        Heard::Away => Code::Unreachable,
    }
}

fn says(answer: &AskedNode) -> String {
    match (answer.heard, answer.findings.first()) {
        (Heard::Answered, Some(finding)) => finding.says.clone(),
        (Heard::Answered, None) => "it found nothing to say".to_owned(),
        (Heard::NoAnswer, _) => "no answer in time; `cutover status` tells whether it drifts".to_owned(),
        (Heard::Away, _) => "no answer: its agent is away".to_owned(),
    }
}
