//! `cutover recover`: the keys were lost, restored or overwritten, and an operator begins again with what the nodes run.
//!
//! 1. Everything under the unit is read at one moment, with the agents that live by Consul's catalog. Those that have not
//!    said what they run are waited for.
//! 2. What is wrong, what each node runs, and what would be written is shown.
//! 3. After a yes, one transaction writes the idle record of an era above every known one. It applies only if `barrier`
//!    is as it was read.
//! 4. The live nodes are watched until they follow.
//!
//! It never writes where nothing is wrong, nor while somebody drives a deploy that runs.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::agent::is_agent_alive;
use crate::cli::args::Recover;
use crate::cli::context::Context;
use crate::cli::origin;
use crate::cli::output::{self, Format};
use crate::cli::view;
use crate::consul::{Consistency, TxnOp, TxnResult};
use crate::control::feeds::Feeds;
use crate::control::{Code, Failure};
use crate::document::{Entries, RecoverDocument, Recovery, Standing, newest_era, recover_nodes, remains, silent};
use crate::protocol::ids::{ModifyIndex, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Barrier, Release, Status, decode, encode, is_newer};
use crate::protocol::recovery::{Proposal, Remains, Trouble, history};
use crate::protocol::transition::status;

/// How long agents that live are waited for until they have said what they run. They look every 10 s, and a lost session
/// is replaced within 3.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often Consul's catalog is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most old lists of members that are removed in the transaction; there is one, or after a crash two.
const OLD_LISTS: usize = 8;

/// What is to become of it.
enum Verdict {
    /// It begins again with this; none: with nothing.
    Begin { committed: Option<Release> },
    /// Nothing is written, for this reason.
    End { fate: Recovery, code: Code, headline: String },
}

/// Everything that a recovery rests on, read at one moment.
struct Scene {
    keys: UnitKeys,
    entries: Entries,
    remains: Remains,
    troubles: Vec<Trouble>,
    /// The nodes, as Consul names them, whose agent of this unit lives.
    living: BTreeSet<String>,
}

/// Shows what is wrong, and begins again from what the nodes run.
///
/// # Errors
///
/// Exit code 3 for a unit that has neither keys nor agents, or a `--to` that no node runs; 6 where the keys were written
/// meanwhile; 1 where they are of a newer Cutover.
pub async fn run(context: &Context, args: &Recover) -> Result<Code, Failure> {
    let deadline = Instant::now() + args.timeout;
    let scene = Scene::read_all(context, &args.unit, deadline).await?;
    if let Some(Err(problem)) = scene.remains.barrier.as_ref().filter(|read| read.as_ref().is_err_and(|e| is_newer(e)))
    {
        let error = Failure::new(Code::Failed, format!("nothing is recovered: {problem}"));
        return Err(error.hint("a newer Cutover wrote it; run `cutover recover` from that version if it is needed"));
    }
    let mut document = scene.document(&args.unit);
    let committed = match scene.decide(args)? {
        Verdict::Begin { committed } => committed,
        Verdict::End { fate, code, headline } => {
            document = RecoverDocument { fate, code: code as u8, headline, ..document };
            if fate == Recovery::Refused {
                document.choices = scene.remains.choices().into_iter().map(Into::into).collect();
            }
            print(context, &document)?;
            return Ok(code);
        }
    };
    let era = newest_era(&scene.keys, &scene.entries).checked_add(1).ok_or_else(|| {
        Failure::new(Code::Failed, "no era is left above those that the keys mention")
            .hint("some key holds an \"era\" of 4294967295, which Cutover has not written; delete that key")
    })?;
    let barrier = Barrier::idle(era, committed);
    document = scene.planned(document, &barrier);
    if let Some(code) = confirmed(context, args, &document)? {
        return Ok(code);
    }
    scene.write(context, args, &barrier).await?;
    let (document, code) = follow(context, &scene, document, &barrier, deadline).await?;
    print(context, &document)?;
    Ok(code)
}

fn print(context: &Context, document: &RecoverDocument) -> Result<(), Failure> {
    Ok(output::result(&match context.format {
        Format::Text => view::recover(document),
        Format::Json => output::json(document)?,
    })?)
}

impl Scene {
    async fn read(context: &Context, unit: &Unit) -> Result<Self, Failure> {
        let keys = context.access.keys.unit(unit);
        let client = context.access.kv.client();
        let entries = context.access.kv.entries(keys.prefix()).await?;
        let instances = client.service_instances("cutover", &unit.to_string()).await?;
        let living = instances.into_iter().filter(is_agent_alive).map(|instance| instance.node).collect();
        let remains = remains(&keys, &entries);
        Ok(Self { troubles: remains.troubles(), keys, entries, remains, living })
    }

