//! Documents for the tests of pages, with hostile text in every field that can contain it.

mod buttons;
mod deploy;
mod every_page;
mod parts;

use std::collections::BTreeMap;

use askama::Template;
use jiff::Timestamp;

use super::*;
use crate::document::builds::RefusedOn;
use crate::document::status::{GroupTrouble, NodeAnswer};
use crate::document::{
    BuildInfo, BuildRow, BuildState, BuildsDocument, DeployDocument, DeployState, DoctorDocument, DryRunBuild,
    DryRunDocument, Files, HistoryDocument, HistoryEntry, NodeReply, NodeRow, NodeStatus, NodesDocument, NodesFilter,
    Presence, Ships, StatusDocument, UnitHealth, Usual, Waiting,
};
use crate::protocol::ids::{Epoch, ModifyIndex, Unit};
use crate::protocol::record::{
    Answer, Author, BadMark, Build, Changes, CommitLine, CommitList, Commits, Current, Fault, Fetching, FileChanges,
    FileList, Finding, Freeze, History, Identity, Last, Mark, Means, NodeOutcome, Outcome, Phase, Refusal,
    RefusedBuild, Release, Reply, Running, Step, Summary, Timings,
};

/// Text as an attacker could write it into KV: markup, quotes, and characters that reorder text.
const HOSTILE: &str = "</code><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u{202e}evil";

fn now() -> Timestamp {
    "2026-11-23T09:15:00Z".parse().unwrap()
}

fn unit() -> Unit {
    "shop/production".parse().unwrap()
}

fn epoch(number: u64) -> Epoch {
    Epoch { era: 0, number }
}

fn release(number: u64, artifact: &str) -> Release {
    Release {
        epoch: epoch(number),
        artifact: artifact.parse().unwrap(),
        sha256: "0".repeat(64).parse().unwrap(),
        release: "20261123090000".parse().unwrap(),
    }
}

fn summary() -> Summary {
    Summary { subject: Some(HOSTILE.to_owned()), author: Some(HOSTILE.to_owned()) }
}

fn before() -> BuildInfo {
    BuildInfo {
        artifact: "master-00000001".parse().unwrap(),
        branch: "master".parse().unwrap(),
        commit: "25e9f13a".repeat(5).parse().unwrap(),
        summary: summary(),
    }
}

fn usual() -> Usual {
    Usual { of: 3, took_ms: 900, prepare_ms: 700, switch_ms: 200 }
}

fn fault() -> Fault {
    Fault { output: format!("one\n{HOSTILE}"), ..Fault::new(Step::CheckHook, HOSTILE) }
}

fn hostile_author(via: &str) -> Author {
    Author { by: HOSTILE.to_owned(), via: via.to_owned(), reason: HOSTILE.to_owned(), id: String::new() }
}

fn freeze() -> Freeze {
    Freeze { author: hostile_author("ui"), until: Some(now()), at: Some(now()), lifted: false }
}

/// A deploy that three nodes prepared, and that the failure of one of them ended.
pub(super) fn record() -> History {
    let outcome = |answer, fault| NodeOutcome { answer: Some(answer), fault, took: Timings::default() };
    History {
        format: 1,
        epoch: epoch(100),
        unit: unit(),
        request: HOSTILE.to_owned(),
        author: hostile_author("ui"),
        verified: None,
        rollback: false,
        notes: vec![HOSTILE.to_owned()],
        artifact: Some("master-00000002".parse().unwrap()),
        branch: Some("a<script>alert(1)</script>\u{202e}".parse().unwrap()),
        commit: Some("15e9f13a".repeat(5).parse().unwrap()),
        summary: summary(),
        release: Some("20261123090000".parse().unwrap()),
        from: Some(release(90, "master-00000001")),
        changes: Some(changes()),
        outcome: Some(Outcome::Reverted),
        node: Some("web-2".parse().unwrap()),
        fault: Some(fault()),
        nodes: BTreeMap::from([
            ("web-1".parse().unwrap(), outcome(Answer::Reverted, None)),
            ("web-2".parse().unwrap(), outcome(Answer::Reverted, Some(fault()))),
        ]),
        left_out: vec!["web-9".parse().unwrap()],
        coordinator: "web-1".parse().unwrap(),
        started_at: "2026-11-23T09:00:00Z".parse().unwrap(),
        committed_at: Some("2026-11-23T09:00:01Z".parse().unwrap()),
        reverted_at: Some("2026-11-23T09:00:02Z".parse().unwrap()),
        ended_at: Some("2026-11-23T09:00:03Z".parse().unwrap()),
    }
}

fn refusal() -> Refusal {
    Refusal { reason: HOSTILE.to_owned(), step: Some(Step::Fetch), retry_secs: Some(60) }
}

fn fetching() -> Fetching {
    Fetching { artifact: "master-00000002".parse().unwrap(), received_bytes: 12_000_000, packed_bytes: 40_000_000 }
}

