//! Follows one request from the key `deploy` to its outcome in `history/<epoch>`.
//!
//! Reads only: it can be stopped at any moment without any effect on the deploy. It does not decide how progress looks
//! (see [`Progress`]), nor which exit code an outcome has.
//!
//! The caller prints the document of the returned [`Followed`].

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};

use super::context::Context;
use super::output::{self, clean};
use super::progress::Progress;
use crate::control::feeds::{Change, Feeds};
use crate::control::{Code, Failure, request};
use crate::document::{Entries, Waiting, remains};
use crate::protocol::ids::{Epoch, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{History, decode};

/// How long the coordinator's lock may be free before the user is told. Another agent takes the lock within 2 s, a
/// restarted agent within a few more.
const NO_COORDINATOR_GRACE: Duration = Duration::from_secs(5);
/// How long a request may wait before the group's keys are checked for damage. A coordinator takes a request within
/// milliseconds, or after `absence_grace`.
const UNTAKEN_GRACE: Duration = Duration::from_secs(5);
/// Interval of the spinner on a terminal.
const SPIN: Duration = Duration::from_millis(120);

/// How following ended.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The request has its outcome.
    Ended(Box<History>),
    /// The user pressed Ctrl-C; the deploy continues.
    Interrupted,
    /// Another request replaced it before a coordinator took it.
    Overtaken {
        /// The other request, in words.
        by_what: String,
    },
    /// The deadline passed; the deploy continues.
    TimedOut,
}

#[derive(Debug)]
pub(crate) struct Follower<'a> {
    context: &'a Context,
    unit: &'a Unit,
    keys: UnitKeys,
    epoch: Epoch,
    deadline: Instant,
    progress: Progress,
    screen: Screen,
    /// Since when no agent has held the coordinator's lock.
    no_coordinator_since: Option<Instant>,
    /// When to check why no coordinator has taken the request.
    check_keys_at: Option<Instant>,
}

impl<'a> Follower<'a> {
    /// Follows `epoch` of `unit` until `deadline`.
    #[must_use]
    pub(crate) fn new(context: &'a Context, unit: &'a Unit, epoch: Epoch, deadline: Instant) -> Self {
        Self {
            context,
            unit,
            keys: context.access.keys.unit(unit),
            epoch,
            deadline,
            progress: Progress::new(unit.clone(), epoch),
            screen: Screen::open(),
            no_coordinator_since: None,
            check_keys_at: Some(Instant::now() + UNTAKEN_GRACE),
        }
    }

    /// Runs until the request has an outcome, the deadline passes, or the user presses Ctrl-C.
    ///
    /// # Errors
    ///
    /// Permanent errors of Consul. Reads that fail for another reason are retried.
    pub(crate) async fn run(mut self) -> Result<Followed, Failure> {
        let history = self.keys.history(self.epoch);
        let keys = &self.keys;
        let watched = [history, keys.barrier(), keys.acks(), keys.nodes(), keys.deploy(), keys.coordinator()];
        let mut feeds = Feeds::open(&self.context.access, watched);
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        loop {
            let grace = self.no_coordinator_since.map(|since| since + NO_COORDINATOR_GRACE);
            let followed = tokio::select! {
                change = feeds.next() => self.see(change?).await?,
                () = sleep_until(self.deadline) => Some(Followed::TimedOut),
                _ = &mut interrupt => Some(Followed::Interrupted),
                () = sleep_until(grace.unwrap_or(self.deadline)), if grace.is_some() => {
                    self.report_no_coordinator();
                    None
                }
                () = sleep_until(self.check_keys_at.unwrap_or(self.deadline)), if self.check_keys_at.is_some() => {
                    self.report_damaged_keys().await?;
                    None
                }
            };
            self.screen.show(&mut self.progress);
            if let Some(followed) = followed {
                self.screen.close();
                return Ok(followed);
            }
        }
    }

    async fn see(&mut self, change: Change) -> Result<Option<Followed>, Failure> {
        let Change { watched, entries } = change;
        if watched == self.keys.history(self.epoch) {
            return Self::ended(&watched, &entries);
        }
        if watched == self.keys.barrier() {
            if entries.is_empty() {
                return Err(self.lost());
            }
            let barrier = request::barrier(entries.get(&watched), self.unit, &watched)?;
            if let Some(barrier) = barrier.as_ref().filter(|b| b.epoch.era > self.epoch.era) {
                let by_what = format!("a recovery of the keys, deploy #{}", barrier.epoch);
                return Ok(Some(Followed::Overtaken { by_what }));
            }
            if let Some(barrier) = barrier.filter(|b| b.epoch == self.epoch) {
                self.learn_members().await?;
                self.progress.see_barrier(&barrier);
            }
        } else if watched == self.keys.acks() {
            self.progress.see_acks(&self.keys, &entries);
        } else if watched == self.keys.nodes() {
            self.progress.see_nodes(&self.keys, &entries);
        } else if watched == self.keys.coordinator() {
            let held = entries.get(&watched).is_some_and(|entry| entry.session.is_some());
            self.no_coordinator_since = if held { None } else { Some(Instant::now()) };
        } else if watched == self.keys.deploy() {
            return self.see_request(&entries).await;
        }
        Ok(None)
    }

