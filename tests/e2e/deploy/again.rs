//! Releases that lay on the disk are checked before they run, and failed ones stay for inspection.

use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

#[test]
fn a_release_that_was_changed_on_the_disk_never_runs() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    let [first, second] = &fleet.nodes[..] else { panic!("two nodes") };
    let kept = |release: &str| {
        wait_until(LIMIT, "the failed release is kept, and no release any more", || {
            let is_kept = |it: &crate::fleet::node::Node| {
                it.list(".cutover/failed") == [release] && !it.list("releases").contains(&release.to_owned())
            };
            fleet.nodes.iter().all(is_kept).then_some(())
        });
    };
    fleet.deployed("one");
    let one = fleet.assert_all_run("one");

    // After the promise, and before the switch.
    fleet.publish_and_stage("two");
    first.hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    first.wait_hook("prepare");
    let barrier = fleet.wait_phase("prepare");
    wait_until(LIMIT, "the second node promises", || {
        fleet.json("acks/web-2").filter(|it| it["answer"] == "prepared" && it["epoch"] == barrier["epoch"])
    });
    let two = barrier["release"].as_str().unwrap().to_owned();
    std::fs::remove_file(second.deploy_to.join("releases").join(&two).join("version")).unwrap();
    first.release("prepare");
    let output = deploy.finish();
    assert_eq!(output.code, 9, "{output}");
    let said = output.to_string();
    assert!(said.contains("verification on web-2") && said.contains("\"version\" is missing"), "{said}");
    assert_eq!(fleet.assert_all_run("one"), one);
    kept(&two);

    // A failed hook names the place.
    first.fail("check", "no");
    let output = fleet.cutover(&["deploy", UNIT, "master", "--output", "json"]);
    assert_eq!(output.code, 9, "{output}");
    let failed = output.json()["record"]["release"].as_str().unwrap().to_owned();
    let place = format!("its release is kept in {}", first.deploy_to.join(".cutover/failed").join(&failed).display());
    assert!(output.to_string().contains(&place), "{output} does not say {place}");
    kept(&failed);
    first.mend("check");

    // A rollback to what was changed while it did not run.
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    fleet.assert_all_run("two");
    std::fs::write(second.deploy_to.join(&one).join("version"), "damaged").unwrap();
    let output = fleet.cutover(&["rollback", UNIT, "--dry-run", "--output", "json"]);
    assert!(output.to_string().contains("was changed while it did not run"), "{output}");
    let prepared = second.hook_ran_for("prepare").len();
    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.assert_all_run("one"), one, "under its own name");
    assert_eq!(second.logged("was changed while it did not run, so it is unpacked anew: \"version\" has 7 bytes"), 1);
    assert_eq!(second.hook_ran_for("prepare").len(), prepared + 1, "its prepare hook has run again");
    assert_eq!(
        second.read(&format!(".cutover/failed/{}/version", &one["releases/".len()..])).as_deref(),
        Some("damaged")
    );
    assert_eq!(first.logged("was changed while it did not run"), 0);
}
