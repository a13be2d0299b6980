//! Documents, built from keys in KV.

mod told;

use super::builds::Prefetched;
use super::*;
use crate::protocol::ids::{ArtifactName, Epoch, Group, Node};
use crate::protocol::keys::{Keys, UnitKeys};
use crate::protocol::record::{
    AbsentNodes, Ack, Answer, Author, BadMark, Barrier, Build, FORMAT, Fault, History, NodeOutcome, NodeRecord,
    Outcome, Phase, Policy, Release, Run, RunState, Step, Summary, Timings, encode,
};

fn unit() -> Unit {
    "shop/production".parse().unwrap()
}

fn keys() -> UnitKeys {
    Keys::default().unit(&unit())
}

fn now() -> jiff::Timestamp {
    "2026-11-23T09:15:00Z".parse().unwrap()
}

fn node(name: &str) -> Node {
    name.parse().unwrap()
}

fn release(number: u64, artifact: &str) -> Release {
    Release {
        epoch: Epoch { era: 0, number },
        artifact: artifact.parse().unwrap(),
        sha256: "0".repeat(64).parse().unwrap(),
        release: format!("2026112309{number:04}").parse().unwrap(),
    }
}

fn barrier(number: u64, artifact: &str) -> Barrier {
    let policy = Policy {
        prepare_timeout_secs: 600,
        switch_timeout_secs: 120,
        revert_timeout_secs: 30,
        absence_grace_secs: 15,
        absent_nodes: AbsentNodes::Fail,
        min_nodes: 1,
    };
    let from = Some(release(number - 10, "master-00000001"));
    Barrier {
        epoch: Epoch { era: 0, number },
        phase: Phase::Prepare,
        deploy: Some((release(number, artifact), policy)),
        from: from.clone(),
        committed: from,
    }
}

fn node_record(name: &str, runs: &Release, digest: &str) -> NodeRecord {
    NodeRecord {
        format: FORMAT,
        node: node(name),
        consul_node: name.to_owned(),
        version: "0.1.0".to_owned(),
        config_digest: digest.to_owned(),
        floor: None,
        astray: false,
        runs: Some(runs.clone()),
        current: Some(runs.release.to_string()),
        previous: None,
        staged: vec!["master-00000002".parse().unwrap()],
        refused: Vec::new(),
        fetching: None,
        newest_release: None,
        free_bytes: 1,
        alarm: None,
        unremovable: Vec::new(),
        at: now(),
    }
}

fn put(entries: &mut Entries, key: &str, value: &str, session: Option<&str>) {
    let entry = Entry {
        value: value.as_bytes().to_vec(),
        modify_index: ModifyIndex(entries.len() as u64 + 1),
        session: session.map(str::to_owned),
    };
    entries.insert(key.to_owned(), entry);
}

/// Three registered nodes, one of them absent, in the middle of a prepare that web-2 refuses.
fn fleet() -> Entries {
    let mut entries = Entries::new();
    let old = release(90, "master-00000001");
    put(&mut entries, &keys().barrier(), &encode(&barrier(100, "master-00000002")), None);
    put(&mut entries, &keys().coordinator(), "web-1", Some("s-1"));
    put(&mut entries, &keys().deploy(), "", None);
    put(&mut entries, &keys().freeze(), "", None);
    let members = vec![node("web-1"), node("web-2"), node("web-4")];
    put(&mut entries, &keys().members(Epoch { era: 0, number: 100 }), &encode(&members), None);
    for (name, session, digest) in [("web-1", Some("s-1"), "a"), ("web-2", Some("s-2"), "a"), ("web-3", None, "b")] {
        put(&mut entries, &keys().node(&node(name)), &encode(&node_record(name, &old, digest)), session);
    }
    let ack = |number, answer, fault| Ack {
        format: FORMAT,
        epoch: Epoch { era: 0, number },
        answer,
        fault,
        took: Timings::default(),
        at: now(),
    };
    let no = Fault::new(Step::Fetch, "no space left");
    put(&mut entries, &keys().ack(&node("web-1")), &encode(&ack(90, Answer::Switched, None)), None);
    put(&mut entries, &keys().ack(&node("web-2")), &encode(&ack(100, Answer::Refused, Some(no))), None);
    entries
}

