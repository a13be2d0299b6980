//! Queries the nodes of a unit: writes a question to `question`, and reads each node's answer from `answers/<node>`.
//!
//! There is one question at a time. A recent question is not replaced before all nodes have answered it, not even by the
//! same author, because author names are self-reported and several CI jobs may share one. A second caller waits for its
//! turn. A caller whose question was replaced anyway writes it again. A node without an answer is reported as such.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::access::Access;
use super::code::{Code, Failure};
use super::feeds::Feeds;
use super::kv::Replaced;
use crate::document::{AnswerState, Entries, NodeReply};
use crate::protocol::ids::{ModifyIndex, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Ask, Author, FORMAT, Question, Reply, decode, encode};

/// The default time limit for answers. A node usually answers within a second; finding out that its store is unreachable
/// takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// How long a question is protected from being replaced: as long as its caller waits by default.
const PROTECTED_FOR: SignedDuration = SignedDuration::from_secs(10);

/// Waits for its turn for up to `limit`, writes the question, and waits for up to another `limit` until every live node
/// that it concerns has answered. Returns one row for each registered node that it concerns, by name.
///
/// # Errors
///
/// [`Code::NotFound`] for an unknown unit or node; [`Code::Busy`] if its turn did not come in time;
/// [`Code::NotAllowed`] without the right to write `question`.
///
/// # Cancel safety
///
/// Not safe: nodes may still answer the question. Only [`Ask::Repair`] changes anything.
pub(crate) async fn ask(
    access: &Access,
    unit: &Unit,
    ask: Ask,
    author: &Author,
    limit: Duration,
) -> Result<Vec<NodeReply>, Failure> {
    let keys = access.keys.unit(unit);
    let mut question = Question {
        format: FORMAT,
        id: uuid::Uuid::now_v7().to_string(),
        ask,
        by: author.by.clone(),
        via: author.via.clone(),
        at: Timestamp::now(),
    };
    let nodes = registered(access, unit, &keys, &question).await?;
    let asked: Vec<(Node, AnswerState)> = nodes.iter().filter(|(node, _)| question.is_for(node)).cloned().collect();
    let live: Vec<&Node> =
        asked.iter().filter(|(_, heard)| *heard != AnswerState::Away).map(|(node, _)| node).collect();
    let turn_until = Instant::now() + limit;
    let mut replies = Replies::new();
    loop {
        write_question(access, unit, &keys, &mut question, &nodes, turn_until).await?;
        let Some(other) = collect_replies(access, &keys, &question, &live, limit, &mut replies).await? else { break };
        if Instant::now() >= turn_until {
            let what = format!("the question was replaced by one of {} before every node had answered", other.by);
            return Err(Failure::new(Code::Busy, what).hint("run the command again"));
        }
    }
    let row = |(node, heard): &(Node, AnswerState)| match replies.remove(node) {
        Some(reply) => NodeReply::answered(node.clone(), reply),
        None => NodeReply::without_answer(node.clone(), *heard),
    };
    Ok(asked.iter().map(row).collect())
}

/// The registered nodes, each with its state as long as it has not answered.
async fn registered(
    access: &Access,
    unit: &Unit,
    keys: &UnitKeys,
    question: &Question,
) -> Result<Vec<(Node, AnswerState)>, Failure> {
    let prefix = keys.nodes();
    let entries = access.kv.entries(&prefix).await?;
    if entries.is_empty() {
        return Err(access.unknown(unit).await);
    }
    let nodes: Vec<(Node, AnswerState)> = entries
        .iter()
        .filter_map(|(key, entry)| {
            let node: Node = key.strip_prefix(&prefix)?.parse().ok()?;
            Some((node, if entry.session.is_some() { AnswerState::NoAnswer } else { AnswerState::Away }))
        })
        .collect();
    match &question.ask {
        Ask::Repair { node } if !nodes.iter().any(|(registered, _)| registered == node) => {
            let failure = Failure::new(Code::NotFound, format!("{unit} has no node {node}"));
            Err(failure.hint(format!("see: cutover status {unit}")))
        }
        _ => Ok(nodes),
    }
}