fn node(name: &str, answer: Option<Answer>) -> NodeStatus {
    NodeStatus {
        node: name.parse().unwrap(),
        state: Presence::Alive,
        runs: Some(release(90, "master-00000001")),
        current: Some(HOSTILE.to_owned()),
        previous: None,
        drift: vec![crate::document::Drift::Current],
        staged: vec!["master-00000002".parse().unwrap()],
        refused: vec![RefusedBuild { artifact: "master-00000003".parse().unwrap(), why: refusal() }],
        fetching: Some(fetching()),
        version: Some(HOSTILE.to_owned()),
        free_bytes: Some(1_500_000_000),
        alarm: Some(HOSTILE.to_owned()),
        unremovable: Vec::new(),
        member: true,
        answer: answer.map(|answer| NodeAnswer {
            answer,
            fault: answer.is_no().then(fault),
            took: Timings { prepare_ms: Some(420), ..Timings::default() },
        }),
    }
}

fn status(phase: Phase, nodes: Vec<NodeStatus>) -> StatusDocument {
    let artifact = || "master-00000002".parse().unwrap();
    StatusDocument {
        unit: unit(),
        phase: Some(phase),
        epoch: Some(epoch(100)),
        current: Some(Current {
            artifact: "master-00000001".parse().unwrap(),
            release: "20261123080000".parse().unwrap(),
            epoch: epoch(90),
        }),
        running: Some(Running { epoch: epoch(100), phase, artifact: artifact(), by: HOSTILE.to_owned() }),
        waiting: Some(Waiting { epoch: ModifyIndex(101), wants: HOSTILE.to_owned(), by: HOSTILE.to_owned() }),
        last: Some(Last {
            epoch: epoch(80),
            outcome: Outcome::Aborted,
            artifact: Some(artifact()),
            node: Some("web-2".parse().unwrap()),
            step: Some(Step::PrepareHook),
            reason: Some(HOSTILE.to_owned()),
            output: Some(HOSTILE.to_owned()),
            by: HOSTILE.to_owned(),
            at: now(),
        }),
        coordinator: Some(HOSTILE.to_owned()),
        troubles: vec![GroupTrouble::Keys(HOSTILE.to_owned())],
        needs_recovery: true,
        freeze: Some(freeze()),
        nodes,
        problems: vec![crate::document::Problem { key: HOSTILE.to_owned(), problem: HOSTILE.to_owned() }],
    }
}

fn build() -> BuildRow {
    let branch = || "a<script>alert(1)</script>\u{202e}".parse().unwrap();
    let commit = || "15e9f13a".repeat(5).parse().unwrap();
    BuildRow {
        artifact: "master-00000002".parse().unwrap(),
        branch: branch(),
        commit: commit(),
        summary: summary(),
        state: BuildState::Published,
        by: HOSTILE.to_owned(),
        at: now(),
        begun_at: Some(now()),
        ended_at: Some(now()),
        took_secs: Some(61),
        lost_at: Some(now()),
        url: Some(format!("javascript:alert(1)//{HOSTILE}")),
        reason: HOSTILE.to_owned(),
        deployable: true,
        bad: Some(BadMark { author: hostile_author("kv"), at: Some(now()), lifted: false }),
        gone: Vec::new(),
        damaged: BTreeMap::new(),
        record: Some(Build {
            branch: branch(),
            commit: commit(),
            summary: summary(),
            packed_bytes: 229_000,
            unpacked_bytes: 416_000,
            entries: 7,
            profile: Some(HOSTILE.to_owned()),
            pull_request: Some(HOSTILE.to_owned()),
            by: HOSTILE.to_owned(),
            at: now(),
            ..Build::sample("master-00000002")
        }),
        tag: Some(branch()),
        pull_request: Some(HOSTILE.to_owned()),
        newest: true,
        prefetched: BTreeMap::new(),
        refused: BTreeMap::from([(
            "production".parse().unwrap(),
            RefusedOn { nodes: 2, node: "web-1".parse().unwrap(), why: refusal() },
        )]),
        deployed: BTreeMap::new(),
    }
}

fn frame() -> Frame {
    let who = || HOSTILE.to_owned();
    let identity = Identity { name: who(), means: Means::Token, accessor: Some(who()), token: who() };
    Frame {
        now: now(),
        viewer: Viewer::Person(identity),
        address: "/nodes?named=%22%3E".to_owned(),
        running: vec![(
            unit(),
            Running { epoch: epoch(100), phase: Phase::Prepare, artifact: "x-1".parse().unwrap(), by: who() },
        )],
        prefs: Prefs::default(),
        node: "web-1".parse().unwrap(),
        version: "0.1.0",
        tab: Tab::Overview,
        title: who(),
        json: Some("/v1/x".to_owned()),
        stream: Some(String::new()),
    }
}

fn denials() -> Denials {
    let no = || Some(HOSTILE.to_owned());
    Denials { deploy: no(), abort: no(), freeze: no(), mark: no() }
}

