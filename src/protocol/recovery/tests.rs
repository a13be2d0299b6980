//! What is wrong with the keys, and what may be begun again, case by case.

use super::*;
use crate::protocol::coordinator::{Coordinator, Decision, Now, Snapshot};
use crate::protocol::record::{AbsentNodes, FORMAT, NodeRecord, Phase, Policy, RecordError};

fn epoch(era: u32, number: u64) -> Epoch {
    Epoch { era, number }
}

fn release(number: u64) -> Release {
    Release {
        epoch: epoch(0, number),
        artifact: format!("master-{number:08}").parse().unwrap(),
        sha256: "0".repeat(64).parse().unwrap(),
        release: format!("{number:014}").parse().unwrap(),
    }
}

fn barrier(number: u64, phase: Phase) -> Barrier {
    let policy = Policy {
        prepare_timeout_secs: 1,
        switch_timeout_secs: 1,
        revert_timeout_secs: 1,
        absence_grace_secs: 1,
        absent_nodes: AbsentNodes::Fail,
        min_nodes: 1,
    };
    let deploy = Some((release(number), policy));
    Barrier { epoch: epoch(0, number), phase: Phase::Prepare, deploy, from: None, committed: None }.in_phase(phase)
}

fn alive(runs: Option<Release>, floor: Option<Epoch>) -> Presence {
    Presence { is_alive: true, ..absent(runs, floor) }
}

fn absent(runs: Option<Release>, floor: Option<Epoch>) -> Presence {
    let record = NodeRecord {
        format: FORMAT,
        node: "web-1".parse().unwrap(),
        consul_node: "web-1".to_owned(),
        version: "0.1.0".to_owned(),
        config_digest: String::new(),
        floor,
        astray: false,
        runs,
        current: None,
        previous: None,
        staged: Vec::new(),
        refused: Vec::new(),
        fetching: None,
        newest_release: None,
        free_bytes: 0,
        alarm: None,
        unremovable: Vec::new(),
        at: Timestamp::UNIX_EPOCH,
    };
    Presence { is_alive: false, record: Some(record) }
}

fn remains(barrier: Option<Result<Barrier, RecordError>>, nodes: Vec<Presence>) -> Remains {
    let name = |at: usize| format!("web-{}", at + 1).parse().unwrap();
    let nodes = nodes.into_iter().enumerate().map(|(at, presence)| (name(at), presence)).collect();
    Remains { barrier, has_members: true, waiting: None, nodes, coordinator: None }
}

fn malformed() -> RecordError {
    RecordError::Malformed { key: "barrier".to_owned(), problem: "rubbish".to_owned() }
}

fn newer(key: &str) -> RecordError {
    RecordError::Newer { key: key.to_owned(), found: 2, readable: FORMAT }
}

fn on(number: u64) -> Presence {
    alive(Some(release(number)), Some(epoch(0, number)))
}

#[test]
fn a_record_that_stands_and_that_everyone_follows_is_no_trouble() {
    let well = remains(Some(Ok(barrier(8, Phase::Done))), vec![on(8), on(8)]);
    assert_eq!(well.damage(), []);
    let new_unit = remains(None, vec![alive(None, None), alive(None, Some(epoch(0, 0)))]);
    assert_eq!(new_unit.damage(), []);
    // A node that is away may have followed anything: it says so when it is back.
    let mut away = on(9);
    away.is_alive = false;
    assert_eq!(remains(Some(Ok(barrier(8, Phase::Done))), vec![on(8), away]).damage(), []);
}

#[test]
fn what_is_gone_unreadable_or_behind_is_trouble() {
    assert_eq!(remains(None, vec![alive(None, Some(epoch(0, 4)))]).damage(), [Damage::Gone]);
    // An agent from before floors says what it runs, and no more.
    assert_eq!(remains(None, vec![alive(Some(release(4)), None)]).damage(), [Damage::Gone]);
    let unreadable = remains(Some(Err(malformed())), vec![on(8)]).damage();
    assert_eq!(unreadable, [Damage::Unreadable { problem: malformed().to_string() }]);
    let behind = remains(Some(Ok(barrier(5, Phase::Done))), vec![on(5), on(8)]).damage();
    let nodes = vec!["web-2".parse().unwrap()];
    assert_eq!(behind, [Damage::Behind { at: epoch(0, 5), nodes: nodes.clone(), floor: epoch(0, 8) }]);
    let unsaid = alive(Some(release(8)), None);
    assert_eq!(
        remains(Some(Ok(barrier(5, Phase::Done))), vec![on(5), unsaid]).damage(),
        behind,
        "it runs what was later"
    );
    let mut astray = on(5);
    if let Some(record) = &mut astray.record {
        record.astray = true;
        record.alarm = Some("it denies".to_owned());
    }
    let denied = remains(Some(Ok(barrier(5, Phase::Done))), vec![on(5), astray]).damage();
    assert_eq!(denied, [Damage::Astray { nodes, reason: "it denies".to_owned() }]);
}

