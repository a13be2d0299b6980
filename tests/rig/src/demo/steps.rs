//! The demo, step by step. Each step does what a user would do, reads what happened, and fails where that is not what
//! the demo claims.

use std::collections::BTreeMap;
use std::time::Duration;

use cutover::protocol::ids::Node;
use cutover::protocol::record::{Answer, History, NodeOutcome, Outcome, Step, Timings};

use super::builds::{Version, create};
use super::commands::{Program, Ran};
use super::documents::{self, DeployDocument, HistoryDocument};
use super::error::DemoError;
use super::evidence::{self, Link, answers, links, listed, until};
use super::fleet::{APP, BRANCH, Fleet, Member, UNIT};
use super::print::{Screen, clean, coarse, failed, not_reached, seconds, succeeded};

/// How long `cutover deploy` waits; below [`evidence::LIMIT`], so that its own message is seen.
const DEPLOY_LIMIT: &str = "40s";
/// A file that build 3 needs, and that the last node does not have.
const PAYMENT_KEY: &str = "payment.key";
/// The database schema that build 4 needs, and that one node does not have.
pub(super) const NEW_SCHEMA: u32 = 4;

/// Exit codes of `cutover`, see its `--help`.
const DONE: i32 = 0;
const REFUSED: i32 = 4;
const REVERTED: i32 = 9;

/// The node on which build 4 is unhealthy: another one than refuses build 3, where there are several.
pub(super) fn unhealthy_index(members: &[Member]) -> usize {
    members.len().saturating_sub(2)
}

/// The deploys, on a fleet that is ready.
pub(super) struct Steps<'a> {
    fleet: &'a mut Fleet,
    screen: &'a mut Screen,
}

impl<'a> Steps<'a> {
    pub(super) fn new(fleet: &'a mut Fleet, screen: &'a mut Screen) -> Self {
        Self { fleet, screen }
    }

    /// Runs all steps.
    ///
    /// # Errors
    ///
    /// [`DemoError::Claim`] and [`DemoError::Late`] where a step does not do what the demo claims.
    ///
    /// # Cancel safety
    ///
    /// Safe: commands are killed; what the fleet does goes on until it is stopped.
    pub(super) async fn run(mut self) -> Result<(), DemoError> {
        let first = Version::new(1);
        self.publish(&first).await?;
        let done = self.deploy(&first).await?;
        let second = Version::new(2);
        self.publish(&second).await?;
        self.put(&second, &done).await?;
        let third = Version { needs: &[PAYMENT_KEY], ..Version::new(3) };
        self.publish(&third).await?;
        self.refuse(&third, &second).await?;
        let fourth = Version { schema: NEW_SCHEMA, ..Version::new(4) };
        self.publish(&fourth).await?;
        self.revert(&fourth, &second).await?;
        self.roll_back(&first, &done).await?;
        self.history().await?;
        let took = seconds(self.screen.elapsed());
        self.screen.plain(&format!("\nEvery step went as claimed, in {took}."))
    }

    /// Publishes a build as CI would, and waits until every node has it unpacked.
    async fn publish(&mut self, version: &Version) -> Result<(), DemoError> {
        let number = version.number;
        let why = if number == 1 { ", ahead of time: a deploy then builds and downloads nothing" } else { "" };
        let about = format!("build {number}{why}");
        self.screen.begin("publish", &about)?;
        let commands = self.fleet.commands();
        let directory = format!("builds/{number}");
        create(&commands.dir.join(&directory))?;
        version.write(&commands.dir.join(&directory))?;
        let mut args = vec!["publish", "--app", APP, "--branch", BRANCH, "--commit", &version.commit, &directory];
        let store_flags = self.fleet.store().flags();
        args.extend(store_flags.iter().map(String::as_str));
        let ran = commands.shown(Program::Cutover, &args, self.screen).await?;
        self.expect_code(&ran, DONE)?;
        let commit = version.commit.clone();
        let prefetched = until(self.fleet, self.screen.step(), "every node has it unpacked", async |fleet: &Fleet| {
            let build = documents::build(fleet, &commit).await?;
            let status = documents::status(fleet).await?;
            let has = status.nodes.iter().filter(|node| node.staged.contains(&build.artifact));
            let has: Vec<String> = has.map(|node| node.node.to_string()).collect();
            if has.len() == fleet.members().len() { Ok((build, has)) } else { Err(format!("only {has:?} have it")) }
        });
        let (build, has) = prefetched.await?;
        let size = build.record.map_or(0, |record| record.packed_bytes) / 1000;
        let nodes = has.iter().map(|name| succeeded(name)).collect::<Vec<_>>().join("  ");
        self.screen.end(&format!("{}  {size} kB  prefetched  {nodes}", build.artifact))
    }

