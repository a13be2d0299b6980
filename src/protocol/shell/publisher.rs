//! A node's writes into Consul: its answer by the [`Outbox`], its record by [`Presence`]. Both use one session, and never
//! write `nodes/<node>` at the same time, so no record is written twice.

use super::Moment;
use super::outbox::{self, Outbox};
use super::own::{OwnRecord, Writer};
use super::presence::{self, Presence};

#[derive(Clone, Debug)]
pub(crate) enum Event<S> {
    Outbox(outbox::Event<S>),
    Presence(presence::Event<S>),
}

/// Work for the driver. The steps of the two parts run side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<S> {
    Outbox(outbox::Step<S>),
    Presence(presence::Step<S>),
    /// The node's session has changed.
    Session(Option<S>),
}

/// Outbox and presence, with the session and the record that they share.
#[derive(Clone, Debug)]
pub(crate) struct Publisher<S> {
    own: OwnRecord<S>,
    outbox: Outbox,
    presence: Presence<S>,
}

impl<S: Clone + PartialEq> Publisher<S> {
    /// Begins with the session that a former life kept on disk, if any. The first event is
    /// [`Waited`](presence::Event::Waited).
    pub(crate) const fn new(consul_node: String, remembered: Option<S>, moment: Moment) -> Self {
        Self { own: OwnRecord::new(), outbox: Outbox::new(), presence: Presence::new(consul_node, remembered, moment) }
    }

    pub(crate) fn on(&mut self, moment: Moment, event: Event<S>) -> Vec<Step<S>> {
        let before = self.own.session.clone();
        let mut steps = Vec::new();
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Outbox(event) => {
                    for step in self.outbox.on(&mut self.own, moment, event) {
                        if step == outbox::Step::SessionLost {
                            let told = self.presence.on(&mut self.own, moment, presence::Event::SessionLost);
                            steps.extend(told.into_iter().map(Step::Presence));
                        }
                        steps.push(Step::Outbox(step));
                    }
                }
                Event::Presence(event) => {
                    let done = self.presence.on(&mut self.own, moment, event);
                    steps.extend(done.into_iter().map(Step::Presence));
                }
            }
            next = self.next_writer();
        }
        if self.own.session != before {
            steps.push(Step::Session(self.own.session.clone()));
        }
        steps
    }

    /// The machine that has waited for the other to write. The outbox goes first: with an answer it writes the record too.
    fn next_writer(&self) -> Option<Event<S>> {
        match (self.own.writer(), &self.own.session) {
            (None, Some(_)) if self.outbox.is_waiting() => Some(Event::Outbox(outbox::Event::MayWrite)),
            (None, Some(_)) if self.presence.is_waiting() => Some(Event::Presence(presence::Event::MayWrite)),
            (None | Some(Writer::Outbox | Writer::Presence), _) => None,
        }
    }
}
