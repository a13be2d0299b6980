//! Every page with hostile text, and the texts of pages about a fleet.

use std::collections::BTreeMap;

use askama::Template;
use jiff::Timestamp;

use super::*;
use crate::document::status::{GroupTrouble, NodeAnswer};
use crate::document::{
    BuildBefore, BuildRow, BuildState, BuildsDocument, DeployDocument, DeployState, DoctorDocument, DryRunBuild,
    DryRunDocument, HistoryDocument, HistoryEntry, NodeReply, NodeRow, NodeStatus, NodesDocument, NodesFilter,
    Presence, StatusDocument, UnitHealth, Usual, Waiting,
};
use crate::protocol::ids::{Epoch, ModifyIndex, Unit};
use crate::protocol::record::{
    Answer, Author, BadMark, Build, Current, Fault, Finding, Freeze, History, Identity, Last, Mark, Means, NodeOutcome,
    Outcome, Phase, Release, Reply, Running, Step, Summary, Timings,
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

fn before() -> BuildBefore {
    BuildBefore {
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

fn node(name: &str, answer: Option<Answer>) -> NodeStatus {
    NodeStatus {
        node: name.parse().unwrap(),
        state: Presence::Alive,
        runs: Some(release(90, "master-00000001")),
        current: Some(HOSTILE.to_owned()),
        previous: None,
        drift: vec![crate::document::Drift::Current],
        staged: vec!["master-00000002".parse().unwrap()],
        version: Some(HOSTILE.to_owned()),
        free_bytes: Some(1_500_000_000),
        alarm: Some(HOSTILE.to_owned()),
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
        prefetched: BTreeMap::new(),
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
            artifact: "master-00000002".parse().unwrap(),
            branch: "a<script>alert(1)</script>".parse().unwrap(),
            commit: "15e9f13a".repeat(5).parse().unwrap(),
            summary: summary(),
            release: None,
        }),
        from: Some(release(90, "master-00000001")),
        before: Some(before()),
        fault: None,
        freeze: Some(freeze()),
        notes: vec![HOSTILE.to_owned()],
        nodes: asked(),
    }
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

/// Every page, with hostile text in every field that can contain it.
fn pages() -> Vec<(&'static str, String)> {
    let unwell =
        status(Phase::Commit, vec![node("web-1", Some(Answer::Prepared)), node("web-2", Some(Answer::Failed))]);
    let row = NodeRow { unit: unit(), status: node("web-1", None) };
    let health = UnitHealth { unit: unit(), here: asked().remove(0).findings, nodes: asked() };
    let unit_page = UnitPage {
        frame: frame(),
        status: unwell.clone(),
        current_deploy: Some(record()),
        builds: vec![build()],
        past: past().entries,
        rollback_target: RollbackTarget::None(HOSTILE.to_owned()),
        denials: denials(),
    };
    let card = UnitCard { status: unwell, current_deploy: Some(record()) };
    let overview = OverviewPage { frame: frame(), cards: vec![card], prefix: "cutover/".to_owned() };
    let other = BuildRow { artifact: "master-00000003".parse().unwrap(), bad: None, ..build() };
    let builds = builds(vec![build(), other]);
    let nodes = NodesPage {
        frame: frame(),
        nodes: NodesDocument { nodes: vec![row] },
        total: 2,
        filter: NodesFilter { named: HOSTILE.to_owned(), ..NodesFilter::default() },
        units: vec![unit()],
    };
    let history = HistoryPage {
        frame: frame(),
        document: past(),
        filter: HistoryFilter { by: HOSTILE.to_owned(), artifact: HOSTILE.to_owned(), ..HistoryFilter::default() },
        units: vec![unit(), "shop/canary".parse().unwrap()],
        next: Some(HOSTILE.to_owned()),
    };
    let document = DoctorDocument::of(asked().remove(0).findings, vec![health], (0, 1));
    let doctor = DoctorPage { frame: frame(), unit: unit(), document, units: vec![unit()] };
    let refused = Some((HOSTILE.to_owned(), HOSTILE.to_owned()));
    let sign_in = SignInPage { frame: frame(), next: HOSTILE.to_owned(), refused };
    let (message, hint) = (HOSTILE.to_owned(), HOSTILE.to_owned());
    let problem = ProblemPage { frame: frame(), status: 403, kind: "not_allowed", message, hint };
    let halfway = [("web-1", Some(Answer::Prepared)), ("web-2", Some(Answer::Failed))];
    let halfway = running(Phase::Commit, &halfway, &["web-1"], &[]);
    let untold = ReviewPage {
        review: Review::Failed { message: HOSTILE.to_owned(), hint: HOSTILE.to_owned() },
        ..ready_review()
    };
    vec![
        ("overview", overview.render().unwrap()),
        ("unit", unit_page.render().unwrap()),
        ("deploy", deploy(DeployDocument::of(record(), 9)).render().unwrap()),
        ("running deploy", deploy(halfway).render().unwrap()),
        ("review", ready_review().render().unwrap()),
        ("refused review", blocked_review().render().unwrap()),
        ("untold review", untold.render().unwrap()),
        ("builds", builds.render().unwrap()),
        ("nodes", nodes.render().unwrap()),
        ("history", history.render().unwrap()),
        ("doctor", doctor.render().unwrap()),
        ("sign-in", sign_in.render().unwrap()),
        ("problem", problem.render().unwrap()),
    ]
}

#[test]
fn hostile_text_is_never_markup() {
    for (name, html) in pages() {
        for tag in ["<script>", "<img", "</code><script", "href=\"javascript:", "\u{202e}", "onerror=alert(2)>"] {
            let at = html.find(tag).map(|at| &html[at.saturating_sub(80)..(at + 60).min(html.len())]);
            assert!(at.is_none(), "{name}: {tag}: {at:?}");
        }
        assert!(html.contains("alert"), "{name} shows the text");
        assert!(!html.contains("style="), "{name}: no style but the sheet's");
    }
}

#[test]
fn every_id_is_unique() {
    for (name, html) in pages() {
        let ids: Vec<&str> = html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let mut once = ids.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), ids.len(), "{name}: {ids:?}");
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

#[test]
fn progress_counts_finished_nodes_and_names_the_others() {
    let answers = [("web-1", Some(Answer::Prepared)), ("web-2", None), ("web-3", None)];
    let document = running(Phase::Prepare, &answers, &["web-2", "web-3"], &["web-3"]);
    let html = deploy(document).render().unwrap();
    let said = text(&html, "<span data-progress>", "</p>");
    assert_eq!(said, "1 of 3 nodes prepared, waiting for web-2, web-3");
    for (name, step) in [("web-1", "✓ prepared"), ("web-2", "◐ preparing"), ("web-3", "✕ lost")] {
        let shown = text(
            &html,
            &format!("data-node=\"{name}\"><span role=\"rowheader\">"),
            "<span role=\"cell\" class=\"num\"",
        );
        assert!(shown.ends_with(step), "{name}: {shown}");
    }
}

#[test]
fn a_node_that_stopped_a_deploy_keeps_its_reason_after_the_revert() {
    let mut reverted = record();
    let stopped = reverted.node.clone().unwrap();
    let went_back = NodeOutcome { answer: Some(Answer::Reverted), fault: None, took: Timings::default() };
    reverted.nodes = [(stopped.clone(), went_back.clone()), ("web-9".parse().unwrap(), went_back)].into();
    let html = deploy(DeployDocument::of(reverted, 9)).render().unwrap();
    let row = |name: &str| text(&html, &format!("id=\"node-{name}\" "), "</div>");
    assert!(row(stopped.as_str()).contains(&format!("{}: ", fault().step.as_str())), "{}", row(stopped.as_str()));
    assert!(!row("web-9").contains(fault().step.as_str()), "{}", row("web-9"));
}

#[test]
fn the_page_of_an_aborted_deploy_does_not_advise_to_fix_a_node() {
    let ended = |outcome, step| {
        let record = History { outcome: Some(outcome), fault: Some(Fault::new(step, "so it is")), ..record() };
        let html = deploy(DeployDocument::of(record, 8)).render().unwrap();
        text(&html, "id=\"wrong\"", "</section>")
    };
    for outcome in [Outcome::Aborted, Outcome::Reverted] {
        assert!(ended(outcome, Step::Abort).contains("There is nothing to fix"));
        assert!(ended(outcome, Step::CheckHook).contains("Fix the "));
    }
}

#[test]
fn a_node_of_two_groups_is_counted_once() {
    let other =
        StatusDocument { unit: "blog/staging".parse().unwrap(), ..status(Phase::Done, vec![node("web-1", None)]) };
    let cards = [status(Phase::Done, vec![node("web-1", None), node("web-2", None)]), other];
    let cards = cards.map(|status| UnitCard { status, current_deploy: None }).into();
    let html = OverviewPage { frame: frame(), cards, prefix: "cutover/".to_owned() }.render().unwrap();
    assert!(html.contains("2 groups on 2 nodes: "), "{html}");
}

#[test]
fn screen_readers_hear_the_phase_and_then_the_outcome() {
    assert_eq!(unit_state::announcement(&status(Phase::Commit, Vec::new())), "shop/production: commit");
    let ended = StatusDocument { running: None, ..status(Phase::Done, Vec::new()) };
    assert_eq!(unit_state::announcement(&ended), "shop/production: master-00000002 aborted");
}

#[test]
fn a_form_keeps_its_meaning_when_the_page_updates() {
    let of = |bad: Option<BadMark>| {
        let html = builds(vec![BuildRow { bad, ..build() }]).render().unwrap();
        let (_, form) = html.split_once("method=\"post\" action=\"/apps/").unwrap();
        let (action, rest) = form.split_once('"').unwrap();
        (action.to_owned(), rest.split_once("id=\"").unwrap().1.split_once('"').unwrap().0.to_owned())
    };
    let (bad, good) = (of(None), of(build().bad));
    assert!(bad.0.ends_with("/bad") && good.0.ends_with("/good"), "{bad:?} {good:?}");
    assert_ne!(bad.1, good.1, "the script keeps two forms apart by their ids");
}

#[test]
fn tabs_lead_to_the_unit_of_the_page() {
    let at = |address: &str| Frame { address: address.to_owned(), ..frame() };
    let unit = at("/units/shop/production/deploys/7?x=/units/a/b");
    assert_eq!(unit.part("history"), "/units/shop/production/history");
    assert_eq!(unit.part("builds"), "/apps/shop/builds");
    assert_eq!([at("/").part("doctor"), at("/nodes?unit=a/b").part("history")], ["/doctor", "/history"]);
}

#[test]
fn a_request_that_would_be_refused_has_no_button_and_shows_the_reason() {
    let html = blocked_review().render().unwrap();
    assert!(!html.contains("id=\"go\"") && html.contains(">Back<"), "{html}");
    assert!(text(&html, "id=\"verdict\">", "</p>").contains("blocked"), "{html}");
}

#[test]
fn the_duration_is_shown_beside_the_usual_one() {
    let done = History { outcome: Some(Outcome::Done), reverted_at: None, fault: None, node: None, ..record() };
    let html = deploy(DeployDocument::of(done.clone(), 0)).render().unwrap();
    assert_eq!(text(&html, "<dd id=\"took\">", "</dd>"), "3.0 s; usually 900 ms (median of 3 earlier deploys)");
    assert!(text(&html, "data-panel=\"Prepare\">", "</div>").contains("1.0 s total, usually 700 ms"), "{html}");
    assert!(text(&html, "data-panel=\"Switch\">", "</div>").contains("2.0 s total, usually 200 ms"), "{html}");
    // The total time of a failed deploy is not compared with the usual one; the phases still are.
    let html = deploy(DeployDocument::of(record(), 9)).render().unwrap();
    assert_eq!(text(&html, "<dd id=\"took\">", "</dd>"), "3.0 s");
    assert!(!text(&html, "data-panel=\"Revert\">", "</div>").contains("usually"), "{html}");
    let first = DeployPage { document: DeployDocument::of(done, 0), ..deploy(DeployDocument::of(record(), 9)) };
    assert!(!first.render().unwrap().contains("usually"));
}

#[test]
fn a_disabled_button_shows_the_reason() {
    let html = ready_review().render().unwrap();
    assert!(html.contains("<button type=\"submit\" id=\"go\""), "{html}");
    let refused = Denials { deploy: Some("sign in to deploy".to_owned()), ..Denials::default() };
    let html = ReviewPage { denials: refused, ..ready_review() }.render().unwrap();
    assert!(!html.contains("type=\"submit\" id=\"go\""));
    assert!(html.contains("aria-describedby=\"go-why\"") && html.contains("id=\"go-why\">sign in to deploy<"));
}

#[test]
fn assets_are_named_by_their_content_and_small() {
    let all = [&assets::STYLE, &assets::SCRIPT, &assets::MORPH, &assets::ICON];
    for asset in all {
        assert!(std::ptr::eq(assets::named(asset.name()).unwrap(), &raw const **asset), "{}", asset.name());
        assert!(asset.gzip.len() < asset.plain.len());
    }
    assert!(assets::named("cutover.css").is_none());
    let bytes: usize = all.iter().map(|asset| asset.plain.len()).sum();
    assert!(bytes < 45_000, "{bytes}: a first view has 60 kB, and a page of its own in them");
}
