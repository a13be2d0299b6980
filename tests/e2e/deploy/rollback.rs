//! `cutover rollback`.

use crate::fleet::{Fleet, FleetSpec, UNIT};

#[test]
fn a_rollback_needs_neither_download_nor_unpacking_and_a_second_one_goes_further_back() {
    let fleet = Fleet::start(&FleetSpec::default());
    fleet.deployed("one");
    let one = fleet.assert_all_run("one");
    fleet.deployed("two");
    let two = fleet.assert_all_run("two");
    let three = fleet.deployed("three");
    fleet.assert_all_run("three");
    fleet.hide_store();
    let releases: Vec<_> = fleet.nodes.iter().map(|node| node.list("releases")).collect();
    let output = fleet.cutover(&["rollback", UNIT, "--reason", "three is slow", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.assert_all_run("two"), two, "the very release that ran before");
    let record = &output.json()["record"];
    assert_eq!((&record["rollback"], &record["why"]), (&true.into(), &"three is slow".into()), "{record:#}");
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.assert_all_run("one"), one);
    assert_eq!(fleet.nodes.iter().map(|node| node.list("releases")).collect::<Vec<_>>(), releases);
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 3, "nothing ran before that");
    let output = fleet.cutover(&["rollback", UNIT, "--to", &three.artifact]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("three");
    assert_eq!(fleet.cutover(&["rollback", UNIT, "--to", "master-00000000"]).code, 3);
    fleet.assert_all_run("three");
}

#[test]
fn a_freeze_does_not_stop_a_rollback() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.deployed("two");
    fleet.consul(&["kv", "put", "cutover/shop/production/freeze", "holidays"]);
    let output = fleet.cutover(&["rollback", UNIT, "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
    assert!(output.json()["record"]["notes"].to_string().contains("holidays"), "{output}");
}
