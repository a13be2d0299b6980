//! Every page, with hostile text.

use super::*;

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
