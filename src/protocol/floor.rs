//! Which records a node may still follow.
//!
//! A node's floor is the newest record that it has written to its disk. Records that are not above it are late; so
//! stale reads, and indexes that go back, delay a node and never mislead it (PROTOCOL.md, A node's floor).

use std::cmp::Ordering;

use super::record::{Barrier, Phase};

/// How a record that was read relates to the record that the node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Admission {
    /// F4. It contradicts the record that the node holds: never followed, always an alarm.
    Contradicts,
    /// F1. Older than the floor, or of a lower rank within its epoch: ignored.
    Late,
    /// F3. Above the floor: written down, then followed.
    New,
    /// F2. The very record that the node holds: work under way goes on.
    Same,
}

/// Position of a phase within its epoch. The records of an epoch only rise in rank.
fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Idle | Phase::Prepare => 0,
        Phase::Commit | Phase::Aborted => 1,
        Phase::Revert | Phase::Done => 2,
        Phase::Reverted => 3,
    }
}

/// Compares `seen` with the record that the node holds; none: the node has never held one.
#[must_use]
pub(crate) fn admit(held: Option<&Barrier>, seen: &Barrier) -> Admission {
    let Some(held) = held else { return Admission::New };
    match (seen.epoch.cmp(&held.epoch), rank(seen.phase).cmp(&rank(held.phase))) {
        (Ordering::Less, _) => Admission::Late,
        (Ordering::Greater, _) => Admission::New,
        (Ordering::Equal, order) => {
            if (&seen.deploy, &seen.from) != (&held.deploy, &held.from) {
                return Admission::Contradicts;
            }
            match (held.phase, order) {
                (_, Ordering::Less) => Admission::Late,
                (_, Ordering::Equal) if seen == held => Admission::Same,
                (_, Ordering::Equal) => Admission::Contradicts,
                // Aborted and done are ends: nothing follows them within their epoch.
                (Phase::Aborted | Phase::Done | Phase::Reverted | Phase::Idle, Ordering::Greater) => {
                    Admission::Contradicts
                }
                (Phase::Prepare | Phase::Commit | Phase::Revert, Ordering::Greater) => Admission::New,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::Epoch;
    use crate::protocol::record::{AbsentNodes, Policy, Release};

    fn record(era: u32, number: u64, phase: Phase) -> Barrier {
        let release = |number| Release {
            epoch: Epoch { era, number },
            artifact: format!("master-{number:08}").parse().unwrap(),
            sha256: "0".repeat(64).parse().unwrap(),
            release: format!("{number:014}").parse().unwrap(),
        };
        let policy = Policy {
            prepare_timeout_secs: 1,
            switch_timeout_secs: 1,
            revert_timeout_secs: 1,
            absence_grace_secs: 1,
            absent_nodes: AbsentNodes::Fail,
            min_nodes: 1,
        };
        Barrier {
            epoch: Epoch { era, number },
            phase: Phase::Prepare,
            deploy: Some((release(number), policy)),
            from: None,
            committed: None,
        }
        .in_phase(phase)
    }

    /// Reference: F1 to F4. Every pair of phases of one epoch, and the epochs around it.
    #[test]
    fn a_record_is_followed_only_when_it_can_succeed_the_one_held() {
        use Phase::{Aborted, Commit, Done, Prepare, Revert, Reverted};
        let allowed = [
            (Prepare, Commit),
            (Prepare, Aborted),
            (Prepare, Revert),
            (Prepare, Done),
            (Prepare, Reverted),
            (Commit, Done),
            (Commit, Revert),
            (Commit, Reverted),
            (Revert, Reverted),
        ];
        let late = [
            (Commit, Prepare),
            (Aborted, Prepare),
            (Revert, Prepare),
            (Done, Prepare),
            (Reverted, Prepare),
            (Revert, Commit),
            (Revert, Aborted),
            (Done, Commit),
            (Done, Aborted),
            (Reverted, Commit),
            (Reverted, Aborted),
            (Reverted, Revert),
            (Reverted, Done),
        ];
        for held in [Prepare, Commit, Aborted, Revert, Done, Reverted] {
            for seen in [Prepare, Commit, Aborted, Revert, Done, Reverted] {
                let expected = if held == seen {
                    Admission::Same
                } else if allowed.contains(&(held, seen)) {
                    Admission::New
                } else if late.contains(&(held, seen)) {
                    Admission::Late
                } else {
                    Admission::Contradicts
                };
                assert_eq!(admit(Some(&record(0, 5, held)), &record(0, 5, seen)), expected, "{held:?} {seen:?}");
                assert_eq!(admit(Some(&record(0, 5, held)), &record(0, 4, seen)), Admission::Late);
                assert_eq!(admit(Some(&record(0, 5, held)), &record(0, 6, seen)), Admission::New);
                assert_eq!(admit(Some(&record(0, 5, held)), &record(1, 0, seen)), Admission::New);
            }
        }
    }

    #[test]
    fn other_bytes_under_the_same_epoch_contradict() {
        let held = record(0, 5, Phase::Prepare);
        let mut other = held.clone();
        if let Some((release, _)) = &mut other.deploy {
            release.sha256 = "1".repeat(64).parse().unwrap();
        }
        assert_eq!(admit(Some(&held), &other), Admission::Contradicts);
    }
}
