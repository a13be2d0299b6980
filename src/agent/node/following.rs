//! Follows `barrier`, and tells the unit's owner what it sees.
//!
//! The watch reads stale: it wakes first, and can only be late. A record that looks late, or gone, is read again
//! consistently, so
//! that a server that lags is told from keys that were restored; only the second is an alarm (PROTOCOL.md F1).
//!
//! A node without a floor, new or with its journal lost, cannot tell an old record from a new one. Until it holds one, it
//! believes consistent reads only, and it takes for its floor the newest epoch that its own releases, its own keys, or a live node knows of.
//!
//! Non-goals: judging what is to be done. The participant compares each record with its floor by itself; what is found
//! here decides only what is read again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::daemon::context::Context;
use crate::agent::node::outlook::Need;
use crate::agent::node::rebuild;
use crate::agent::node::unit::Input;
use crate::consul::{Change, Consistency, Entry, Error, Read, Watch};
use crate::protocol::floor::{Admission, admit};
use crate::protocol::ids::Epoch;
use crate::protocol::participant::Event;
use crate::protocol::record::{Ack, Barrier, FORMAT, NodeRecord, check_format, decode};
use crate::telemetry::chain;

/// The pause before a late record is read consistently, and between two tries. A server that lags has caught up by
/// then, and a whole fleet that sees old keys costs Consul's leader one read per node.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// The owner has ended: nobody is left to tell.
struct Gone;

/// Follows until shutdown.
pub(crate) async fn follow(ctx: Arc<Context>, sender: mpsc::Sender<Input>) {
    let held = ctx.journal.borrow().record.clone();
    let follower = Follower { held, least: None, ctx: &ctx, sender, confirm_at: None };
    tokio::select! {
        () = ctx.shutdown.cancelled() => {}
        Err(Gone) = follower.run() => {}
    }
}

/// An epoch that is known to have been followed, and by whom.
type Known = (Epoch, String);

struct Follower<'a> {
    ctx: &'a Context,
    sender: mpsc::Sender<Input>,
    /// What the owner holds once it has taken in what it was told.
    held: Option<Barrier>,
    /// Stands for a floor while nothing is held: no record below it is followed.
    least: Option<Known>,
    /// When what looks late is to be read consistently.
    confirm_at: Option<Instant>,
}

