//! Asking the nodes of a unit what only they know: a question in `question`, an answer of each in `answers/<node>`.
//!
//! One question stands at a time. A new one does not replace a young question without all answers, whoever asked it:
//! names are claims, and all of CI may use the same one. Who comes second waits for its turn; whose question was replaced all the
//! same asks again. Nothing is guessed for a node that does not answer.

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

/// How long nodes are waited for unless the caller says otherwise. A node answers within a second; its store may take
/// some more to say that it cannot be reached.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// How long another's question stands before it may be replaced: as long as its asker waits.
const YOUNG: SignedDuration = SignedDuration::from_secs(10);

/// Waits for its turn for up to `limit`, asks, and waits until every live node that is asked has answered, or `limit` is
/// over once more. One row per registered node that is asked, by name.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit, or a node, that is not known; [`Code::Busy`] where its turn did not come;
/// [`Code::NotAllowed`] without the right to write `question`.
///
/// # Cancel safety
///
/// Not safe: the question may have been written, and will be answered then. It changes nothing, but for
/// [`Ask::Repair`].
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
        put(access, unit, &keys, &mut question, &nodes, turn_until).await?;
        let Some(other) = hear(access, &keys, &question, &live, limit, &mut replies).await? else { break };
        if Instant::now() >= turn_until {
            let what = format!("the question was replaced by another of {}'s before every node had answered", other.by);
            return Err(Failure::new(Code::Busy, what).hint("ask again"));
        }
    }
    let row = |(node, heard): &(Node, AnswerState)| match replies.remove(node) {
        Some(reply) => NodeReply::answered(node.clone(), reply),
        None => NodeReply::without_answer(node.clone(), *heard),
    };
    Ok(asked.iter().map(row).collect())
}

/// The registered nodes; each as it stands while it has not answered.
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

/// Writes the question as soon as no young one waits for answers, with the time when it was written.
async fn put(
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
        // What cannot be read is nobody's question.
        let other = standing.and_then(|entry| decode::<Question>(&key, &entry.value).ok());
        let young = other.and_then(|other| {
            let left = YOUNG - question.at.duration_since(other.at).abs();
            left.is_positive().then_some((other, left.unsigned_abs()))
        });
        let (other, left) = match young {
            Some((other, left)) if !is_answered(access, keys, &other, nodes).await? => (other, left),
            _ => match access.kv.replace(&key, &encode(question), index).await? {
                Replaced::At(_) => return Ok(()),
                // Another came first; theirs is young.
                Replaced::Lost => continue,
            },
        };
        let now = Instant::now();
        if now >= until {
            let what = format!("{} asks the nodes of {unit} something just now, through {}", other.by, other.via);
            return Err(Failure::new(Code::Busy, what).hint("ask again in some seconds"));
        }
        // Each reports once at first, so that nothing falls between the read and the wait.
        let changes = changes.get_or_insert_with(|| Feeds::open(access, [key.clone(), keys.replies()]));
        if let Ok(change) = timeout_at(until.min(now + left), changes.next()).await {
            change?;
        }
    }
}

/// Takes the answers as they come, until all of `live` have answered or `limit` is over; the other question, where one
/// replaced this. What was heard is kept: a node that answers another question writes over its answer to this one.
async fn hear(
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

/// Whether every live node that `question` is for has answered it.
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

/// What each node that has answered says.
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

/// The other question that stands in the key now.
fn replaced_by(keys: &UnitKeys, entries: &Entries, question: &Question) -> Option<Question> {
    let key = keys.question();
    let standing: Question = decode(&key, &entries.get(&key)?.value).ok()?;
    (standing.id != question.id).then_some(standing)
}
