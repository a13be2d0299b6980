//! Forgets a node that will not come back: deploys no longer wait for it, and are no longer refused because of it.

use jiff::Timestamp;

use super::access::Access;
use super::code::{Code, Failure};
use super::operate::written;
use crate::consul::{Consistency, TxnOp, TxnResult};
use crate::protocol::ids::{Node, Unit};
use crate::protocol::record::{Author, Forgotten, decode};

/// Units in one transaction: each takes three operations, and Consul accepts 64. Only nodes with more units need several
/// transactions.
const UNITS_AT_ONCE: usize = 20;

/// Forgets `node` in `unit`, or in every unit that has it; returns the units. One transaction deletes its presence and its
/// answer, and writes a mark. It applies only while no session holds the presence.
///
/// # Errors
///
/// [`Code::NotFound`] if no unit has the node; [`Code::Refused`] if it is alive; [`Code::Busy`] if it came back at the same
/// moment; as any read of Consul.
///
/// # Cancel safety
///
/// Not safe: a cancelled write may have happened, or may still happen.
pub(crate) async fn forget(
    access: &Access,
    node: &Node,
    unit: Option<&Unit>,
    author: &Author,
    now: Timestamp,
) -> Result<Vec<Unit>, Failure> {
    let units = match unit {
        Some(unit) => vec![unit.clone()],
        None => access.units().await?,
    };
    let mut found = Vec::new();
    let mut ops = Vec::new();
    for unit in units {
        if let Some(of_unit) = operations(access, &unit, node, author, now).await? {
            found.push(unit);
            ops.push(of_unit);
        }
    }
    if found.is_empty() {
        let place = unit.map_or_else(|| "any group".to_owned(), ToString::to_string);
        return Err(Failure::new(Code::NotFound, format!("{place} has no node {node}"))
            .hint("`cutover status` lists the nodes; it may be forgotten already"));
    }
    for ops in ops.chunks(UNITS_AT_ONCE) {
        let ops: Vec<TxnOp> = ops.iter().flatten().cloned().collect();
        match access.kv.client().txn(&ops, Consistency::Default).await? {
            TxnResult::Applied(_) => {}
            TxnResult::Refused(_) => {
                let failure = Failure::new(Code::Busy, format!("{node} wrote its record at the same moment"));
                return Err(
                    failure.hint("it may be alive: check `cutover status`, and run the command again if it is not")
                );
            }
        }
    }
    Ok(found)
}

/// The operations that forget the node in one unit; none if the unit does not have the node.
async fn operations(
    access: &Access,
    unit: &Unit,
    node: &Node,
    author: &Author,
    now: Timestamp,
) -> Result<Option<[TxnOp; 3]>, Failure> {
    let keys = access.keys.unit(unit);
    let entries = access.kv.at_one_moment(&[keys.node(node), keys.ack(node), keys.all_members()]).await?;
    let presence = entries.get(&keys.node(node));
    if presence.is_some_and(|entry| entry.session.is_some()) {
        let failure = Failure::new(Code::Refused, format!("{node} is alive in {unit} and cannot be forgotten"));
        return Err(failure.hint("stop its agent first, and make sure that it does not start again"));
    }
    // A member whose record was deleted by hand must be forgotten too, because it makes every deploy be refused.
    let is_member = entries
        .iter()
        .filter(|(key, _)| key.starts_with(&keys.all_members()))
        .any(|(key, entry)| decode::<Vec<Node>>(key, &entry.value).is_ok_and(|members| members.contains(node)));
    if presence.is_none() && !entries.contains_key(&keys.ack(node)) && !is_member {
        return Ok(None);
    }
    let mark = Forgotten { author: author.clone(), at: Some(now) };
    Ok(Some([
        match presence {
            // A node that comes back takes its key as a lock, which changes the index: then nothing is forgotten.
            Some(entry) => TxnOp::DeleteCas { key: keys.node(node), index: entry.modify_index },
            None => TxnOp::CheckNotExists { key: keys.node(node) },
        },
        TxnOp::Delete { key: keys.ack(node) },
        TxnOp::Set { key: keys.forgotten(node), value: written(author, &mark)?.into_bytes() },
    ]))
}
