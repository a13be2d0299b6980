//! `recover`: rebuilds a unit's keys from what its nodes run, after the keys were lost, restored or overwritten.
//!
//! 1. [`Survey::read`] reads all keys of the unit at one moment, and the live agents from Consul's catalog.
//! 2. [`Survey::plan`] returns what a recovery would write, or why it writes nothing.
//! 3. [`Survey::write`] starts a new era, above every known era, in one transaction. The transaction applies only if the
//!    keys are unchanged since they were read.
//! 4. [`Survey::follow`] watches the live nodes until they follow the new era.
//!
//! A recovery writes nothing if the keys are intact, or while a coordinator drives a deploy.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::access::Access;
use super::code::{Code, Failure};
use super::feeds::Feeds;
use crate::consul::{CheckStatus, Consistency, Instance, TxnOp, TxnResult};
use crate::document::{
    AgentState, Entries, RecoverDocument, RecoverNode, Recovery, newest_era, recover_nodes, remains, silent,
};
use crate::protocol::ids::{ModifyIndex, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Author, Barrier, Release, Status, decode, encode};
use crate::protocol::recovery::{Damage, NewEra, Proposal, Remains};
use crate::protocol::transition::status;

/// How long to wait for live agents that have not reported what they run. Agents check their key every 10 s, and replace a
/// lost session within 3 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often Consul's catalog is read during that time.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How many old member lists the transaction removes at most. Normally there is one, after a crash two.
const OLD_LISTS: usize = 8;

/// The output of an agent's check after a clean stop.
pub(crate) const AGENT_STOPPED: &str = "the agent was stopped";
/// The output that Consul sets when a check was not updated in time.
const TTL_EXPIRED: &str = "TTL expired";

/// Whether Consul's catalog shows the agent behind an instance of the service `cutover` as alive. The check of a live
/// agent is also critical while its node does not run the current release, so the check's output decides.
#[must_use]
pub(crate) fn is_agent_alive(instance: &Instance) -> bool {
    let is_over = |output: &str| output == AGENT_STOPPED || output.starts_with(TTL_EXPIRED);
    instance.checks.iter().all(|check| match check.id.as_str() {
        "serfHealth" => check.status == CheckStatus::Passing,
        id if id.starts_with("service:cutover-") => check.status != CheckStatus::Critical || !is_over(&check.output),
        _ => true,
    })
}

/// The decision about a recovery.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Write this record, once the operator agrees to the document.
    Begin {
        /// The idle record of the new era.
        barrier: Box<Barrier>,
        /// What would be written.
        document: RecoverDocument,
    },
    /// Write nothing; the document says why.
    End { document: RecoverDocument, code: Code },
}

/// All that a recovery is based on, read at one moment.
#[derive(Debug)]
pub(crate) struct Survey {
    unit: Unit,
    keys: UnitKeys,
    entries: Entries,
    remains: Remains,
    damage: Vec<Damage>,
    /// The nodes, by their name in Consul, whose agent for this unit is alive.
    living: BTreeSet<String>,
}