#[test]
fn status_shows_every_node_and_only_answers_to_the_deploy_that_runs() {
    let document = StatusDocument::build(&unit(), &keys(), &fleet(), now());
    let states: Vec<_> = document.nodes.iter().map(|n| (n.node.as_str(), n.state, n.member)).collect();
    assert_eq!(
        states,
        [
            ("web-1", Presence::Alive, true),
            ("web-2", Presence::Alive, true),
            ("web-3", Presence::Absent, false),
            // The node's key is gone, but the node is a member of the deploy.
            ("web-4", Presence::Absent, true),
        ]
    );
    let answers: Vec<_> = document.nodes.iter().map(|n| n.answer.as_ref().map(|a| a.answer)).collect();
    assert_eq!(answers, [None, Some(Answer::Refused), None, None]);
    assert_eq!(document.coordinator.as_deref(), Some("web-1"));
    assert_eq!(document.running.unwrap().artifact.as_str(), "master-00000002");
    assert_eq!(document.current.unwrap().artifact.as_str(), "master-00000001");
    assert_eq!((document.waiting, document.freeze), (None, None));
}

#[test]
fn a_free_lock_means_no_coordinator() {
    let mut entries = fleet();
    put(&mut entries, &keys().coordinator(), "web-1", None);
    assert_eq!(StatusDocument::build(&unit(), &keys(), &entries, now()).coordinator, None);
}

#[test]
fn a_node_that_still_switches_has_not_drifted() {
    let mut entries = fleet();
    let mut moved = node_record("web-1", &release(90, "master-00000001"), "a");
    moved.current = Some("/srv/elsewhere".to_owned());
    put(&mut entries, &keys().node(&node("web-1")), &encode(&moved), Some("s-1"));
    let behind = node_record("web-2", &release(80, "master-00000000"), "a");
    put(&mut entries, &keys().node(&node("web-2")), &encode(&behind), Some("s-2"));
    let drift = |entries: &Entries| -> Vec<Vec<Drift>> {
        StatusDocument::build(&unit(), &keys(), entries, now()).nodes.into_iter().map(|n| n.drift).collect()
    };
    assert_eq!(drift(&entries), [vec![Drift::Current], vec![Drift::Release], vec![Drift::Config], vec![]]);

    let commit = barrier(100, "master-00000002").in_phase(Phase::Commit);
    put(&mut entries, &keys().barrier(), &encode(&commit), None);
    assert_eq!(drift(&entries), [vec![Drift::Current], vec![], vec![Drift::Config], vec![]]);
}

#[test]
fn an_unreadable_record_is_listed_and_hides_no_other() {
    let mut entries = fleet();
    put(&mut entries, &keys().barrier(), "{oops", None);
    put(&mut entries, &keys().node(&node("web-2")), "null", Some("s-2"));
    let document = StatusDocument::build(&unit(), &keys(), &entries, now());
    let named: Vec<&str> = document.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(named, ["cutover/shop/production/barrier", "cutover/shop/production/nodes/web-2"]);
    assert_eq!(document.nodes.len(), 3);
}

