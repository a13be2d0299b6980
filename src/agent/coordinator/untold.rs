//! What receivers have not been told yet: it stays in Consul until they have, since what is archived is told to nobody.
//!
//! For as long as an event is tried, a day: a receiver that is away for longer holds up nothing.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::daemon::context::Context;
use crate::consul::{Consistency, Error};
use crate::protocol::ids::Epoch;
use crate::protocol::record::{Told, decode};

/// How long a notification is tried before it is given up.
pub(super) const GIVE_UP_AFTER: Duration = Duration::from_hours(24);

/// What one receiver or another has not been told, by the cursors of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Untold {
    told: Vec<Told>,
}

/// Of which kind a record is: each has cursors of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Action,
    Request,
}

impl Untold {
    /// Reads what the receivers of a unit have been told. One that has never been told anything begins with what is to
    /// come.
    pub(super) async fn read(ctx: &Context) -> Result<Self, Error> {
        let mut told = Vec::new();
        for receiver in ctx.notifier.receivers.iter().filter(|it| it.gets_events_of(&ctx.unit) && !it.is_gone()) {
            let key = ctx.at.told(&receiver.name);
            let entry = ctx.consul.kv_get(&key, Consistency::Consistent).await?;
            // One that cannot be read is begun anew, too.
            told.extend(entry.and_then(|entry| decode::<Told>(&key, &entry.value).ok()));
        }
        Ok(Self { told })
    }

    /// Whether somebody is still to be told of a record, which says to be of `at`.
    pub(super) fn holds(&self, kind: Kind, epoch: Epoch, at: Timestamp, now: Timestamp) -> bool {
        let is_owed = |told: &Told| match kind {
            Kind::Action => told.action.is_none_or(|last| epoch > last),
            Kind::Request => told.begun.min(told.ended).is_none_or(|last| epoch > last),
        };
        now.duration_since(at).unsigned_abs() <= GIVE_UP_AFTER && self.told.iter().any(is_owed)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn what_one_receiver_was_not_told_is_held_for_a_day() {
        let epoch = |number| Epoch { era: 0, number };
        let told = |begun, ended, action| Told {
            begun: Some(epoch(begun)),
            ended: Some(epoch(ended)),
            action: Some(epoch(action)),
            ..Told::default()
        };
        let untold = Untold { told: vec![told(9, 9, 9), told(7, 5, 6)] };
        let (at, now) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + SignedDuration::from_hours(23));
        let holds = |kind, number| untold.holds(kind, epoch(number), at, now);
        assert!(!holds(Kind::Request, 5) && holds(Kind::Request, 6) && holds(Kind::Request, 10));
        assert!(!holds(Kind::Action, 6) && holds(Kind::Action, 7));
        let later = now + SignedDuration::from_hours(2);
        assert!(!untold.holds(Kind::Action, epoch(7), at, later), "it is given up by then");
        assert!(!Untold::default().holds(Kind::Action, epoch(7), at, now), "nobody wants to hear");
        let begun = Untold { told: vec![Told::default()] };
        assert!(begun.holds(Kind::Request, epoch(1), at, now), "there was nothing yet when it began");
    }
}
