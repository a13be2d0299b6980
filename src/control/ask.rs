//! Asking the nodes of a unit what only they know: a question in `question`, an answer of each in `answers/<node>`.
//!
//! One question stands at a time. A young one of somebody else's that is not answered yet is not replaced; and who waits
//! for answers is told when theirs was. Nothing is guessed for a node that does not answer.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::access::Access;
use super::code::{Code, Failure};
use super::feeds::Feeds;
use super::kv::Replaced;
use super::operate::Author;
use crate::document::{AskedNode, Entries, Heard};
use crate::protocol::ids::{ModifyIndex, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Ask, FORMAT, Question, Reply, decode, encode};

/// How long nodes are waited for unless the caller says otherwise. A node answers within a second; its store may take
/// some more to say that it cannot be reached.
pub const LIMIT: Duration = Duration::from_secs(10);
/// How long another's question stands before it may be replaced: as long as its asker waits.
const YOUNG: SignedDuration = SignedDuration::from_secs(10);

/// Asks, and waits until every live node that is asked has answered, or `limit` is over. One row per registered node
/// that is asked, by name.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit, or a node, that is not known; [`Code::Busy`] where somebody else's question is not
/// answered yet, or has replaced this one; [`Code::NotAllowed`] without the right to write `question`.
///
/// # Cancel safety
///
/// Not safe: the question may have been written, and will be answered then. It changes nothing, but for
/// [`Ask::Repair`].
pub async fn ask(
    access: &Access,
    unit: &Unit,
    ask: Ask,
    author: &Author,
    limit: Duration,
) -> Result<Vec<AskedNode>, Failure> {
    let keys = access.keys.unit(unit);
    let deadline = Instant::now() + limit;
    let question = Question {
        format: FORMAT,
        id: uuid::Uuid::now_v7().to_string(),
        ask,
        by: author.by.clone(),
        via: author.via.clone(),
        at: Timestamp::now(),
    };
    let asked = registered(access, unit, &keys, &question).await?;
    put(access, unit, &keys, &question, &asked).await?;
    let mut feeds = Feeds::open(access, [keys.replies(), keys.question()]);
    let mut replies = Vec::new();
    while !asked.iter().filter(|(_, heard)| *heard != Heard::Away).all(|(node, _)| answer(&replies, node).is_some()) {
        let Ok(change) = timeout_at(deadline, feeds.next()).await else { break };
        let change = change?;
        if change.watched == keys.replies() {
            replies = replies_to(&keys, &change.entries, &question.id);
        } else if let Some(other) = replaced_by(&keys, &change.entries, &question) {
            let what = format!("the question was replaced by another of {}'s before every node had answered", other.by);
            return Err(Failure::new(Code::Busy, what).hint("ask again"));
        }
    }
    let row = |(node, heard): (Node, Heard)| match answer(&replies, &node).cloned() {
        Some(reply) => AskedNode::answered(node, reply),
        None => AskedNode::without_answer(node, heard),
    };
    Ok(asked.into_iter().map(row).collect())
}

/// The registered nodes that are asked; each as it stands while it has not answered.
async fn registered(
    access: &Access,
    unit: &Unit,
    keys: &UnitKeys,
    question: &Question,
) -> Result<Vec<(Node, Heard)>, Failure> {
    let prefix = keys.nodes();
    let entries = access.kv.entries(&prefix).await?;
    if entries.is_empty() {
        return Err(access.unknown(unit).await);
    }
    let nodes: Vec<(Node, Heard)> = entries
        .iter()
        .filter_map(|(key, entry)| {
            let node: Node = key.strip_prefix(&prefix)?.parse().ok()?;
            Some((node, if entry.session.is_some() { Heard::NoAnswer } else { Heard::Away }))
        })
        .filter(|(node, _)| question.is_for(node))
        .collect();
    match &question.ask {
        Ask::Repair { node } if nodes.is_empty() => {
            let failure = Failure::new(Code::NotFound, format!("{unit} has no node {node}"));
            Err(failure.hint(format!("see: cutover status {unit}")))
        }
        _ => Ok(nodes),
    }
}

/// Writes the question, unless a young one of another asker's still waits for answers.
async fn put(
    access: &Access,
    unit: &Unit,
    keys: &UnitKeys,
    question: &Question,
    asked: &[(Node, Heard)],
) -> Result<(), Failure> {
    let key = keys.question();
    let standing = access.kv.entry(&key).await?;
    let index = standing.as_ref().map_or(ModifyIndex(0), |entry| entry.modify_index);
    // What cannot be read is nobody's question.
    let standing = standing.and_then(|entry| decode::<Question>(&key, &entry.value).ok());
    if let Some(other) = standing.filter(|other| (&other.by, &other.via) != (&question.by, &question.via)) {
        let age = question.at.duration_since(other.at);
        if age.abs() < YOUNG && !is_answered(access, keys, &other, asked).await? {
            let what = format!("{} asks the nodes of {unit} something just now, through {}", other.by, other.via);
            return Err(Failure::new(Code::Busy, what).hint("ask again in some seconds"));
        }
    }
    match access.kv.replace(&key, &encode(question), index).await? {
        Replaced::At(_) => Ok(()),
        Replaced::Lost => Err(Failure::new(Code::Busy, format!("{unit} was asked something else at the same moment"))
            .hint("ask again in some seconds")),
    }
}

/// Whether every live node that `question` is for has answered it.
async fn is_answered(
    access: &Access,
    keys: &UnitKeys,
    question: &Question,
    nodes: &[(Node, Heard)],
) -> Result<bool, Failure> {
    let replies = replies_to(keys, &access.kv.entries(&keys.replies()).await?, &question.id);
    let waited_for = |(node, heard): &&(Node, Heard)| *heard != Heard::Away && question.is_for(node);
    Ok(nodes.iter().filter(waited_for).all(|(node, _)| answer(&replies, node).is_some()))
}

fn replies_to(keys: &UnitKeys, entries: &Entries, id: &str) -> Vec<(Node, Reply)> {
    let prefix = keys.replies();
    let read = |(key, entry): (&String, &crate::document::Entry)| {
        let node = key.strip_prefix(&prefix)?.parse().ok()?;
        let reply: Reply = decode(key, &entry.value).ok()?;
        (reply.id == id).then_some((node, reply))
    };
    entries.iter().filter_map(read).collect()
}

fn answer<'a>(replies: &'a [(Node, Reply)], node: &Node) -> Option<&'a Reply> {
    replies.iter().find(|(from, _)| from == node).map(|(_, reply)| reply)
}

/// The other question that stands in the key now.
fn replaced_by(keys: &UnitKeys, entries: &Entries, question: &Question) -> Option<Question> {
    let key = keys.question();
    let standing: Question = decode(&key, &entries.get(&key)?.value).ok()?;
    (standing.id != question.id).then_some(standing)
}