    /// Deploys with the command.
    async fn deploy(&mut self, version: &Version) -> Result<History, DemoError> {
        self.screen.begin("deploy", "all of them at the same moment, or none")?;
        let args = ["deploy", UNIT, BRANCH, "--timeout", DEPLOY_LIMIT, "--output", "json"];
        let ran = self.fleet.commands().shown(Program::Cutover, &args, self.screen).await?;
        self.expect_code(&ran, DONE)?;
        let record = self.record(&ran)?;
        self.show_barrier(&record)?;
        self.expect_answers(&version.answer()).await?;
        Ok(record)
    }

    /// Deploys by writing the key, without any `cutover` command.
    async fn put(&mut self, version: &Version, before: &History) -> Result<(), DemoError> {
        self.screen.begin("deploy", "the same by writing one key: all that `cutover deploy` does too")?;
        let key = format!("cutover/{UNIT}/deploy");
        let ran = self.fleet.commands().shown(Program::Consul, &["kv", "put", &key, BRANCH], self.screen).await?;
        self.expect_code(&ran, DONE)?;
        let ended = until(self.fleet, self.screen.step(), "the deploy ends", async |fleet: &Fleet| {
            let row = documents::newest(fleet).await?;
            match row.record.outcome {
                Some(_) if row.record.epoch > before.epoch => Ok(row.record),
                _ => Err(format!("the newest request is {}: {:?}", row.record.epoch, row.record.outcome)),
            }
        });
        let record = ended.await?;
        self.show_barrier(&record)?;
        let (by, via) = (clean(&record.author.by), clean(&record.author.via));
        self.screen.fact(&format!("recorded as by {by}, via {via}"))?;
        self.expect_answers(&version.answer()).await
    }

    /// One node cannot run the build, so no node switches.
    async fn refuse(&mut self, version: &Version, running: &Version) -> Result<(), DemoError> {
        let Some((refusing, able)) = self.fleet.members().split_last() else { return Ok(()) };
        let (refusing, able) = (refusing.clone(), able.to_vec());
        self.screen.begin(
            "refuse",
            &format!("build {} needs {PAYMENT_KEY}, and {} has none", version.number, refusing.name),
        )?;
        for member in &able {
            evidence::write_shared(member, PAYMENT_KEY, "a secret\n")?;
        }
        let before = links(self.fleet.members());
        let args = ["deploy", UNIT, BRANCH, "--timeout", DEPLOY_LIMIT, "--output", "json"];
        let ran = self.fleet.commands().shown(Program::Cutover, &args, self.screen).await?;
        self.expect_code(&ran, REFUSED)?;
        let record = self.record(&ran)?;
        self.expect_fault(&record, Outcome::Aborted, &refusing.name, Step::PrepareHook)?;
        self.screen.fact(&format!("prepare   {}", marks(&record, |answer| answer == Answer::Prepared)))?;
        let after = links(self.fleet.members());
        if before != after {
            let moved: Vec<&String> =
                after.iter().filter(|(name, link)| before.get(*name) != Some(*link)).map(|(name, _)| name).collect();
            return Err(self.claim("that no node switches", format!("`current` was moved on {moved:?}")));
        }
        self.screen
            .fact(&format!("switch    none: `current` is the same link as before on every node; {}", ran.code()))?;
        self.expect_answers(&running.answer()).await
    }