    fn ended(key: &str, entries: &Entries) -> Result<Option<Followed>, Failure> {
        let Some(entry) = entries.get(key).filter(|entry| !entry.value.is_empty()) else { return Ok(None) };
        let record: History = decode(key, &entry.value).map_err(|error| {
            Failure::new(Code::Unknown, "the outcome of the deploy cannot be read").caused_by(error)
        })?;
        Ok(record.outcome.is_some().then(|| Followed::Ended(Box::new(record))))
    }

    /// Detects a request that was replaced. A coordinator empties the key in the transaction that creates the request's
    /// history, so a key that changed without a history was overwritten before a coordinator took the request.
    async fn see_request(&self, entries: &Entries) -> Result<Option<Followed>, Failure> {
        let entry = entries.get(&self.keys.deploy());
        if entry.is_some_and(|entry| entry.modify_index.0 <= self.epoch.number) {
            return Ok(None);
        }
        if self.context.access.kv.entry(&self.keys.history(self.epoch)).await?.is_some() {
            return Ok(None);
        }
        if entry.is_none() && self.context.access.kv.entry(&self.keys.barrier()).await?.is_none() {
            return Err(self.lost());
        }
        let by_what = match (entry, entry.and_then(Waiting::read)) {
            (None, _) => "the deletion of the request's key".to_owned(),
            (Some(_), Some(waiting)) => format!("{} by {}, deploy #{}", waiting.wants, waiting.by, waiting.epoch),
            (Some(_), None) => "another request".to_owned(),
        };
        Ok(Some(Followed::Overtaken { by_what }))
    }

    async fn learn_members(&mut self) -> Result<(), Failure> {
        if self.progress.knows_members() {
            return Ok(());
        }
        let key = self.keys.members(self.epoch);
        let members = self.context.access.kv.entry(&key).await?;
        // Without the list only the display of single nodes is missing, so an unreadable list is not an error.
        if let Some(Ok(members)) = members.map(|entry| decode::<Vec<Node>>(&key, &entry.value)) {
            self.progress.see_members(members);
        }
        Ok(())
    }

    fn lost(&self) -> Failure {
        let what = format!("{}: the keys were lost; the outcome of deploy #{} is not known", self.unit, self.epoch);
        Failure::new(Code::Unknown, what).hint(format!(
            "run `cutover recover {}`: it shows what each node runs, and rebuilds the state from that",
            self.unit
        ))
    }

    /// Reports damaged keys, which keep a coordinator from taking the request.
    async fn report_damaged_keys(&mut self) -> Result<(), Failure> {
        self.check_keys_at = None;
        if self.progress.has_begun() {
            return Ok(());
        }
        let keys = &self.keys;
        let read = [keys.barrier(), keys.deploy(), keys.coordinator(), keys.nodes(), keys.all_members()];
        let entries = self.context.access.kv.at_one_moment(&read).await?;
        for trouble in remains(keys, &entries).damage() {
            self.screen.say(&format!("{}  {trouble}; to continue, run `cutover recover {0}`", self.unit));
        }
        Ok(())
    }

    fn report_no_coordinator(&mut self) {
        self.no_coordinator_since = None;
        self.screen.say(&format!(
            "{}  no agent coordinates this group, so the deploy is waiting; is an agent with coordinate = true running?",
            self.unit
        ));
    }
}

/// Where progress is shown: redrawn in place on a terminal, else printed line by line.
#[derive(Debug)]
enum Screen {
    Lines,
    Terminal { bar: ProgressBar, colour: bool },
}

impl Screen {
    fn open() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(SPIN);
        let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
        Self::Terminal { bar, colour }
    }

    fn show(&self, progress: &mut Progress) {
        let lines = progress.take_lines();
        match self {
            Self::Lines => lines.iter().for_each(|line| output::say(line)),
            Self::Terminal { bar, colour } => {
                let screen = progress.screen();
                let plain = || anstream::adapter::strip_str(&screen).to_string();
                bar.set_message(if *colour { screen.clone() } else { plain() });
            }
        }
    }

    fn say(&self, line: &str) {
        match self {
            Self::Lines => output::say(&clean(line)),
            Self::Terminal { bar, .. } => bar.suspend(|| output::say(&clean(line))),
        }
    }

    fn close(&self) {
        if let Self::Terminal { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}