impl Follower<'_> {
    async fn run(mut self) -> Result<(), Gone> {
        let mut watch = Watch::key(&self.ctx.consul, self.ctx.at.barrier(), Consistency::Stale);
        self.ctx.hang(watch.doorbell());
        if self.held.is_none() {
            while !self.begin().await? {
                tokio::time::sleep(CONFIRM_AFTER).await;
            }
        }
        loop {
            let confirm_at = self.confirm_at;
            tokio::select! {
                change = watch.next() => match change {
                    Change::Seen(entry) => self.see(entry.as_ref(), Consistency::Stale).await?,
                    Change::Failed(error) => self.fail(&error),
                },
                () = tokio::time::sleep_until(confirm_at.unwrap_or_else(Instant::now)), if confirm_at.is_some() => {
                    self.confirm_at = Some(Instant::now() + CONFIRM_AFTER);
                    let _again = self.confirm().await?;
                }
            }
        }
    }

    /// The first read of a node that holds no record; whether that went through.
    async fn begin(&mut self) -> Result<bool, Gone> {
        let at = &self.ctx.at;
        let reads = [Read::Key(at.barrier()), Read::Key(at.ack(&self.ctx.node)), Read::Prefix(at.nodes())];
        let keys = match self.ctx.consul.snapshot(&reads, Consistency::Consistent).await {
            Ok(keys) => keys,
            Err(error) => {
                self.fail(&error);
                return Ok(false);
            }
        };
        let site = Arc::clone(&self.ctx.site);
        let on_disk = tokio::task::spawn_blocking(move || rebuild::known_epoch(&site)).await.ok().flatten();
        // A floor that cannot be read may be the newest: nothing is followed without it.
        let at_nodes = at.nodes();
        let known = keys.key(&at.ack(&self.ctx.node)).into_iter().chain(keys.under(&at_nodes));
        let mut is_newer = false;
        for entry in known {
            match check_format(&entry.key, &entry.value, FORMAT) {
                Ok(()) => self.ctx.reads_again(&entry.key),
                Err(error) => {
                    self.ctx.meets_newer(&error).await;
                    is_newer = true;
                }
            }
        }
        if is_newer {
            return Ok(false);
        }
        let own = keys.key(&at.ack(&self.ctx.node)).and_then(|entry| decode::<Ack>(&entry.key, &entry.value).ok());
        let own = own.map(|ack| ack.epoch).max(on_disk).map(|epoch| (epoch, "this node".to_owned()));
        let floor = |entry: &Entry| {
            let record = decode::<NodeRecord>(&entry.key, &entry.value).ok()?;
            // Nobody vouches for what a node said that is away, but for this node itself.
            (entry.session.is_some() || record.node == self.ctx.node).then_some(())?;
            Some((record.floor?, record.node.to_string()))
        };
        let known = keys.under(&at.nodes()).filter_map(floor).chain(own).max();
        self.least = known.filter(|(epoch, _)| *epoch > Epoch::default());
        let barrier = keys.key(&at.barrier()).cloned();
        self.see(barrier.as_ref(), Consistency::Consistent).await?;
        Ok(true)
    }

    /// Reads consistently; whether that went through.
    async fn confirm(&mut self) -> Result<bool, Gone> {
        match self.ctx.consul.kv_get(&self.ctx.at.barrier(), Consistency::Consistent).await {
            Ok(entry) => {
                self.confirm_at = None;
                self.see(entry.as_ref(), Consistency::Consistent).await?;
                Ok(true)
            }
            Err(error) => {
                self.fail(&error);
                Ok(false)
            }
        }
    }

    fn fail(&self, error: &Error) {
        let error = chain(error);
        tracing::warn!(unit = %self.ctx.unit, error, "barrier cannot be read; what runs goes on");
        self.ctx.lacks_consul(Need::Barrier, format!("Consul does not say what is to run: {error}"));
    }

    async fn see(&mut self, entry: Option<&Entry>, consistency: Consistency) -> Result<(), Gone> {
        self.ctx.has_consul(Need::Barrier);
        let is_consistent = consistency == Consistency::Consistent;
        let Some(entry) = entry else {
            // Where no record was ever followed there is none to miss: the first coordinator makes it.
            if self.held.is_none() && self.least.is_none() {
                return Ok(());
            }
            if !is_consistent {
                // A server that lags has not heard of it yet.
                self.confirm_at = Some(Instant::now() + CONFIRM_AFTER);
                return Ok(());
            }
            let reason = format!("{} is gone: the keys were deleted, or Consul was rebuilt", self.ctx.at.barrier());
            return self.tell(Event::Unreadable { reason }, false).await;
        };
        let record = match Barrier::decode(&entry.key, &entry.value) {
            Ok(record) => record,
            // The keys are fine, and this agent is too old for them: it follows nothing.
            Err(error) if error.is_newer() => {
                self.ctx.meets_newer(&error).await;
                return Ok(());
            }
            Err(error) => return self.tell(Event::Unreadable { reason: error.to_string() }, false).await,
        };
        if let (None, Some((least, who))) = (&self.held, &self.least)
            && record.epoch < *least
        {
            let at = record.epoch;
            let reason =
                format!("barrier is at {at}, and {who} has followed {least}: the keys were restored to an older state");
            return self.tell(Event::Unreadable { reason }, false).await;
        }
        if self.held.is_none() && !is_consistent {
            // Whatever it is, an older one would pass for new as well.
            self.confirm_at = Some(Instant::now());
            return Ok(());
        }
        let is_well = match admit(self.held.as_ref(), &record) {
            Admission::New => {
                self.held = Some(record.clone());
                true
            }
            Admission::Same => true,
            Admission::Late if is_consistent => false,
            Admission::Late => {
                self.confirm_at = Some(Instant::now() + CONFIRM_AFTER);
                return Ok(());
            }
            Admission::Contradicts => false,
        };
        self.tell(Event::Record { index: entry.modify_index, record: Box::new(record), is_consistent }, is_well).await
    }

    async fn tell(&self, event: Event, is_well: bool) -> Result<(), Gone> {
        self.ctx.reads_again(&self.ctx.at.barrier());
        // Only a change: each one has presence look, and rest for the spread of a fleet before it writes.
        self.ctx.suspect.send_if_modified(|held| std::mem::replace(held, !is_well) == is_well);
        self.sender.send(Input::Event(event)).await.map_err(|_| Gone)
    }
}