    /// One node is unhealthy after the switch, so every node goes back.
    async fn revert(&mut self, version: &Version, running: &Version) -> Result<(), DemoError> {
        let at = unhealthy_index(self.fleet.members());
        let Some(unhealthy) = self.fleet.members().get(at).cloned() else { return Ok(()) };
        let about = format!(
            "build {} needs database schema {NEW_SCHEMA}, and {} has an older one",
            version.number, unhealthy.name
        );
        self.screen.begin("revert", &about)?;
        for member in self.fleet.members().iter().filter(|member| member.name != unhealthy.name) {
            evidence::write_shared(member, "schema.txt", &format!("{NEW_SCHEMA}\n"))?;
        }
        let args = ["deploy", UNIT, BRANCH, "--timeout", DEPLOY_LIMIT, "--output", "json"];
        let ran = self.fleet.commands().shown(Program::Cutover, &args, self.screen).await?;
        self.expect_code(&ran, REVERTED)?;
        let record = self.record(&ran)?;
        self.expect_fault(&record, Outcome::Reverted, &unhealthy.name, Step::CheckHook)?;
        self.screen.fact(&format!(
            "reverted  {}  {}",
            marks(&record, |answer| answer == Answer::Reverted),
            ran.code()
        ))?;
        self.expect_answers(&running.answer()).await
    }

    /// Goes back to a release that is on every disk, while no node can fetch.
    async fn roll_back(&mut self, version: &Version, done: &History) -> Result<(), DemoError> {
        self.screen.begin("rollback", &format!("to build {}, while the store is away", version.number))?;
        let release = done.release.as_ref().map(ToString::to_string).unwrap_or_default();
        let files = |members: &[Member]| -> BTreeMap<String, _> {
            members.iter().map(|member| (member.name.clone(), evidence::unpacked_file(member, &release))).collect()
        };
        let before = files(self.fleet.members());
        self.fleet.store().hide()?;
        let args = ["rollback", UNIT, "--timeout", DEPLOY_LIMIT, "--output", "json"];
        let ran = self.fleet.commands().shown(Program::Cutover, &args, self.screen).await;
        self.fleet.store().bring_back()?;
        let ran = ran?;
        self.expect_code(&ran, DONE)?;
        let record = self.record(&ran)?;
        if record.release != done.release {
            let seen = format!("release {:?}", record.release.map(|release| release.to_string()));
            return Err(self.claim(&format!("release {release} again"), seen));
        }
        if before != files(self.fleet.members()) || before.values().any(Option::is_none) {
            return Err(self.claim("the files of the first deploy", "others: the release was unpacked again"));
        }
        let took = record.ended_at.map(|end| seconds(end.duration_since(record.started_at).unsigned_abs()));
        let (_, spread) = self.switches(&links(self.fleet.members()))?;
        self.screen.fact(&format!(
            "switch    {}  spread first to last {}",
            marks(&record, |answer| answer == Answer::Switched),
            coarse(spread)
        ))?;
        let took = took.unwrap_or_else(|| "unknown".to_owned());
        self.screen.fact(&format!("release   {release} as it was unpacked for the first deploy; took {took}"))?;
        self.expect_answers(&version.answer()).await
    }

    async fn history(&mut self) -> Result<(), DemoError> {
        self.screen.begin("history", "who, when, what, outcome, duration")?;
        let ran = self.fleet.commands().shown(Program::Cutover, &["history", UNIT], self.screen).await?;
        self.expect_code(&ran, DONE)?;
        for line in ran.stdout.lines() {
            self.screen.fact(&clean(line))?;
        }
        let document: HistoryDocument = documents::documented(self.fleet, &["history", UNIT, "--output", "json"])
            .await
            .map_err(|seen| self.claim("the history as JSON", seen))?;
        let outcomes: Vec<_> = document.requests.iter().rev().filter_map(|row| row.record.outcome).collect();
        let expected = [Outcome::Done, Outcome::Done, Outcome::Aborted, Outcome::Reverted, Outcome::Done];
        if outcomes != expected {
            return Err(self.claim(&format!("the outcomes {expected:?}"), format!("{outcomes:?}")));
        }
        let total: u64 = document.requests.iter().filter_map(|row| row.took_ms).sum();
        self.screen.end(&format!("{} requests, which took {total} ms in all", outcomes.len()))
    }

