//! Cases of the machines that the simulator meets only rarely.

use std::time::Duration;

use super::outbox::{Acknowledgement, Delivery, Outcome};
use super::publisher::{Event, Publisher, Step};
use super::{Found, Key, Moment, Op, follow, outbox, presence};
use crate::protocol::ids::{Epoch, ModifyIndex};
use crate::protocol::participant::Event as Told;
use crate::protocol::record::{Ack, Answer, Barrier, FORMAT, Fetching, NodeRecord, Timings, encode};

const fn moment(ms: u64) -> Moment {
    Moment { since_start: Duration::from_millis(ms), chance: 0.0 }
}

fn record(alarm: Option<&str>) -> NodeRecord {
    NodeRecord {
        format: FORMAT,
        node: "n1".parse().unwrap(),
        consul_node: "n1".to_owned(),
        version: "1".to_owned(),
        config_digest: String::new(),
        floor: None,
        astray: false,
        runs: None,
        current: None,
        previous: None,
        staged: Vec::new(),
        refused: Vec::new(),
        fetching: None,
        newest_release: None,
        free_bytes: 0,
        alarm: alarm.map(str::to_owned),
        unremovable: Vec::new(),
        at: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn answer(epoch: u64, answer: Answer, alarm: Option<&str>) -> Event<u32> {
    let given = Acknowledgement::in_test(ModifyIndex(7), Epoch { era: 0, number: epoch }, answer);
    let delivery = Delivery::new(given, Timings::default(), jiff::Timestamp::UNIX_EPOCH, record(alarm));
    Event::Outbox(outbox::Event::Deliver(Box::new(delivery)))
}

const fn outbox(event: outbox::Event<u32>) -> Event<u32> {
    Event::Outbox(event)
}

const fn presence(event: presence::Event<u32>) -> Event<u32> {
    Event::Presence(event)
}

fn changed(alarm: Option<&str>) -> Event<u32> {
    presence(presence::Event::Record(Box::new(record(alarm))))
}

/// A publisher whose record stands in Consul, held by session 1.
fn publisher() -> Publisher<u32> {
    let mut publisher = Publisher::new("n1".to_owned(), Some(1), moment(0));
    for event in [changed(None), presence(presence::Event::Waited)] {
        publisher.on(moment(0), event);
    }
    let steps = publisher.on(moment(1), presence(presence::Event::Waited));
    assert!(steps.is_empty(), "it renews: {steps:?}");
    let steps = publisher.on(moment(2), presence(presence::Event::Done));
    assert!(steps.iter().any(|step| written(step).is_some()), "{steps:?}");
    publisher.on(moment(3), presence(presence::Event::Applied));
    publisher
}

/// What a step writes into the node's record.
fn written(step: &Step<u32>) -> Option<&String> {
    let (Step::Outbox(outbox::Step::Write(ops)) | Step::Presence(presence::Step::Write(ops))) = step else {
        return None;
    };
    ops.iter().find_map(|op| match op {
        Op::Lock { key: Key::Node, value, .. } | Op::Set { key: Key::Node, value } => Some(value),
        Op::Cas { .. } | Op::CheckIndex { .. } | Op::CheckHolder { .. } | Op::Lock { .. } | Op::Set { .. } => None,
    })
}

#[test]
fn an_answer_is_written_together_with_the_record_and_presence_writes_nothing() {
    let mut publisher = publisher();
    publisher.on(moment(10), changed(Some("full")));
    publisher.on(moment(11), answer(7, Answer::Prepared, Some("full")));
    // The gathering ends before the former answer is read.
    let steps = publisher.on(moment(60), presence(presence::Event::Waited));
    assert!(steps.iter().all(|step| written(step).is_none()), "{steps:?}");
    let steps = publisher.on(moment(70), outbox(outbox::Event::Read(None)));
    assert_eq!(steps.iter().filter_map(written).count(), 1, "{steps:?}");
    let steps = publisher.on(moment(80), outbox(outbox::Event::Applied(ModifyIndex(9))));
    assert!(steps.iter().all(|step| written(step).is_none()), "{steps:?}");
    assert!(matches!(steps[0], Step::Outbox(outbox::Step::Ended(Outcome::Delivered, _))), "{steps:?}");
}

#[test]
fn an_answer_takes_the_download_out_of_the_record_and_nothing_is_written_after_it() {
    let mut publisher = publisher();
    let fetching = Fetching { artifact: "a-00000001".parse().unwrap(), received_bytes: 1, packed_bytes: 2 };
    let downloading = NodeRecord { fetching: Some(fetching), ..record(None) };
    publisher.on(moment(10), presence(presence::Event::Record(Box::new(downloading))));
    let steps = publisher.on(moment(60), presence(presence::Event::Waited));
    let told: Vec<_> = steps.iter().filter_map(written).collect();
    assert!(told.len() == 1 && told[0].contains("fetching"), "{steps:?}");
    publisher.on(moment(61), presence(presence::Event::Applied));
    publisher.on(moment(70), answer(7, Answer::Prepared, None));
    let steps = publisher.on(moment(71), outbox(outbox::Event::Read(None)));
    let answered: Vec<_> = steps.iter().filter_map(written).collect();
    assert!(answered.len() == 1 && !answered[0].contains("fetching"), "{steps:?}");
    let mut steps = publisher.on(moment(72), outbox(outbox::Event::Applied(ModifyIndex(9))));
    // The owner reports the record after the answer.
    steps.extend(publisher.on(moment(73), changed(None)));
    steps.extend(publisher.on(moment(123), presence(presence::Event::Waited)));
    assert!(steps.iter().all(|step| written(step).is_none()), "{steps:?}");
}

#[test]
fn a_renewal_just_before_an_answer_costs_no_write_of_the_record() {
    let mut publisher = publisher();
    publisher.on(moment(3_000), presence(presence::Event::Waited));
    publisher.on(moment(3_001), changed(Some("full")));
    let mut steps = publisher.on(moment(3_002), presence(presence::Event::Done));
    steps.extend(publisher.on(moment(3_003), answer(7, Answer::Prepared, Some("full"))));
    steps.extend(publisher.on(moment(3_004), outbox(outbox::Event::Read(None))));
    steps.extend(publisher.on(moment(3_005), outbox(outbox::Event::Applied(ModifyIndex(9)))));
    steps.extend(publisher.on(moment(3_052), presence(presence::Event::Waited)));
    assert_eq!(steps.iter().filter_map(written).count(), 1, "{steps:?}");
}

#[test]
fn a_record_that_changed_during_a_renewal_is_written_after_the_time_of_gathering() {
    let mut publisher = publisher();
    publisher.on(moment(3_000), presence(presence::Event::Waited));
    publisher.on(moment(3_001), changed(Some("full")));
    let steps = publisher.on(moment(3_002), presence(presence::Event::Done));
    assert!(steps.iter().all(|step| written(step).is_none()), "{steps:?}");
    let steps = publisher.on(moment(3_052), presence(presence::Event::Waited));
    assert_eq!(steps.iter().filter_map(written).count(), 1, "{steps:?}");
}

#[test]
fn the_session_is_renewed_while_an_answer_waits_for_consul() {
    let mut publisher = publisher();
    publisher.on(moment(10), answer(7, Answer::Prepared, None));
    publisher.on(moment(11), changed(Some("full")));
    publisher.on(moment(61), presence(presence::Event::Waited));
    let steps = publisher.on(moment(3_000), presence(presence::Event::Waited));
    assert_eq!(steps, [Step::Presence(presence::Step::Renew(1))]);
}

#[test]
fn a_promise_of_a_former_life_is_not_taken_back() {
    let mut publisher = publisher();
    publisher.on(moment(10), answer(7, Answer::Refused, None));
    let former = Ack {
        format: FORMAT,
        epoch: Epoch { era: 0, number: 7 },
        answer: Answer::Prepared,
        fault: None,
        took: Timings::default(),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    let found =
        Found { key: "acks/n1".to_owned(), index: ModifyIndex(8), value: encode(&former).into_bytes(), holder: None };
    let steps = publisher.on(moment(11), outbox(outbox::Event::Read(Some(found))));
    assert!(matches!(steps[..], [.., Step::Outbox(outbox::Step::Ended(Outcome::PromiseKept, _))]), "{steps:?}");
}

#[test]
fn a_refused_answer_without_a_session_begins_another_and_is_written_then() {
    let mut publisher = publisher();
    publisher.on(moment(10), answer(7, Answer::Prepared, None));
    publisher.on(moment(11), outbox(outbox::Event::Read(None)));
    publisher.on(moment(12), outbox(outbox::Event::Refused(vec![0])));
    let barrier = Found { key: "barrier".to_owned(), index: ModifyIndex(7), value: Vec::new(), holder: None };
    let steps = publisher.on(moment(13), outbox(outbox::Event::Read(Some(barrier))));
    assert!(steps.contains(&Step::Session(None)), "{steps:?}");
    publisher.on(moment(63), presence(presence::Event::Waited));
    publisher.on(moment(64), presence(presence::Event::Gone));
    publisher.on(moment(65), presence(presence::Event::Read(None)));
    let steps = publisher.on(moment(66), presence(presence::Event::Created(2)));
    assert!(steps.contains(&Step::Session(Some(2))), "{steps:?}");
    assert_eq!(steps.iter().filter_map(written).count(), 1, "the new session takes the record: {steps:?}");
}

/// A follower of a new node that was told this, and its last steps.
fn follower(events: impl IntoIterator<Item = follow::Event>) -> (follow::Follower, Vec<follow::Step>) {
    let mut follower = follow::Follower::new("n1".parse().unwrap(), "barrier".to_owned(), None);
    let mut steps = follower.begin();
    for event in events {
        steps = follower.on(moment(0), event);
    }
    (follower, steps)
}

/// Found by the simulator (seed 6404): the watch of a server that lags shows that there is no barrier, a consistent read
/// shows one, and then the keys are deleted. The watch shows no change then.
#[test]
fn a_barrier_that_is_deleted_before_the_watch_shows_it_is_reported_as_gone() {
    let barrier = encode(&Barrier::idle(1, None)).into_bytes();
    let stands = || Some(follow::BarrierRead { index: ModifyIndex(7), value: barrier.clone() });
    let first = follow::FirstRead { barrier: stands(), ..follow::FirstRead::default() };
    let (mut follower, steps) = follower([
        follow::Event::First(Box::new(first)),
        follow::Event::Watched(None),
        follow::Event::Waited,
        follow::Event::Read(stands()),
    ]);
    assert!(steps.iter().any(|step| matches!(step, follow::Step::Wait(_))), "it is read again: {steps:?}");
    follower.on(moment(1_000), follow::Event::Waited);
    let steps = follower.on(moment(1_001), follow::Event::Read(None));
    let is_gone = |step: &follow::Step| matches!(step, follow::Step::Tell(Told::Unreadable { reason }) if reason.contains("is gone"));
    assert!(steps.iter().any(is_gone), "{steps:?}");
    // Watch and read agree by now: nothing is read again.
    assert!(!steps.iter().any(|step| matches!(step, follow::Step::Wait(_))), "{steps:?}");
}