#[test]
fn a_waiting_request_shows_its_target() {
    for (raw, wants, by) in [
        ("master\n", "master", "unattributed"),
        (r#"{"rollback":true,"by":"ann"}"#, "rollback", "ann"),
        ("a b", "an unreadable request", "unattributed"),
    ] {
        let mut entries = fleet();
        put(&mut entries, &keys().deploy(), raw, None);
        let waiting = StatusDocument::build(&unit(), &keys(), &entries, now()).waiting.unwrap();
        assert_eq!((waiting.wants.as_str(), waiting.by.as_str()), (wants, by));
    }
}

fn history(number: u64, outcome: Option<Outcome>) -> History {
    let at: jiff::Timestamp = now();
    History {
        format: FORMAT,
        epoch: Epoch { era: 0, number },
        unit: unit(),
        request: "master".to_owned(),
        author: Author { by: "ann".to_owned(), via: "cli".to_owned(), reason: String::new(), id: String::new() },
        verified: None,
        rollback: false,
        notes: Vec::new(),
        artifact: Some("master-00000002".parse().unwrap()),
        branch: None,
        commit: None,
        summary: Summary::default(),
        release: None,
        from: None,
        changes: None,
        outcome,
        node: Some(node("web-2")),
        fault: Some(Fault::new(Step::CheckHook, "exit status 1")),
        nodes: BTreeMap::from([(node("web-2"), NodeOutcome { answer: None, fault: None, took: Timings::default() })]),
        left_out: Vec::new(),
        coordinator: node("web-1"),
        started_at: at,
        committed_at: None,
        reverted_at: None,
        ended_at: outcome.map(|_| at + jiff::SignedDuration::from_millis(1500)),
    }
}

#[test]
fn history_is_newest_first_by_number_and_not_by_text() {
    let mut entries = Entries::new();
    for number in [9, 100, 20] {
        let record = history(number, Some(Outcome::Done));
        put(&mut entries, &keys().history(record.epoch), &encode(&record), None);
    }
    let document = FullHistory::read(&keys(), &entries).document(&unit(), &Selection::default(), 2);
    let shown: Vec<_> = document.requests.iter().map(|r| (r.record.epoch.number, r.took_ms)).collect();
    assert_eq!(shown, [(100, Some(1500)), (20, Some(1500))]);
}

#[test]
fn the_headline_names_node_step_and_reason() {
    let document = DeployDocument::of(history(100, Some(Outcome::Reverted)), 9);
    assert_eq!(document.headline, "reverted: master-00000002 on shop/production: check hook on web-2: exit status 1");
}

#[test]
fn a_running_deploy_shows_its_phase_its_answers_and_the_awaited_nodes() {
    let mut entries = fleet();
    let running = || History { node: None, fault: None, ..history(100, None) };
    let told = |record: History, entries: &Entries| DeployDocument::from_keys(record, 5, &keys(), entries);
    let document = told(running(), &entries);
    assert_eq!((document.fate, document.phase), (DeployState::Running, Some(Phase::Prepare)));
    assert_eq!(
        document.headline,
        "running: master-00000002 on shop/production: 0 of 3 nodes prepared, waiting for web-1, web-4"
    );
    // A node that refused is not awaited, and an answer to another epoch does not count.
    assert_eq!((document.waits_for, document.lost), (vec![node("web-1"), node("web-4")], vec![node("web-4")]));
    let nodes = document.record.unwrap().nodes;
    assert_eq!((nodes[&node("web-1")].answer, nodes[&node("web-2")].answer), (None, Some(Answer::Refused)));
    assert_eq!(nodes[&node("web-2")].fault.as_ref().unwrap().reason, "no space left");

    // The record of an ended request does not change with the keys.
    let ended = history(100, Some(Outcome::Aborted));
    let document = told(ended.clone(), &entries);
    assert_eq!((document.fate, document.phase), (DeployState::Aborted, Some(Phase::Aborted)));
    assert_eq!(document.record.unwrap().nodes[&node("web-2")], ended.nodes[&node("web-2")]);
    // A record without an outcome, whose barrier is gone, has an unknown state.
    put(&mut entries, &keys().barrier(), &encode(&barrier(110, "master-00000003")), None);
    let document = told(running(), &entries);
    assert_eq!((document.fate, document.phase), (DeployState::Unknown, None));
    assert!(document.waits_for.is_empty() && document.progress().is_none());
}

#[test]
fn the_usual_duration_is_the_median_of_earlier_comparable_deploys() {
    let after = |millis| now() + jiff::SignedDuration::from_millis(millis);
    let done = |number, prepare, switch| History {
        committed_at: Some(after(prepare)),
        ended_at: Some(after(prepare + switch)),
        ..history(number, Some(Outcome::Done))
    };
    let this = history(100, None);
    assert_eq!(Usual::of(&this, &[]), None);
    let others = [
        done(10, 1_000, 300),
        done(20, 3_000, 100),
        done(30, 2_000, 900),
        // Not comparable: it failed, had nothing to do, is a rollback, is the deploy itself, or came later.
        History { outcome: Some(Outcome::Reverted), ..done(40, 1, 1) },
        History { committed_at: None, ..done(50, 1, 1) },
        History { rollback: true, ..done(60, 7, 8) },
        done(100, 1, 1),
        done(110, 1, 1),
    ];
    let usual = Usual { of: 3, took_ms: 2_900, prepare_ms: 2_000, switch_ms: 300 };
    assert_eq!(Usual::of(&this, &others), Some(usual));
    let way_back = History { rollback: true, ..this };
    let usual = Usual { of: 1, took_ms: 15, prepare_ms: 7, switch_ms: 8 };
    assert_eq!(Usual::of(&way_back, &others), Some(usual));
    // A clock that was set back in between counts as a duration of zero.
    let odd = [done(10, -500, 200)];
    assert_eq!(Usual::of(&history(100, None), &odd).unwrap().prepare_ms, 0);
}

/// A build that was published just now.
fn build(name: &str) -> Build {
    Build { commit: "15e9f13a".repeat(5).parse().unwrap(), at: now(), ..Build::sample(name) }
}

#[test]
fn builds_show_whether_they_can_be_deployed_and_which_nodes_have_them() {
    let keys = Keys::default();
    let app = "shop".parse().unwrap();
    let mut entries = fleet();
    for name in ["master-00000002", "master-00000003"] {
        let name: ArtifactName = name.parse().unwrap();
        put(&mut entries, &keys.build(&app, &name), &encode(&build(name.as_str())), None);
    }
    let bad = BadMark::parse(br#"{"by":"ann","reason":"leaks","at":"2026-11-23T09:00:00Z"}"#).unwrap();
    put(&mut entries, &keys.bad(&app, &"master-00000003".parse().unwrap()), &encode(&bad), None);
    let run = Run { at: now(), ..Run::sample("master-15e9f13a") };
    put(&mut entries, &keys.run(&app, &"master-00000004".parse().unwrap()), &encode(&run), None);

    let document = BuildsDocument::build(&app, &keys, &entries, now());
    let rows: Vec<_> = document.builds.iter().map(|b| (b.artifact.as_str(), b.state, b.deployable)).collect();
    assert_eq!(
        rows,
        [
            ("master-00000004", BuildState::Building, false),
            ("master-00000003", BuildState::Bad, false),
            ("master-00000002", BuildState::Published, true),
        ]
    );
    let group: Group = "production".parse().unwrap();
    assert_eq!(document.builds[2].prefetched[&group], Prefetched { on: 3, of: 3 });
    assert_eq!(document.builds[1].prefetched[&group], Prefetched { on: 0, of: 3 });
}

#[test]
fn units_are_found_by_their_barrier_or_request() {
    let found = units_in(
        "cutover/",
        [
            "cutover/shop/production/barrier",
            "cutover/shop/production/deploy",
            "cutover/shop/canary/deploy",
            "cutover/shop/builds/deploy",
            "cutover/shop/latest",
            "cutover/shop/production/history/deploy",
        ],
    );
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/canary", "shop/production"]);
}

/// A CI run in `state` that began ten minutes ago.
fn run_of(state: RunState, lost_at: Option<jiff::Timestamp>, reason: &str) -> Run {
    Run {
        state,
        url: Some("https://ci.example.com/7".to_owned()),
        reason: reason.to_owned(),
        begun_at: Some(now() - jiff::SignedDuration::from_mins(10)),
        lost_at,
        at: now() - jiff::SignedDuration::from_mins(4),
        ..Run::sample("master-15e9f13a")
    }
}

fn rows_of(entries: &Entries) -> BTreeMap<String, BuildRow> {
    let document = BuildsDocument::build(&unit().app, &Keys::default(), entries, now());
    assert_eq!(document.problems, []);
    document.builds.into_iter().map(|row| (row.artifact.to_string(), row)).collect()
}

#[test]
fn a_ci_run_without_a_build_is_building_failed_canceled_or_lost() {
    let mut entries = Entries::new();
    let keys = Keys::default();
    let runs = [
        ("master-00000001", run_of(RunState::Building, None, "")),
        ("master-00000002", run_of(RunState::Building, Some(now() + jiff::SignedDuration::from_secs(1)), "")),
        ("master-00000003", run_of(RunState::Building, Some(now()), "")),
        ("master-00000004", run_of(RunState::Failed, Some(now()), "tests fail")),
        ("master-00000005", run_of(RunState::Canceled, None, "superseded")),
    ];
    for (name, run) in &runs {
        put(&mut entries, &keys.run(&unit().app, &name.parse().unwrap()), &encode(run), None);
    }
    let rows = rows_of(&entries);
    let states: Vec<_> = rows.values().map(|row| (row.state, row.took_secs, row.ended_at.is_some())).collect();
    assert_eq!(
        states,
        [
            (BuildState::Building, None, false),
            (BuildState::Building, None, false),
            (BuildState::Lost, None, false),
            (BuildState::Failed, Some(360), true),
            (BuildState::Canceled, Some(360), true),
        ]
    );
    let failed = &rows["master-00000004"];
    assert_eq!((failed.reason.as_str(), failed.lost_at), ("tests fail", None));
    assert_eq!(failed.url.as_deref(), Some("https://ci.example.com/7"));
    assert_eq!(rows["master-00000003"].lost_at, Some(now()));
}

#[test]
fn a_build_shows_its_deploys_and_that_its_archive_is_missing() {
    let keys = Keys::default();
    let mut entries = fleet();
    for name in ["master-00000001", "master-00000002", "master-00000003"] {
        let build = build(name);
        put(&mut entries, &keys.build(&unit().app, &build.artifact), &encode(&build), None);
    }
    // The committed build, whose history is gone; a build deployed earlier; a build whose deploy failed.
    let at = self::keys();
    let canary = keys.unit(&"shop/canary".parse().unwrap());
    put(&mut entries, &canary.deploy(), "", None);
    let mut done = history(50, Some(Outcome::Done));
    done.release = Some("20261123090050".parse().unwrap());
    put(&mut entries, &canary.history(done.epoch), &encode(&done), None);
    let mut aborted = history(60, Some(Outcome::Aborted));
    aborted.artifact = Some("master-00000003".parse().unwrap());
    put(&mut entries, &at.history(aborted.epoch), &encode(&aborted), None);
    let gone = ["master-00000001".parse().unwrap()].into();
    let damaged = [("master-00000002".parse().unwrap(), record::Damage::Cut)].into();
    let mut sweep = record::Sweep { format: FORMAT, gone, damaged, at: Some(now()) };
    put(&mut entries, &at.store(), &encode(&sweep), None);

    let rows = rows_of(&entries);
    let [production, canary]: [Group; 2] = ["production", "canary"].map(|name| name.parse().unwrap());
    let committed = &rows["master-00000001"];
    assert_eq!((committed.state, committed.deployable), (BuildState::Gone, false));
    assert_eq!(committed.gone, std::slice::from_ref(&production));
    let on = &committed.deployed[&production];
    assert_eq!((on.runs, on.at, on.epoch.number), (true, None, 90));
    let before = &rows["master-00000002"];
    assert_eq!((before.state, before.deployable, before.deployed.len()), (BuildState::Damaged, false, 1));
    assert_eq!(before.damaged, [(production.clone(), record::Damage::Cut)].into());
    let on = &before.deployed[&canary];
    assert_eq!((on.runs, on.at, on.epoch.number), (false, done.ended_at, 50));
    assert!(rows["master-00000003"].deployed.is_empty(), "a failed deploy does not count");

    let status = StatusDocument::build(&unit(), &at, &entries, now());
    assert!(status.troubles[0].text().contains("master-00000001 is not in the store"), "{:?}", status.troubles);
    assert!(!status.needs_recovery);
    sweep.damaged = [("master-00000001".parse().unwrap(), record::Damage::Altered)].into();
    put(&mut entries, &at.store(), &encode(&sweep), None);
    let status = StatusDocument::build(&unit(), &at, &entries, now());
    assert!(status.troubles[0].text().contains("master-00000001 is altered in the store"), "{:?}", status.troubles);
}