impl Survey {
    /// Reads a unit. Waits at most until `deadline` for live agents that have not reported what they run.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] for a unit that has neither keys nor agents; [`Code::Failed`] where a newer program wrote one of
    /// its records; as any read of Consul.
    pub(crate) async fn read(access: &Access, unit: &Unit, deadline: Instant) -> Result<Self, Failure> {
        let until = deadline.min(Instant::now() + PATIENCE);
        let mut named = BTreeSet::new();
        loop {
            let survey = Self::read_once(access, unit).await?;
            if survey.entries.is_empty() && survey.living.is_empty() {
                return Err(access.unknown(unit).await);
            }
            let silent = survey.silent();
            // If the keys are intact there is nothing to recover, so silent agents do not matter.
            let is_intact = survey.remains.barrier.is_some() && survey.damage.is_empty();
            if silent.is_empty() || is_intact || Instant::now() >= until {
                return Ok(survey);
            }
            for name in silent {
                if named.insert(name.clone()) {
                    (access.print_line)(&format!("{unit}  waiting for {name} to report what it runs"));
                }
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    async fn read_once(access: &Access, unit: &Unit) -> Result<Self, Failure> {
        let keys = access.keys.unit(unit);
        let entries = access.kv.entries(keys.prefix()).await?;
        let instances = access.kv.client().service_instances("cutover", &unit.to_string()).await?;
        let living = instances.into_iter().filter(is_agent_alive).map(|instance| instance.node).collect();
        let remains = remains(&keys, &entries);
        Ok(Self { unit: unit.clone(), damage: remains.damage(), keys, entries, remains, living })
    }

    fn silent(&self) -> Vec<&String> {
        silent(&self.remains, &self.living)
    }

    fn document(&self) -> RecoverDocument {
        RecoverDocument {
            unit: self.unit.clone(),
            fate: Recovery::Nothing,
            headline: String::new(),
            code: 0,
            troubles: self.damage.iter().map(ToString::to_string).collect(),
            epoch: None,
            committed: None,
            choices: Vec::new(),
            nodes: recover_nodes(&self.remains, &self.silent(), None),
        }
    }

    /// Returns what a recovery would write. `to` names a release or artifact that a node runs, for nodes that run different
    /// releases.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] for a `to` that no node runs; [`Code::Failed`] where no era is left above the known ones.
    pub(crate) fn plan(&self, to: Option<&str>) -> Result<Plan, Failure> {
        let committed = match self.decide(to)? {
            Decision::Begin { committed } => committed,
            Decision::End { fate, code, headline } => {
                let mut document = RecoverDocument { fate, code: code as u8, headline, ..self.document() };
                if fate == Recovery::Refused {
                    document.choices = self.remains.choices().into_iter().map(Into::into).collect();
                }
                return Ok(Plan::End { document, code });
            }
        };
        let era = newest_era(&self.keys, &self.entries).checked_add(1).ok_or_else(|| {
            Failure::new(Code::Failed, "the keys name the highest possible era, so no new era can be started")
                .hint("a key contains the \"era\" 4294967295, which Cutover never writes; delete that key")
        })?;
        let barrier = Barrier::idle(era, committed);
        let begun = Some((era, barrier.committed.as_ref()));
        let document = RecoverDocument {
            fate: Recovery::Planned,
            epoch: Some(barrier.epoch),
            committed: barrier.committed.clone(),
            nodes: recover_nodes(&self.remains, &self.silent(), begun),
            ..self.document()
        };
        Ok(Plan::Begin { barrier: Box::new(barrier), document })
    }

    fn decide(&self, to: Option<&str>) -> Result<Decision, Failure> {
        let unit = &self.unit;
        let end = |fate, code, headline| Ok(Decision::End { fate, code, headline });
        let begin = |committed| Ok(Decision::Begin { committed });
        let refused = |why: &str| end(Recovery::Refused, Code::Refused, format!("nothing was changed: {why}"));
        if self.damage.is_empty() {
            let state = match &self.remains.barrier {
                Some(Ok(barrier)) => format!("the keys are intact at deploy #{}", barrier.epoch),
                Some(Err(_)) | None => "no deploy has run yet; the first coordinator creates the keys".to_owned(),
            };
            return end(Recovery::Nothing, Code::Done, format!("nothing to recover on {unit}: {state}"));
        }
        if self.remains.is_driven() {
            let headline = format!("{unit} is busy: a deploy is running; stop it with `cutover abort {unit}`");
            return end(Recovery::Busy, Code::Busy, headline);
        }
        if self.remains.live().next().is_none() {
            return refused("no agent of this group is alive; start the agents first");
        }
        if let Some(word) = to {
            return match self.remains.named(word).as_slice() {
                [one] => begin(Some(one.release.clone())),
                [] => {
                    let choices = self.remains.choices();
                    let names: Vec<String> = choices.iter().map(|choice| choice.release.release.to_string()).collect();
                    let what = format!("no node of {unit} runs {word}");
                    let hint = format!("--to takes a release that a node runs: {}", names.join(", "));
                    Err(Failure::new(Code::NotFound, what).hint(hint))
                }
                [_, _, ..] => refused(&format!("several releases contain {word}: give the name of the release")),
            };
        }
        let silent: Vec<&str> = self.silent().into_iter().map(String::as_str).collect();
        if !silent.is_empty() {
            let names = silent.join(", ");
            return refused(&format!(
                "the agents on {names} are alive but have not reported what they run; check their logs, or set --to to \
                 the release that every node is to run"
            ));
        }
        match self.remains.proposal() {
            Proposal::Nothing => begin(None),
            Proposal::Release(release) => begin(Some(*release)),
            Proposal::Unclear => {
                refused("the nodes run different releases: set --to to the release that every node is to run")
            }
        }
    }

    /// Writes the new era in one transaction: all of it, or nothing.
    ///
    /// # Errors
    ///
    /// [`Code::Busy`] if the keys changed since they were read; as any write to Consul.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may have happened, or happen yet.
    pub(crate) async fn write(&self, access: &Access, barrier: &Barrier, author: &Author) -> Result<(), Failure> {
        let ops = self.operations(barrier, author)?;
        match access.kv.client().txn(&ops, Consistency::Default).await {
            Ok(TxnResult::Applied(_)) => Ok(()),
            Ok(TxnResult::Refused(_)) => {
                let what = format!("the keys of {} changed since they were read; nothing was written", self.unit);
                Err(Failure::new(Code::Busy, what).hint("run the command again; it reads the keys again"))
            }
            Err(error) if error.outcome_unknown() => {
                let entry = access.kv.entry(&self.keys.barrier()).await?;
                if entry.is_some_and(|entry| entry.value == encode(barrier).as_bytes()) {
                    return Ok(());
                }
                Err(Failure::from(error)
                    .hint("run the command again; it shows whether there is still something to recover"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn operations(&self, barrier: &Barrier, author: &Author) -> Result<Vec<TxnOp>, Failure> {
        let (keys, entries) = (&self.keys, &self.entries);
        let index = |key: &str| entries.get(key).map_or(ModifyIndex(0), |entry| entry.modify_index);
        let cas = |key: String, value: String| TxnOp::Cas { index: index(&key), key, value: value.into_bytes() };
        let mut ops = vec![cas(keys.barrier(), encode(barrier))];
        // Drop a waiting request: it was made for the state before the loss.
        if entries.get(&keys.deploy()).is_none_or(|entry| !entry.value.is_empty()) {
            ops.push(cas(keys.deploy(), String::new()));
        }
        let missing = [keys.abort(), keys.freeze()].into_iter().filter(|key| !entries.contains_key(key));
        ops.extend(missing.map(|key| cas(key, String::new())));
        let new_era = NewEra { unit: &self.unit, barrier, author, damage: &self.damage, at: Timestamp::now() };
        let history =
            new_era.history().ok_or_else(|| Failure::new(Code::Failed, "the history record cannot be built"))?;
        let before = entries.get(&keys.status());
        let before = before.and_then(|entry| decode::<Status>(&keys.status(), &entry.value).ok());
        let status = status(&self.unit, barrier, Some(&history), before.as_ref());
        ops.push(TxnOp::Set { key: keys.status(), value: encode(&status).into_bytes() });
        ops.push(cas(keys.history(barrier.epoch), encode(&history)));
        let lists = entries.keys().filter(|key| key.starts_with(&keys.all_members())).take(OLD_LISTS);
        ops.extend(lists.map(|key| TxnOp::Delete { key: key.clone() }));
        Ok(ops)
    }

    /// Watches the live nodes until each follows the new era; calls `followed` for each once.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    pub(crate) async fn follow(
        &self,
        access: &Access,
        mut document: RecoverDocument,
        deadline: Instant,
        mut followed: impl FnMut(&RecoverDocument, &RecoverNode),
    ) -> Result<(RecoverDocument, Code), Failure> {
        let unit = &self.unit;
        let mut feeds = Feeds::open(access, [self.keys.nodes()]);
        let mut printed = BTreeSet::new();
        loop {
            let Ok(change) = timeout_at(deadline, feeds.next()).await else {
                let behind = document.nodes.iter().filter(|node| node.state != AgentState::Absent && !node.follows);
                let behind = behind.map(|node| node.node.as_str()).collect::<Vec<_>>().join(", ");
                let headline =
                    format!("written, but {behind} did not follow in time; `cutover status {unit}` shows when they do");
                let (fate, code) = (Recovery::Unfinished, Code::Unknown);
                return Ok((RecoverDocument { fate, headline, code: code as u8, ..document }, code));
            };
            let seen = remains(&self.keys, &change?.entries);
            let begun = document.epoch.map(|epoch| (epoch.era, document.committed.as_ref()));
            document.nodes = recover_nodes(&seen, &silent(&seen, &self.living), begun);
            for node in document.nodes.iter().filter(|node| node.follows && node.state == AgentState::Alive) {
                if printed.insert(node.node.clone()) {
                    followed(&document, node);
                }
            }
            if document.nodes.iter().all(|node| node.follows || node.state == AgentState::Absent) {
                let away = document.nodes.iter().filter(|node| node.state == AgentState::Absent);
                let away: Vec<&str> = away.map(|node| node.node.as_str()).collect();
                let later = if away.is_empty() {
                    String::new()
                } else {
                    format!("; absent nodes follow when they return: {}", away.join(", "))
                };
                let epoch = document.epoch.unwrap_or_default();
                let headline =
                    format!("recovered: {unit} continues at deploy #{epoch}, every live node follows{later}");
                return Ok((RecoverDocument { fate: Recovery::Done, headline, ..document }, Code::Done));
            }
        }
    }
}

/// Whether and how to recover.
enum Decision {
    /// Start a new era with this release; none: with no release.
    Begin { committed: Option<Release> },
    /// Write nothing, for the reason in the headline.
    End { fate: Recovery, code: Code, headline: String },
}
