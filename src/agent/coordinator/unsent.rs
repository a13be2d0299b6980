//! Records whose notifications were not sent to every receiver yet. They stay in Consul, because no notification is sent
//! for an archived record.
//!
//! They stay for [`GIVE_UP_AFTER`] at most, so a receiver that is unreachable for longer does not delay archiving.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::daemon::context::Context;
use crate::consul::{Consistency, Error};
use crate::protocol::ids::Epoch;
use crate::protocol::record::{ReceiverCursor, decode};

/// How long sending a notification is retried, measured from its event.
pub(super) const GIVE_UP_AFTER: Duration = Duration::from_hours(24);

/// The cursors of all receivers of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    cursors: Vec<ReceiverCursor>,
}

/// The kind of a record. A cursor has a position for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Action,
    Request,
}

impl Unsent {
    /// Reads the cursors of the unit's receivers. A receiver without a cursor gets only future events, so it holds nothing.
    pub(super) async fn read(ctx: &Context) -> Result<Self, Error> {
        let mut cursors = Vec::new();
        for receiver in ctx.agent.notifier.receivers.iter().filter(|it| it.gets_events_of(&ctx.unit) && !it.is_gone()) {
            let key = ctx.at.told(&receiver.name);
            let entry = ctx.agent.consul.kv_get(&key, Consistency::Consistent).await?;
            // A damaged cursor will be replaced by a new one, so it holds nothing either.
            cursors.extend(entry.and_then(|entry| decode::<ReceiverCursor>(&key, &entry.value).ok()));
        }
        Ok(Self { cursors })
    }

    /// Whether a receiver still waits for the notification about this record, which is from `at`.
    pub(super) fn holds(&self, kind: Kind, epoch: Epoch, at: Timestamp, now: Timestamp) -> bool {
        let is_unsent = |cursor: &ReceiverCursor| match kind {
            Kind::Action => cursor.action.is_none_or(|last| epoch > last),
            Kind::Request => cursor.begun.min(cursor.ended).is_none_or(|last| epoch > last),
        };
        now.duration_since(at).unsigned_abs() <= GIVE_UP_AFTER && self.cursors.iter().any(is_unsent)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_record_with_unsent_notifications_is_held_for_a_day() {
        let epoch = |number| Epoch { era: 0, number };
        let cursor = |begun, ended, action| ReceiverCursor {
            begun: Some(epoch(begun)),
            ended: Some(epoch(ended)),
            action: Some(epoch(action)),
            ..ReceiverCursor::default()
        };
        let unsent = Unsent { cursors: vec![cursor(9, 9, 9), cursor(7, 5, 6)] };
        let (at, now) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + SignedDuration::from_hours(23));
        let holds = |kind, number| unsent.holds(kind, epoch(number), at, now);
        assert!(!holds(Kind::Request, 5) && holds(Kind::Request, 6) && holds(Kind::Request, 10));
        assert!(!holds(Kind::Action, 6) && holds(Kind::Action, 7));
        let later = now + SignedDuration::from_hours(2);
        assert!(!unsent.holds(Kind::Action, epoch(7), at, later), "sending was given up by then");
        assert!(!Unsent::default().holds(Kind::Action, epoch(7), at, now), "there is no receiver");
        let begun = Unsent { cursors: vec![ReceiverCursor::default()] };
        assert!(
            begun.holds(Kind::Request, epoch(1), at, now),
            "the receiver's cursor was created before the first record"
        );
    }
}