    /// Proves from the disks that every node was prepared before any node switched, and shows how long each phase took.
    fn show_barrier(&self, record: &History) -> Result<(), DemoError> {
        if record.outcome != Some(Outcome::Done) {
            return Err(self.claim("outcome done", format!("{:?}: {:?}", record.outcome, record.fault)));
        }
        let switched = record.nodes.values().filter(|node| node.answer == Some(Answer::Switched)).count();
        if switched != self.fleet.members().len() {
            return Err(self.claim("an answer from every node", marks(record, |answer| answer == Answer::Switched)));
        }
        let release = record.release.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut prepared = Vec::new();
        for member in self.fleet.members() {
            let moment = evidence::prepared(member, &release);
            prepared.push(moment.ok_or_else(|| self.claim("a prepared release", format!("none on {}", member.name)))?);
        }
        let (first, spread) = self.switches(&links(self.fleet.members()))?;
        let Some(last) = prepared.into_iter().max() else { return Ok(()) };
        if last > first {
            let seen = format!("a switch {} ms before the last node was prepared", last.since(first).as_millis());
            return Err(self.claim("that every node is prepared before any switches", seen));
        }
        let slowest = |times: fn(&Timings) -> Option<u64>| {
            record.nodes.values().filter_map(|node| times(&node.took)).max().unwrap_or(0)
        };
        let all = marks(record, |answer| answer == Answer::Switched);
        self.screen.fact(&format!(
            "prepare   {all}  {} ms; all prepared before any switched, the last {} earlier",
            slowest(|took| took.prepare_ms),
            coarse(first.since(last))
        ))?;
        self.screen.fact(&format!(
            "switch    {all}  spread first to last {}; with hooks and check {} ms",
            coarse(spread),
            slowest(|took| took.switch_ms)
        ))
    }

    /// When the first node switched, and how much later the last one.
    fn switches(&self, links: &BTreeMap<String, Option<Link>>) -> Result<(evidence::Moment, Duration), DemoError> {
        let mut moments = Vec::new();
        for (name, link) in links {
            let link = link.ok_or_else(|| self.claim("a `current` on every node", format!("none on {name}")))?;
            moments.push(link.switched);
        }
        match (moments.iter().min(), moments.iter().max()) {
            (Some(first), Some(last)) => Ok((*first, last.since(*first))),
            _ => Err(self.claim("nodes", "none")),
        }
    }

    /// The record in a deploy's document.
    fn record(&self, ran: &Ran) -> Result<History, DemoError> {
        let document: DeployDocument = ran.document(self.screen.step())?;
        document.record.ok_or_else(|| self.claim("the request's record", document.headline))
    }

    /// Checks where and how a deploy failed, and shows the last line of the hook's output.
    fn expect_fault(&self, record: &History, outcome: Outcome, node: &str, step: Step) -> Result<(), DemoError> {
        let at = record.node.as_ref().map(ToString::to_string);
        let fault = record.fault.as_ref().filter(|fault| fault.step == step);
        let Some(fault) = fault.filter(|_| record.outcome == Some(outcome) && at.as_deref() == Some(node)) else {
            let expected = format!("{} by {node} at {}", outcome.as_str(), step.as_str());
            return Err(self.claim(&expected, format!("{:?} by {at:?}: {:?}", record.outcome, record.fault)));
        };
        let Some(last) = fault.output.lines().last() else {
            return Err(
                self.claim(&format!("the last output of the hook on {node}"), format!("none: {}", fault.reason))
            );
        };
        self.screen.fact(&format!("because   {}  {}: {}", failed(node), fault.step.as_str(), clean(last)))
    }

    /// Asks every app for its version, and ends the step with the answers.
    async fn expect_answers(&mut self, expected: &str) -> Result<(), DemoError> {
        self.fleet.check_running()?;
        let answers = answers(self.fleet.members()).await;
        if answers.iter().any(|(_, answer)| answer != expected) {
            return Err(self.claim(&format!("the answer {expected:?} from every app"), listed(&answers)));
        }
        self.screen.end(&format!("answers   {}", listed(&answers)))
    }

    fn expect_code(&self, ran: &Ran, code: i32) -> Result<(), DemoError> {
        if ran.status.code() == Some(code) {
            Ok(())
        } else {
            Err(self.claim(&format!("exit code {code}"), ran.described()))
        }
    }

    fn claim(&self, expected: &str, seen: impl Into<String>) -> DemoError {
        DemoError::claim(self.screen.step(), expected, seen)
    }
}

/// `n1 ✓  n2 ✓  n3 ✗`: which nodes' last answer is the wanted one.
fn marks(record: &History, wanted: impl Fn(Answer) -> bool) -> String {
    let mark = |(name, node): (&_, &NodeOutcome)| {
        let name = Node::as_str(name);
        match node.answer {
            Some(answer) if wanted(answer) => succeeded(name),
            Some(_) => failed(name),
            None => not_reached(name),
        }
    };
    record.nodes.iter().map(mark).collect::<Vec<_>>().join("  ")
}