fn asked() -> Vec<NodeReply> {
    let finding = |mark| Finding::new(HOSTILE, mark, HOSTILE).remedy(HOSTILE);
    let reply = Reply {
        format: 1,
        id: String::new(),
        runs: Some(release(90, "master-00000001")),
        findings: vec![finding(Mark::Warn), finding(Mark::Bad)],
        figures: BTreeMap::new(),
        files: None,
        at: now(),
    };
    vec![NodeReply::answered("web-1".parse().unwrap(), reply)]
}

fn past() -> HistoryDocument {
    HistoryDocument {
        unit: unit(),
        entries: vec![HistoryEntry::from(&record())],
        requests: Vec::new(),
        archived: 3,
        incomplete: true,
        problems: vec![crate::document::Problem { key: HOSTILE.to_owned(), problem: HOSTILE.to_owned() }],
    }
}

fn ready_review() -> ReviewPage {
    review_of(dry_run())
}

fn blocked_review() -> ReviewPage {
    review_of(DryRunDocument { would_go: false, fault: Some(fault()), ..dry_run() })
}

fn dry_run() -> DryRunDocument {
    DryRunDocument {
        unit: unit(),
        wants: HOSTILE.to_owned(),
        rollback: false,
        would_go: true,
        headline: format!("ready: {HOSTILE}"),
        detail: HOSTILE.to_owned(),
        code: 0,
        to: Some(DryRunBuild {
            build: BuildInfo {
                artifact: "master-00000002".parse().unwrap(),
                branch: "a<script>alert(1)</script>".parse().unwrap(),
                commit: "15e9f13a".repeat(5).parse().unwrap(),
                summary: summary(),
            },
            release: None,
        }),
        from: Some(release(90, "master-00000001")),
        before: Some(before()),
        ships: Some(ships()),
        fault: None,
        freeze: Some(freeze()),
        notes: vec![HOSTILE.to_owned()],
        nodes: asked(),
    }
}

/// Commits and files whose authors chose hostile names.
fn ships() -> Ships {
    let commit = CommitLine { id: "15e9f13a".repeat(5).parse().unwrap(), summary: summary() };
    let added = CommitList { count: 5, list: vec![commit] };
    let files = || FileList { count: 2, list: vec![HOSTILE.to_owned()] };
    let files = FileChanges { added: files(), removed: files(), changed: files() };
    Ships { commits: Commits::Known { added, removed: CommitList::default() }, files: Files::Listed { changes: files } }
}

fn changes() -> Changes {
    let Ships { commits, .. } = ships();
    Changes { commits, files: None }
}

fn review_of(document: DryRunDocument) -> ReviewPage {
    let request =
        ReviewedRequest { reference: HOSTILE.to_owned(), reason: HOSTILE.to_owned(), ..ReviewedRequest::default() };
    let (frame, compare) = (frame(), Some(HOSTILE.to_owned()));
    ReviewPage {
        frame,
        unit: unit(),
        request,
        review: Review::Answered(Box::new(document)),
        compare,
        denials: Denials::default(),
    }
}

fn deploy(document: DeployDocument) -> DeployPage {
    DeployPage {
        frame: frame(),
        document: DeployDocument { before: Some(before()), usual: Some(usual()), ..document },
        current: Some(release(90, "master-00000001")),
        compare: Some(HOSTILE.to_owned()),
        rollback_target: RollbackTarget::Build("master-00000001".parse().unwrap()),
        denials: denials(),
    }
}

fn builds(builds: Vec<BuildRow>) -> BuildsPage {
    BuildsPage {
        frame: frame(),
        document: BuildsDocument { app: unit().app, builds, problems: past().problems },
        total: 2,
        filter: BuildsFilter { state: None, branch: HOSTILE.to_owned() },
        apps: vec![unit().app, "other".parse().unwrap()],
        branches: vec![HOSTILE.to_owned()],
        next: Some(HOSTILE.to_owned()),
        no_marks: Some(HOSTILE.to_owned()),
    }
}

/// The same deploy while it runs, with the answers of the nodes and the members that it waits for.
fn running(phase: Phase, answers: &[(&str, Option<Answer>)], waits_for: &[&str], lost: &[&str]) -> DeployDocument {
    let outcome = |answer: Option<Answer>| NodeOutcome {
        answer,
        fault: answer.is_some_and(Answer::is_no).then(fault),
        took: Timings::default(),
    };
    let nodes = answers.iter().map(|(name, answer)| (name.parse().unwrap(), outcome(*answer))).collect();
    let record = History { outcome: None, ended_at: None, nodes, ..record() };
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    DeployDocument {
        fate: DeployState::Running,
        phase: Some(phase),
        waits_for: names(waits_for),
        lost: names(lost),
        ..DeployDocument::of(record, 5)
    }
}

/// The text between two strings of a page, without tags.
fn text(html: &str, from: &str, to: &str) -> String {
    let rest = &html[html.find(from).unwrap_or_else(|| panic!("{from} is in {html}"))..];
    let part = &rest[..rest.find(to).unwrap()];
    let mut shown = String::new();
    let mut is_tag = false;
    for c in part.chars() {
        match c {
            '<' => is_tag = true,
            '>' => is_tag = false,
            _ if !is_tag => shown.push(c),
            _ => {}
        }
    }
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}
