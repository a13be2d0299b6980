//! Parts that pages share.

use super::*;

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
fn tabs_lead_to_the_unit_of_the_page() {
    let at = |address: &str| Frame { address: address.to_owned(), ..frame() };
    let unit = at("/units/shop/production/deploys/7?x=/units/a/b");
    assert_eq!(unit.part("history"), "/units/shop/production/history");
    assert_eq!(unit.part("builds"), "/apps/shop/builds");
    assert_eq!([at("/").part("doctor"), at("/nodes?unit=a/b").part("history")], ["/doctor", "/history"]);
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
