//! The catalog's nodes and their sessions: how a session ends, and what happens to its keys.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Consul, Session};

/// What happens to a session's keys when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    Delete,
    Release,
}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    node: String,
    ttl: Option<Duration>,
    behavior: Behavior,
    /// When it ends, unless it is renewed; none: never by time.
    ends: Option<Duration>,
}

impl Consul {
    /// Adds a node to the catalog. Each session belongs to a node.
    pub(crate) fn register(&mut self, node: &str) {
        self.index += 1;
        self.nodes.insert(node.to_owned());
    }

    /// Removes a node from the catalog, and ends its sessions.
    pub(crate) fn deregister(&mut self, node: &str) {
        self.index += 1;
        self.nodes.remove(node);
        self.end_of(node);
    }

    /// A node's `serfHealth` turns critical: its sessions end, but the node stays in the catalog.
    pub(crate) fn fail(&mut self, node: &str) {
        self.index += 1;
        self.end_of(node);
    }

    pub(crate) const fn catalog(&self) -> &BTreeSet<String> {
        &self.nodes
    }

    fn end_of(&mut self, node: &str) {
        let theirs: Vec<Session> =
            self.sessions.iter().filter(|(_, lease)| lease.node == node).map(|(session, _)| *session).collect();
        for session in theirs {
            self.end(session);
        }
    }

    /// Creates a session of a node. It ends when it was not renewed for about twice its TTL; no TTL: never by time.
    ///
    /// # Errors
    ///
    /// No such node.
    pub(crate) fn create_session(
        &mut self,
        node: &str,
        ttl: Option<Duration>,
        behavior: Behavior,
        now: Duration,
    ) -> Result<Session, &'static str> {
        self.index += 1;
        if !self.nodes.contains(node) {
            return Err("Missing node registration");
        }
        self.made += 1;
        let session = Session(self.made);
        let ends = ttl.map(|ttl| now + lifetime(ttl, self.hurry));
        self.sessions.insert(session, Lease { node: node.to_owned(), ttl, behavior, ends });
        Ok(session)
    }

    /// Ends sessions sooner, by this percentage of their TTL. Consul promises one TTL, and takes two (measured: 20.00 s for
    /// 10 s). The product must not depend on the second one.
    pub(crate) fn hurry(&mut self, percent: u32) {
        self.hurry = percent.min(100);
    }

    /// Whether the session still exists. Takes no entry of the log.
    pub(crate) fn renew(&mut self, session: Session, now: Duration) -> bool {
        let hurry = self.hurry;
        let Some(lease) = self.sessions.get_mut(&session) else { return false };
        lease.ends = lease.ttl.map(|ttl| now + lifetime(ttl, hurry));
        true
    }

    /// The node of a session; none: the session has ended.
    pub(crate) fn node_of(&self, session: Session) -> Option<&str> {
        self.sessions.get(&session).map(|lease| lease.node.as_str())
    }

    pub(crate) fn destroy(&mut self, session: Session) {
        self.index += 1;
        self.end(session);
    }

    /// When the next session ends by time.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.sessions.values().filter_map(|lease| lease.ends).min()
    }

    /// Ends every session whose time is over, each with an entry of its own, and returns them.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<Session> {
        let over = |lease: &Lease| lease.ends.is_some_and(|ends| ends <= now);
        let ended: Vec<Session> = self.sessions.iter().filter(|(_, l)| over(l)).map(|(session, _)| *session).collect();
        for session in &ended {
            self.destroy(*session);
        }
        ended
    }

    /// A new leader knows of no renewal: every TTL begins anew.
    pub(crate) fn new_leader(&mut self, now: Duration) {
        let hurry = self.hurry;
        for lease in self.sessions.values_mut() {
            lease.ends = lease.ttl.map(|ttl| now + lifetime(ttl, hurry));
        }
    }

    /// `consul snapshot restore`: keys, sessions and locks go back, but the log's index goes on.
    pub(crate) fn restore(&mut self, kept: &Self, now: Duration) {
        let (index, made) = (self.index + 1, self.made);
        self.clone_from(kept);
        (self.index, self.made) = (index, made);
        self.new_leader(now);
    }

    fn end(&mut self, session: Session) {
        let Some(lease) = self.sessions.remove(&session) else { return };
        let held: Vec<String> =
            self.entries.iter().filter(|(_, e)| e.holder == Some(session)).map(|(key, _)| key.clone()).collect();
        for key in held {
            match (lease.behavior, self.entries.get(&key)) {
                (Behavior::Release, Some(entry)) => {
                    let (value, locks) = (Arc::clone(&entry.value), entry.lock_index);
                    self.set(&key, &value, Some((None, locks)));
                }
                (Behavior::Delete, _) | (_, None) => self.remove(&key),
            }
        }
        self.undo.clear();
    }
}

/// The time from a renewal to the end.
fn lifetime(ttl: Duration, hurry: u32) -> Duration {
    ttl * (200 - hurry) / 100
}