#[test]
fn a_request_below_the_last_epoch_and_lost_members_are_trouble() {
    let mut rebuilt = remains(Some(Ok(barrier(800, Phase::Done))), vec![on(800)]);
    rebuilt.waiting = Some(ModifyIndex(30));
    assert_eq!(rebuilt.damage(), [Damage::Rebuilt { waiting: ModifyIndex(30), at: epoch(0, 800) }]);
    let mut lost = remains(Some(Ok(barrier(8, Phase::Commit))), vec![on(8)]);
    lost.has_members = false;
    assert_eq!(lost.damage(), [Damage::Members { epoch: epoch(0, 8) }]);
    lost.barrier = Some(Ok(barrier(8, Phase::Done)));
    assert_eq!(lost.damage(), []);
}

#[test]
fn a_deploy_is_driven_only_by_one_who_can() {
    let mut running = remains(Some(Ok(barrier(8, Phase::Commit))), vec![on(8), on(9)]);
    assert!(!running.is_driven(), "nobody coordinates");
    running.coordinator = Some("web-1".parse().unwrap());
    assert!(running.is_driven());
    running.coordinator = Some("web-2".parse().unwrap());
    assert!(!running.is_driven(), "the coordinator has followed a later record, and halts");
    running.coordinator = Some("web-1".parse().unwrap());
    running.has_members = false;
    assert!(!running.is_driven(), "without the list nobody can");
}

#[test]
fn what_all_live_nodes_run_is_proposed_and_nothing_else() {
    let new = || alive(None, None);
    let away = |number| Presence { is_alive: false, ..on(number) };
    let of = |nodes| remains(None, nodes).proposal();
    assert_eq!(of(vec![on(8), on(8), new(), away(5)]), Proposal::Release(Box::new(release(8))));
    assert_eq!(of(vec![new(), new()]), Proposal::Nothing);
    assert_eq!(of(vec![on(8), on(5)]), Proposal::Unclear);
    assert_eq!(of(vec![new(), away(5)]), Proposal::Unclear, "what those who are away run may be what is wanted");
    // A rollback: the same tree under a newer epoch.
    let mut again = release(5);
    again.epoch = epoch(0, 9);
    let rolled = alive(Some(again.clone()), None);
    assert_eq!(of(vec![on(5), rolled]), Proposal::Release(Box::new(again)));
    let mixed = remains(None, vec![on(8), on(5), on(5), away(3)]);
    assert_eq!(mixed.choices().iter().map(|c| c.nodes.len()).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(mixed.named("master-00000005").len(), 1);
    assert_eq!(mixed.named(release(3).release.as_str()).len(), 1, "also what only one who is away runs");
    assert!(mixed.named("master").is_empty());
}

#[test]
fn eras_are_found_in_what_no_record_can_be_read_from() {
    for (value, era) in [
        (&br#"{"format":1,"era":3,"epoch":9,"from":{"era": 2}}"#[..], Some(3)),
        (br#"{"era" : 7, cut o"#, Some(7)),
        (b"\xff\xfe{\"era\":12", Some(12)),
        (br#"{"era":-1}"#, None),
        (br#"{"era":99999999999}"#, None),
        (b"rubbish", None),
        (b"", None),
    ] {
        assert_eq!(era_in_value(value), era, "{:?}", String::from_utf8_lossy(value));
    }
    assert_eq!(["512", "2.7", "x"].map(era_in_name), [Some(0), Some(2), None]);
}

/// Reference: Fail static. There is nothing to recover, whatever the nodes say: the record is fine.
#[test]
fn a_newer_record_is_no_trouble_of_the_keys() {
    assert_eq!(remains(Some(Err(newer("barrier"))), vec![on(8)]).damage(), []);
}

/// Reference: Fail static. Without barrier or keys a coordinator would begin a new unit.
#[test]
fn a_coordinator_that_meets_a_newer_record_stands_down_and_writes_nothing() {
    let policy = barrier(1, Phase::Prepare).policy().unwrap().clone();
    let now = Now { monotonic: std::time::Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    for key in ["barrier", "members/8", "acks/web-1", "nodes/web-1", "history/8", "status", "deploy", "freeze"] {
        let unit = "shop/production".parse().unwrap();
        let mut coordinator = Coordinator::new("web-9".parse().unwrap(), unit, policy.clone());
        let view = Snapshot { newer: Some(newer(key)), ..Snapshot::default() };
        assert_eq!(coordinator.decide(now, &view), Decision::StandDown { record: newer(key) });
        let readable = Snapshot::default();
        assert!(matches!(coordinator.decide(now, &readable), Decision::Write(_)), "it goes on when {key} is gone");
    }
}

/// Reference: C0.
#[test]
fn no_keys_are_made_where_another_node_has_followed_a_record() {
    let policy = barrier(1, Phase::Prepare).policy().unwrap().clone();
    let decide = |presence: Presence| {
        let unit = "shop/production".parse().unwrap();
        let mut coordinator = Coordinator::new("web-9".parse().unwrap(), unit, policy.clone());
        let nodes = BTreeMap::from([("web-1".parse().unwrap(), presence)]);
        let now = Now { monotonic: std::time::Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
        coordinator.decide(now, &Snapshot { nodes, ..Snapshot::default() })
    };
    for new in [alive(None, None), alive(None, Some(epoch(0, 0)))] {
        assert!(matches!(decide(new), Decision::Write(_)));
    }
    for known in [alive(Some(release(4)), None), absent(None, Some(epoch(0, 4)))] {
        let Decision::Halt { reason } = decide(known) else { panic!("keys are made anew") };
        assert!(reason.contains("cutover recover shop/production"), "{reason}");
    }
}