    /// Reads, and waits for agents that live and have not said what they run.
    async fn read_all(context: &Context, unit: &Unit, deadline: Instant) -> Result<Self, Failure> {
        let until = deadline.min(Instant::now() + PATIENCE);
        let mut told = BTreeSet::new();
        loop {
            let scene = Self::read(context, unit).await?;
            if scene.entries.is_empty() && scene.living.is_empty() {
                return Err(context.access.unknown(unit).await);
            }
            let silent = scene.silent();
            // With a record that stands and that nobody denies, whoever is silent is no matter of the keys.
            let is_well = scene.remains.barrier.is_some() && scene.troubles.is_empty();
            if silent.is_empty() || is_well || Instant::now() >= until {
                return Ok(scene);
            }
            for name in silent {
                if told.insert(name.clone()) {
                    output::say(&output::clean(&format!("{unit}  waiting for {name} to say what it runs")));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn silent(&self) -> Vec<&String> {
        silent(&self.remains, &self.living)
    }

    fn document(&self, unit: &Unit) -> RecoverDocument {
        RecoverDocument {
            unit: unit.clone(),
            fate: Recovery::Nothing,
            headline: String::new(),
            code: 0,
            troubles: self.troubles.iter().map(ToString::to_string).collect(),
            epoch: None,
            committed: None,
            choices: Vec::new(),
            nodes: recover_nodes(&self.remains, &self.silent(), None),
        }
    }

    fn planned(&self, document: RecoverDocument, barrier: &Barrier) -> RecoverDocument {
        let begun = Some((barrier.epoch.era, barrier.committed.as_ref()));
        RecoverDocument {
            fate: Recovery::Planned,
            epoch: Some(barrier.epoch),
            committed: barrier.committed.clone(),
            nodes: recover_nodes(&self.remains, &self.silent(), begun),
            ..document
        }
    }

    /// What is to be committed; or why nothing is written.
    fn decide(&self, args: &Recover) -> Result<Verdict, Failure> {
        let unit = &args.unit;
        let end = |fate, code, headline| Ok(Verdict::End { fate, code, headline });
        let begin = |committed| Ok(Verdict::Begin { committed });
        let refused = |why: &str| end(Recovery::Refused, Code::Refused, format!("nothing was changed: {why}"));
        if self.troubles.is_empty() {
            let stands = match &self.remains.barrier {
                Some(Ok(barrier)) => format!("barrier stands at epoch {}, and nobody denies it", barrier.epoch),
                Some(Err(_)) | None => {
                    "nobody has followed a record yet; the first coordinator makes the keys".to_owned()
                }
            };
            return end(Recovery::Nothing, Code::Done, format!("nothing to recover on {unit}: {stands}"));
        }
        if self.remains.is_driven() {
            let headline = format!("{unit} is busy: a deploy runs and is coordinated; `cutover abort {unit}` ends it");
            return end(Recovery::Busy, Code::Busy, headline);
        }
        if self.remains.live().next().is_none() {
            return refused("no agent of this group is alive to say what it runs: start them first");
        }
        if let Some(word) = &args.to {
            return match self.remains.named(word).as_slice() {
                [one] => begin(Some(one.release.clone())),
                [] => {
                    let choices = self.remains.choices();
                    let names: Vec<String> = choices.iter().map(|choice| choice.release.release.to_string()).collect();
                    let what = format!("no node of {unit} runs {word}");
                    let hint = format!("--to takes what a node runs: {}", names.join(", "));
                    Err(Failure::new(Code::NotFound, what).hint(hint))
                }
                [_, _, ..] => refused(&format!("{word} is in several releases: name the release")),
            };
        }
        let silent: Vec<&str> = self.silent().into_iter().map(String::as_str).collect();
        if !silent.is_empty() {
            let names = silent.join(", ");
            return refused(&format!(
                "the agents on {names} are alive, and have not said what they run; see their logs, or say with --to \
                 what every node is to run"
            ));
        }
        match self.remains.proposal() {
            Proposal::Nothing => begin(None),
            Proposal::Release(release) => begin(Some(*release)),
            Proposal::Unclear => refused("the nodes do not run the same: say with --to what every node is to run"),
        }
    }

    /// Writes the new era: all of it, or nothing.
    async fn write(&self, context: &Context, args: &Recover, barrier: &Barrier) -> Result<(), Failure> {
        let ops = self.writes(args, barrier)?;
        let key = self.keys.barrier();
        match context.access.kv.client().txn(&ops, Consistency::Default).await {
            Ok(TxnResult::Applied(_)) => Ok(()),
            Ok(TxnResult::Refused(_)) => {
                let what = format!("the keys of {} were written since they were read; nothing was changed", args.unit);
                Err(Failure::new(Code::Busy, what).hint("run it again: it reads them anew"))
            }
            Err(error) if error.outcome_unknown() => {
                let entry = context.access.kv.entry(&key).await?;
                if entry.is_some_and(|entry| entry.value == encode(barrier).as_bytes()) {
                    return Ok(());
                }
                Err(Failure::from(error).hint("run it again: it tells whether there is still something to recover"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn writes(&self, args: &Recover, barrier: &Barrier) -> Result<Vec<TxnOp>, Failure> {
        let (keys, entries) = (&self.keys, &self.entries);
        let index = |key: &str| entries.get(key).map_or(ModifyIndex(0), |entry| entry.modify_index);
        let cas = |key: String, value: String| TxnOp::Cas { index: index(&key), key, value: value.into_bytes() };
        let mut ops = vec![cas(keys.barrier(), encode(barrier))];
        // Made where it is missing; and whatever was asked for before is not what is wanted now.
        if entries.get(&keys.deploy()).is_none_or(|entry| !entry.value.is_empty()) {
            ops.push(cas(keys.deploy(), String::new()));
        }
        let missing = [keys.abort(), keys.freeze()].into_iter().filter(|key| !entries.contains_key(key));
        ops.extend(missing.map(|key| cas(key, String::new())));
        let by = origin::user(|name| std::env::var(name).ok());
        let why = (by.as_str(), args.reason.as_str());
        let history = history(&args.unit, barrier, why, &self.troubles, Timestamp::now())
            .ok_or_else(|| Failure::new(Code::Failed, "the history record cannot be made"))?;
        let before = entries.get(&keys.status());
        let before = before.and_then(|entry| decode::<Status>(&keys.status(), &entry.value).ok());
        let status = status(&args.unit, barrier, Some(&history), before.as_ref());
        ops.push(TxnOp::Set { key: keys.status(), value: encode(&status).into_bytes() });
        ops.push(cas(keys.history(barrier.epoch), encode(&history)));
        let lists = entries.keys().filter(|key| key.starts_with(&keys.all_members())).take(OLD_LISTS);
        ops.extend(lists.map(|key| TxnOp::Delete { key: key.clone() }));
        Ok(ops)
    }
}

/// Asks on a terminal, and elsewhere demands `--yes`. None: go on; else the code to end with.
fn confirmed(context: &Context, args: &Recover, plan: &RecoverDocument) -> Result<Option<Code>, Failure> {
    let code = Code::Refused;
    if args.yes {
        output::say(view::plan(plan).trim_end());
        return Ok(None);
    }
    let headline = if std::io::stdin().is_terminal() && output::talks_to_terminal() {
        output::say(view::plan(plan).trim_end());
        output::ask(&format!("Begin {} again with this? [y/N] ", plan.unit))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(None);
        }
        "nothing was changed".to_owned()
    } else {
        format!("nothing was changed yet: this would be written by `cutover recover {} --yes`", plan.unit)
    };
    print(context, &RecoverDocument { headline, code: code as u8, ..plan.clone() })?;
    Ok(Some(code))
}

/// Watches the live nodes until each follows the new era.
async fn follow(
    context: &Context,
    scene: &Scene,
    plan: RecoverDocument,
    barrier: &Barrier,
    deadline: Instant,
) -> Result<(RecoverDocument, Code), Failure> {
    let unit = plan.unit.clone();
    output::say(&format!("{unit}  epoch {} is written", barrier.epoch));
    let mut feeds = Feeds::open(&context.access, [scene.keys.nodes()]);
    let mut told = BTreeSet::new();
    let mut document = plan;
    loop {
        let Ok(change) = timeout_at(deadline, feeds.next()).await else {
            let behind = document.nodes.iter().filter(|n| n.state != Standing::Absent && !n.follows);
            let names: Vec<&str> = behind.map(|n| n.node.as_str()).collect();
            let headline = format!(
                "written, and not followed in time by {}; `cutover status {unit}` tells when they do",
                names.join(", ")
            );
            let code = Code::Unknown;
            return Ok((RecoverDocument { fate: Recovery::Unfinished, headline, code: code as u8, ..document }, code));
        };
        let seen = remains(&scene.keys, &change?.entries);
        let begun = Some((barrier.epoch.era, barrier.committed.as_ref()));
        document.nodes = recover_nodes(&seen, &silent(&seen, &scene.living), begun);
        for node in document.nodes.iter().filter(|node| node.follows && node.state == Standing::Alive) {
            if told.insert(node.node.clone()) {
                output::say(&view::followed(&document, node));
            }
        }
        if document.nodes.iter().all(|node| node.follows || node.state == Standing::Absent) {
            let away: Vec<&str> =
                document.nodes.iter().filter(|n| n.state == Standing::Absent).map(|n| n.node.as_str()).collect();
            let later = if away.is_empty() { String::new() } else { format!("; later also {}", away.join(", ")) };
            let headline =
                format!("recovered: {unit} begins again at epoch {}, every live node follows{later}", barrier.epoch);
            return Ok((RecoverDocument { fate: Recovery::Done, headline, ..document }, Code::Done));
        }
    }
}