/// Writes the question with the current time, as soon as no other recent question waits for answers.
async fn write_question(
    access: &Access,
    unit: &Unit,
    keys: &UnitKeys,
    question: &mut Question,
    nodes: &[(Node, AnswerState)],
    until: Instant,
) -> Result<(), Failure> {
    let key = keys.question();
    let mut changes = None;
    loop {
        let standing = access.kv.entry(&key).await?;
        let index = standing.as_ref().map_or(ModifyIndex(0), |entry| entry.modify_index);
        question.at = Timestamp::now();
        // An unreadable question has no caller to protect.
        let other = standing.and_then(|entry| decode::<Question>(&key, &entry.value).ok());
        let recent = other.and_then(|other| {
            let left = PROTECTED_FOR - question.at.duration_since(other.at).abs();
            left.is_positive().then_some((other, left.unsigned_abs()))
        });
        let (other, left) = match recent {
            Some((other, left)) if !is_answered(access, keys, &other, nodes).await? => (other, left),
            _ => match access.kv.replace(&key, &encode(question), index).await? {
                Replaced::At(_) => return Ok(()),
                // Another question was written first, and is recent.
                Replaced::Lost => continue,
            },
        };
        let now = Instant::now();
        if now >= until {
            let what = format!("{} is querying the nodes of {unit} at the moment, through {}", other.by, other.via);
            return Err(Failure::new(Code::Busy, what).hint("try again in some seconds"));
        }
        // Each feed reports the current state first, so that no change between the read and the wait is missed.
        let changes = changes.get_or_insert_with(|| Feeds::open(access, [key.clone(), keys.replies()]));
        if let Ok(change) = timeout_at(until.min(now + left), changes.next()).await {
            change?;
        }
    }
}

/// Collects answers until all of `live` have answered or `limit` is over. Returns the other question if this one was
/// replaced. Answers are kept in `replies`, because a node overwrites its answer when it answers another question.
async fn collect_replies(
    access: &Access,
    keys: &UnitKeys,
    question: &Question,
    live: &[&Node],
    limit: Duration,
    replies: &mut Replies,
) -> Result<Option<Question>, Failure> {
    let deadline = Instant::now() + limit;
    let mut feeds = Feeds::open(access, [keys.replies(), keys.question()]);
    while !live.iter().all(|node| replies.contains_key(*node)) {
        let Ok(change) = timeout_at(deadline, feeds.next()).await else { break };
        let change = change?;
        if change.watched == keys.replies() {
            replies.extend(replies_to(keys, &change.entries, &question.id));
        } else if let Some(other) = replaced_by(keys, &change.entries, question) {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// Whether every live node that `question` concerns has answered it.
async fn is_answered(
    access: &Access,
    keys: &UnitKeys,
    question: &Question,
    nodes: &[(Node, AnswerState)],
) -> Result<bool, Failure> {
    let replies = replies_to(keys, &access.kv.entries(&keys.replies()).await?, &question.id);
    let waited_for = |(node, heard): &&(Node, AnswerState)| *heard != AnswerState::Away && question.is_for(node);
    Ok(nodes.iter().filter(waited_for).all(|(node, _)| replies.contains_key(node)))
}

type Replies = BTreeMap<Node, Reply>;

fn replies_to(keys: &UnitKeys, entries: &Entries, id: &str) -> Replies {
    let prefix = keys.replies();
    let read = |(key, entry): (&String, &crate::document::Entry)| {
        let node = key.strip_prefix(&prefix)?.parse().ok()?;
        let reply: Reply = decode(key, &entry.value).ok()?;
        (reply.id == id).then_some((node, reply))
    };
    entries.iter().filter_map(read).collect()
}

/// The question that is in the key now, if it is another one.
fn replaced_by(keys: &UnitKeys, entries: &Entries, question: &Question) -> Option<Question> {
    let key = keys.question();
    let standing: Question = decode(&key, &entries.get(&key)?.value).ok()?;
    (standing.id != question.id).then_some(standing)
}
