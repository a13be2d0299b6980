//! Builds that a group needs are never removed, whatever the keys of the app contain.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::protocol::ids::{Branch, Epoch, Node, Unit};
use crate::protocol::record::{AbsentNodes, FORMAT, Phase, Place, Policy, Release};
use crate::protocol::transition::Taken;

const BUILDS: u32 = 24;

fn name(n: u32) -> ArtifactName {
    format!("b{}-{n:08x}", n % 3).parse().unwrap()
}

fn build(n: u32, second: i64) -> Build {
    let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
    Build { at, ..Build::sample(name(n).as_str()) }
}

fn release(n: u32) -> Release {
    Release {
        epoch: Epoch { era: 0, number: u64::from(n) + 1 },
        artifact: name(n),
        sha256: "0".repeat(64).parse().unwrap(),
        release: release_name(n),
    }
}

fn release_name(n: u32) -> ReleaseName {
    format!("2026112309{n:04}").parse().unwrap()
}

fn policy() -> Policy {
    Policy {
        prepare_timeout_secs: 1,
        switch_timeout_secs: 1,
        revert_timeout_secs: 1,
        absence_grace_secs: 1,
        absent_nodes: AbsentNodes::Fail,
        min_nodes: 1,
    }
}

fn history(n: u32, outcome: Option<Outcome>, from: Option<u32>) -> History {
    let unit: Unit = "shop/production".parse().unwrap();
    let node: Node = "web-1".parse().unwrap();
    let epoch = Epoch { era: 0, number: u64::from(n) + 1 };
    let at = Timestamp::UNIX_EPOCH;
    let mut history = Taken { unit: &unit, coordinator: &node, epoch, raw: b"", request: None, at }.history();
    history.outcome = outcome;
    history.artifact = Some(name(n));
    history.release = Some(release_name(n));
    history.from = from.map(release);
    history
}

