//! The page of a deploy.

use super::*;

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
fn a_node_that_is_waited_for_shows_its_download() {
    let answers = [("web-1", Some(Answer::Prepared)), ("web-3", None)];
    let fetching = [("web-3".parse().unwrap(), fetching())].into();
    let document = DeployDocument { fetching, ..running(Phase::Prepare, &answers, &["web-3"], &[]) };
    let html = deploy(document).render().unwrap();
    let row = |name: &str| text(&html, &format!("id=\"node-{name}\" "), "</div>");
    assert!(row("web-3").contains("downloading, 12.00 MB of 40.00 MB"), "{}", row("web-3"));
    assert!(!row("web-1").contains("downloading"), "{}", row("web-1"));
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
