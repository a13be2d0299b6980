//! How many builds this node downloads and unpacks at the same time, over all units.
//!
//! A deploy goes first: while one waits, running prefetches of all apps are halted. They keep what they downloaded, and are tried
//! again later. No deploy waits for a prefetch that waits for a slot, because a prefetch has its slot before the turn of its app.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::protocol::record::{Fault, Step};

/// How often a waiting deploy halts the prefetches that are in its way, and how often a prefetch tries again to begin.
pub(super) const INSIST: Duration = Duration::from_millis(100);

/// The slots of a node.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// None without a limit.
    slots: Option<Semaphore>,
    /// What halts each running prefetch.
    ahead: Mutex<Vec<CancellationToken>>,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

/// A slot for a prefetch, until it is dropped.
#[derive(Debug)]
pub(super) struct SlotAhead<'a> {
    slots: &'a Slots,
    _slot: Slot<'a>,
    /// Halts the prefetch.
    pub(super) halt: CancellationToken,
}

impl Slots {
    pub(crate) fn new(most: Option<u32>) -> Self {
        let most = most.and_then(|most| usize::try_from(most).ok()).map(|most| most.min(Semaphore::MAX_PERMITS));
        Self { slots: most.map(Semaphore::new), ahead: Mutex::default() }
    }

    fn ahead(&self) -> MutexGuard<'_, Vec<CancellationToken>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot, and halts prefetches meanwhile.
    pub(super) async fn for_deploy(&self, halt: &CancellationToken) -> Result<Slot<'_>, Fault> {
        let Some(slots) = &self.slots else { return Ok(Slot { _permit: None }) };
        let free = slots.acquire();
        tokio::pin!(free);
        // Halted only if there is no free slot, and repeatedly, because a prefetch may begin meanwhile.
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = halt.cancelled() => return Err(stopped()),
                permit = &mut free => return permit.map(|it| Slot { _permit: Some(it) }).map_err(|_| stopped()),
                () = tokio::time::sleep(pause) => {}
            }
            self.ahead().iter().for_each(CancellationToken::cancel);
            pause = INSIST;
        }
    }

    /// Waits for a slot that no deploy waits for.
    pub(super) async fn for_prefetch(&self, halt: &CancellationToken) -> Result<SlotAhead<'_>, Fault> {
        let permit = loop {
            match &self.slots {
                None => break None,
                Some(slots) => {
                    if let Ok(permit) = slots.try_acquire() {
                        break Some(permit);
                    }
                }
            }
            tokio::select! {
                () = halt.cancelled() => return Err(stopped()),
                () = tokio::time::sleep(INSIST) => {}
            }
        };
        let halt = halt.child_token();
        self.ahead().push(halt.clone());
        Ok(SlotAhead { slots: self, _slot: Slot { _permit: permit }, halt })
    }
}

impl Drop for SlotAhead<'_> {
    fn drop(&mut self) {
        self.halt.cancel();
        self.slots.ahead().retain(|halt| !halt.is_cancelled());
    }
}

/// What the reason of a fetch that was halted begins with.
const STOPPED: &str = "stopped: ";

/// The fault of a fetch that was halted.
pub(super) fn stopped() -> Fault {
    stopped_because("the deploy no longer needs it, another deploy on this node goes first, or the agent is stopping")
}

/// The fault of a fetch that was halted for this reason.
pub(super) fn stopped_because(why: &str) -> Fault {
    Fault::new(Step::Fetch, &format!("{STOPPED}{why}"))
}

/// Whether a fetch was halted, and did not fail.
pub(super) fn was_stopped(fault: &Fault) -> bool {
    fault.step == Step::Fetch && fault.reason.starts_with(STOPPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deploy_takes_the_slot_of_a_prefetch() {
        let (slots, halt) = (Slots::new(Some(1)), CancellationToken::new());
        let prefetch = slots.for_prefetch(&halt).await.unwrap();
        let other = slots.for_prefetch(&halt);
        tokio::pin!(other);
        let deploy = slots.for_deploy(&halt);
        let prefetch = async move {
            prefetch.halt.cancelled().await;
            drop(prefetch);
        };
        let deploy = tokio::select! {
            biased;
            _ = &mut other => panic!("there is one slot"),
            (deploy, ()) = async { tokio::join!(deploy, prefetch) } => deploy.unwrap(),
        };
        assert!(!halt.is_cancelled());
        drop(deploy);
        other.await.unwrap();
        assert!(slots.ahead().is_empty(), "a prefetch that has ended would be halted");
    }

    #[tokio::test]
    async fn deploys_share_the_slots_and_a_halted_one_stops_waiting() {
        let (slots, halt) = (Slots::new(Some(2)), CancellationToken::new());
        let (one, _two) = (slots.for_deploy(&halt).await.unwrap(), slots.for_deploy(&halt).await.unwrap());
        let third = slots.for_deploy(&halt);
        drop(one);
        let _third = third.await.unwrap();
        halt.cancel();
        slots.for_deploy(&halt).await.unwrap_err();
        slots.for_prefetch(&halt).await.unwrap_err();
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let (slots, halt) = (Slots::new(None), CancellationToken::new());
        let prefetch = slots.for_prefetch(&halt).await.unwrap();
        let _deploys = (slots.for_deploy(&halt).await.unwrap(), slots.for_deploy(&halt).await.unwrap());
        assert!(!prefetch.halt.is_cancelled());
    }
}