fn node(runs: Option<u32>, previous: Option<u32>, staged: Vec<u32>) -> NodeRecord {
    NodeRecord {
        format: FORMAT,
        node: "web-1".parse().unwrap(),
        consul_node: "web-1".to_owned(),
        version: "0.1.0".to_owned(),
        config_digest: "a".to_owned(),
        floor: None,
        astray: false,
        runs: runs.map(release),
        current: None,
        previous: previous.map(release_name),
        staged: staged.into_iter().map(name).collect(),
        refused: Vec::new(),
        fetching: None,
        newest_release: None,
        free_bytes: 1,
        alarm: None,
        unremovable: Vec::new(),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn any_build() -> impl Strategy<Value = u32> {
    0..BUILDS
}

fn any_request() -> impl Strategy<Value = Option<Request>> {
    let text = any_build().prop_flat_map(|n| {
        prop_oneof![
            Just(name(n).to_string()),
            Just(format!("artifact:{}", name(n))),
            Just(format!("commit:{n:08x}")),
            Just(format!("branch:b{}", n % 3)),
            Just(format!(r#"{{"rollback":true,"ref":"{}"}}"#, name(n))),
            Just(r#"{"rollback":true}"#.to_owned()),
        ]
    });
    prop::option::of(text.prop_map(|text| Request::parse(text.as_bytes()).unwrap()))
}

fn any_barrier() -> impl Strategy<Value = Option<Barrier>> {
    let phase = prop_oneof![Just(Phase::Prepare), Just(Phase::Commit), Just(Phase::Revert), Just(Phase::Done)];
    prop::option::of((any_build(), prop::option::of(any_build()), phase).prop_map(|(target, from, phase)| {
        let (target, from) = (release(target), from.map(release));
        let (epoch, deploy) = (target.epoch, Some((target, policy())));
        Barrier { epoch, phase: Phase::Prepare, deploy, from: from.clone(), committed: from }.in_phase(phase)
    }))
}

fn any_outcome() -> impl Strategy<Value = Option<Outcome>> {
    prop::option::of(prop_oneof![Just(Outcome::Done), Just(Outcome::Aborted), Just(Outcome::Reverted)])
}

fn any_group() -> impl Strategy<Value = Group> {
    let nodes = prop::collection::vec(
        (prop::option::of(any_build()), prop::option::of(any_build()), prop::collection::vec(any_build(), 0..3))
            .prop_map(|(runs, previous, staged)| node(runs, previous, staged)),
        0..3,
    );
    let past = prop::collection::vec(
        (any_build(), any_outcome(), prop::option::of(any_build())).prop_map(|(n, end, from)| history(n, end, from)),
        0..6,
    );
    (any_barrier(), any_request(), nodes, past).prop_map(|(barrier, request, nodes, history)| Group {
        barrier,
        request,
        nodes,
        history,
    })
}

proptest! {
    #[test]
    fn builds_that_a_group_needs_are_never_removed(
        times in prop::collection::vec(0_i64..50, BUILDS as usize),
        groups in prop::collection::vec(any_group(), 0..4),
        keep in 1_usize..10,
    ) {
        let builds: Vec<Build> = (0..BUILDS).zip(&times).map(|(n, at)| build(n, *at)).collect();
        let mut latest = Latest::default();
        for build in &builds {
            latest.push(build);
        }
        let goes: BTreeSet<ArtifactName> =
            surplus(&builds, &latest, &groups, keep).into_iter().map(|build| build.artifact.clone()).collect();
        let stays = |artifact: &ArtifactName| !goes.contains(artifact);
        for group in &groups {
            if let Some(barrier) = &group.barrier {
                let named = [barrier.target(), barrier.from.as_ref(), barrier.committed.as_ref()];
                prop_assert!(named.into_iter().flatten().all(|release| stays(&release.artifact)));
            }
            for node in &group.nodes {
                prop_assert!(node.runs.iter().all(|release| stays(&release.artifact)));
                prop_assert!(node.staged.iter().all(stays));
            }
            for record in &group.history {
                let artifact = record.artifact.as_ref().unwrap();
                let is_previous = group.nodes.iter().any(|node| node.previous == record.release);
                prop_assert!(record.outcome != Some(Outcome::Done) && !is_previous || stays(artifact));
            }
            match group.request.as_ref().map(|request| &request.wanted) {
                Some(Wanted::Deploy(Selector::Artifact(artifact)) | Wanted::Rollback(Some(artifact))) => {
                    prop_assert!(stays(artifact));
                }
                Some(Wanted::Deploy(Selector::Any(text))) => prop_assert!(goes.iter().all(|gone| gone.as_str() != text)),
                Some(Wanted::Deploy(Selector::Commit(prefix))) => {
                    prop_assert!(builds.iter().all(|b| !b.commit.as_str().starts_with(prefix.as_str()) || stays(&b.artifact)));
                }
                Some(Wanted::Deploy(Selector::Branch(_) | Selector::Tag(_)) | Wanted::Rollback(None)) | None => {}
            }
        }
        // The newest build of each branch, the newest builds of all, and those in `latest`.
        let mut newest: BTreeMap<&Branch, &Build> = BTreeMap::new();
        for build in &builds {
            let best = newest.entry(&build.branch).or_insert(build);
            if (build.at, &build.artifact) > (best.at, &best.artifact) {
                *best = build;
            }
        }
        prop_assert!(newest.values().all(|build| stays(&build.artifact)));
        prop_assert!(latest.builds.iter().take(keep).all(|build| stays(&build.artifact)));
        prop_assert!(builds.len() - goes.len() >= keep.min(builds.len()));
        // Builds that no group needs are removed.
        if groups.is_empty() {
            prop_assert!(builds.len() - goes.len() <= 2 * keep + 2 * newest.len());
        }
    }
}

#[test]
fn the_newest_three_of_ten_builds_are_kept_and_the_oldest_is_removed_first() {
    let builds: Vec<Build> =
        (0..10).map(|n| Build { branch: "master".parse().unwrap(), ..build(n, i64::from(n)) }).collect();
    let mut latest = Latest::default();
    for build in &builds {
        latest.push(build);
    }
    let group = Group { history: vec![history(2, Some(Outcome::Done), None)], ..Group::default() };
    let goes: Vec<_> = surplus(&builds, &latest, &[group], 3).into_iter().map(|build| build.artifact.clone()).collect();
    assert_eq!(goes, [0, 1, 3, 4, 5, 6].map(name));
}

#[test]
fn builds_of_pull_requests_displace_no_others_and_are_no_newest_of_their_branch() {
    let of_master = |n: u32| Build { branch: "master".parse().unwrap(), ..build(n, i64::from(n)) };
    let of_fork = |n: u32| Build { pull_request: Some("7".to_owned()), ..of_master(n) };
    let builds: Vec<Build> = (0..3).map(of_master).chain((3..6).map(of_fork)).collect();
    let goes = |keep| -> Vec<_> {
        surplus(&builds, &Latest::default(), &[], keep).into_iter().map(|build| build.artifact.clone()).collect()
    };
    assert_eq!(goes(2), [0, 3].map(name));
    assert_eq!(goes(0), [0, 1, 3, 4, 5].map(name), "the newest of master is kept");
}

#[test]
fn the_newest_build_of_a_branch_is_kept_although_an_older_commit_was_published_later() {
    let of_master = |n: u32, contains: &[u32]| {
        let ancestors = contains.iter().map(|n| Place::digits(&build(*n, 0).commit).to_owned()).collect();
        let place = Place { order: None, ancestors };
        Build { branch: "master".parse().unwrap(), place, ..build(n, i64::from(n)) }
    };
    let builds = [of_master(1, &[2]), of_master(2, &[])];
    let goes: Vec<_> = surplus(&builds, &Latest::default(), &[], 0).into_iter().map(|b| b.artifact.clone()).collect();
    assert_eq!(goes, [name(2)]);
}
