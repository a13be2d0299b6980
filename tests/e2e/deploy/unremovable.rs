//! Old releases that an agent cannot remove: named, tried again, and in nobody's way.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// Runs a program of root's, which these tests need, like those of `faults`.
fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} {} failed: these tests need root", path.display());
}

/// What `cutover status` says that a node cannot remove: paths and reasons.
fn named(fleet: &Fleet, node: &str) -> Vec<String> {
    let status = fleet.cutover(&["status", UNIT, "--output", "json"]).json();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let node = nodes.into_iter().find(|it| it["node"] == node).unwrap_or_default();
    let stays = node["unremovable"].as_array().cloned().unwrap_or_default();
    let text = |it: &Value, field: &str| it[field].as_str().unwrap_or_default().to_owned();
    stays.iter().map(|it| format!("{}: {}", text(it, "path"), text(it, "reason"))).collect()
}

/// Five files that nobody may remove.
fn precious(fleet: &Fleet) -> PathBuf {
    let path = fleet.dir.path().join("precious");
    std::fs::create_dir(&path).unwrap();
    for file in ["a", "b", "c", "d", "e"] {
        std::fs::write(path.join(file), "irreplaceable").unwrap();
    }
    path
}

#[test]
fn files_that_cannot_be_removed_are_named_and_stop_nothing() {
    let settings = |_: usize, _: &Path| "keep_releases = 1\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let node = &fleet.nodes[0];
    fleet.deployed("one");
    let one = node.deploy_to.join(fleet.assert_all_run("one"));
    fleet.deployed("two");
    let two = node.deploy_to.join(fleet.assert_all_run("two"));
    // An immutable file in one release, a mount in another.
    run("chattr", &["+i"], &one.join("version"));
    let precious = precious(&fleet);
    std::fs::create_dir(two.join("data")).unwrap();
    run("mount", &["--bind", precious.to_str().unwrap()], &two.join("data"));
    let (fixed, mounted) = (node.deploy_to.join(".cutover/tmp"), two.join("data"));
    fleet.at_end(move || {
        Command::new("umount").arg("--lazy").arg(mounted).output().ok();
        Command::new("chattr").args(["-R", "-i"]).arg(fixed).output().ok();
    });
    for version in ["three", "four", "five"] {
        fleet.deployed(version);
    }
    let both_named = || {
        let named = named(&fleet, "web-1");
        let has = |words: [&str; 2]| named.iter().any(|it| words.iter().all(|word| it.contains(word)));
        let file = [".cutover/tmp/trash-", "/version: Operation not permitted"];
        (named.len() == 2 && has(file) && has([two.join("data").to_str().unwrap(), "mount point"])).then_some(())
    };
    wait_until(LIMIT, "status names both", both_named);
    assert_eq!(named(&fleet, "web-2"), Vec::<String>::new());
    // Everything else went: the two kept releases stay, and the one with the mount, whole.
    assert_eq!(fleet.nodes[1].list("releases").len(), 2, "{:?}", fleet.nodes[1].list("releases"));
    assert_eq!(node.list("releases").len(), 3, "{:?}", node.list("releases"));
    assert_eq!(std::fs::read_to_string(two.join("version")).unwrap(), "two");
    assert_eq!(std::fs::read_dir(&precious).unwrap().count(), 5);
    assert_eq!(node.logged("/version cannot be removed and stays"), 1, "once, not with each deploy");
    let text = fleet.cutover(&["status", UNIT]);
    assert!(text.stdout.contains("/version cannot be removed: Operation not permitted"), "{text}");
    fleet.wait_says(0, "warning", "cannot be removed");
    let doctor = fleet.cutover(&["doctor", UNIT]);
    assert_eq!(doctor.code, 0, "{doctor}");
    assert!(doctor.stdout.contains("/data cannot be removed: it is a mount point"), "{doctor}");
    assert!(doctor.stdout.contains("unmount what is mounted there"), "{doctor}");
    // A start finds them again, and stops for neither.
    assert!(fleet.term(0).success());
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    wait_until(LIMIT, "status names both again", both_named);
    fleet.deployed("six");
    fleet.assert_all_run("six");
    // What is fixed goes by itself: nobody deploys or restarts anything.
    run("umount", &[], &two.join("data"));
    run("chattr", &["-R", "-i"], &node.deploy_to.join(".cutover/tmp"));
    wait_until(LIMIT, "nothing is left to name", || named(&fleet, "web-1").is_empty().then_some(()));
    assert_eq!(node.list("releases").len(), 2, "{:?}", node.list("releases"));
    assert_eq!(node.list(".cutover/tmp"), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&precious).unwrap().count(), 5);
    fleet.wait_says(0, "passing", "runs master-");
}

/// An agent of the user 4242, as in production, where root and a web server write into its releases.
#[test]
fn files_of_other_users_stop_no_agent() {
    let furnish = |fleet: &Fleet, node: &Node| {
        std::fs::set_permissions(fleet.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(&node.dir, Some(4242), Some(4242)).unwrap();
        chown(&node.deploy_to, Some(4242), Some(4242)).unwrap();
    };
    let under = &["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"];
    let settings = |_: usize, _: &Path| "keep_releases = 2\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, furnish, under, settings, ..FleetSpec::default() });
    let node = &fleet.nodes[0];
    fleet.deployed("one");
    let bytecode = node.deploy_to.join("current/lib/__pycache__");
    std::fs::create_dir_all(&bytecode).unwrap();
    std::fs::write(bytecode.join("app.pyc"), "root's").unwrap();
    fleet.deployed("two");
    let given = node.deploy_to.join(fleet.assert_all_run("two"));
    run("chown", &["-R", "33:33"], &given);
    for version in ["three", "four", "five", "six"] {
        fleet.deployed(version);
    }
    let both_named = || {
        let named = named(&fleet, "web-1");
        let has =
            |words: &str| named.iter().any(|it| it.contains(words) && it.ends_with("Permission denied (os error 13)"));
        (named.len() == 2 && has("/lib/__pycache__/app.pyc") && has(given.to_str().unwrap())).then_some(())
    };
    wait_until(LIMIT, "status names both", both_named);
    assert_eq!(
        node.list("releases").len(),
        3,
        "two are kept, and the one that cannot be moved: {:?}",
        node.list("releases")
    );
    assert!(fleet.term(0).success());
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    fleet.deployed("seven");
    fleet.assert_all_run("seven");
    wait_until(LIMIT, "status names both again", both_named);
    run("chown", &["-R", "4242:4242"], &given);
    run("chown", &["-R", "4242:4242"], &node.deploy_to.join(".cutover/tmp"));
    wait_until(LIMIT, "nothing is left to name", || named(&fleet, "web-1").is_empty().then_some(()));
    assert_eq!(node.list("releases").len(), 2, "{:?}", node.list("releases"));
}
