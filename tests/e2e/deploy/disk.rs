//! What a fleet's disks look like afterwards.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, UNIT};

#[test]
fn shared_paths_are_linked_in_and_hooks_know_where_they_are() {
    let furnish = |_: &Fleet, node: &Node| {
        std::fs::create_dir_all(node.deploy_to.join("shared")).unwrap();
        std::fs::write(node.deploy_to.join("shared/.env"), "SECRET=1\n").unwrap();
    };
    let settings =
        |_: usize, _: &Path| "linked_dirs = [\"log\", \"tmp/cache\"]\nlinked_files = [\".env\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, furnish, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    let first = fleet.assert_all_run("one");
    for node in &fleet.nodes {
        std::fs::write(node.deploy_to.join("current/log/app.log"), "kept").unwrap();
        assert_eq!(node.read("current/.env").as_deref(), Some("SECRET=1\n"));
        assert!(node.deploy_to.join("current/tmp/cache").is_dir());
        assert_eq!(node.hooks_run(), ["prepare", "switched", "check"]);
    }
    let two = fleet.deployed("two");
    let second = fleet.assert_all_run("two");
    let epoch = fleet.newest_epoch();
    let id = fleet.history().last().unwrap()["id"].as_str().unwrap().to_owned();
    for node in &fleet.nodes {
        assert_eq!(node.read("shared/log/app.log").as_deref(), Some("kept"));
        assert_eq!(node.read("current/log/app.log").as_deref(), Some("kept"));
        for hook in ["prepare", "switched", "check"] {
            let env = node.hook_env(hook);
            for line in [
                "CUTOVER_APP=shop".to_owned(),
                "CUTOVER_GROUP=production".to_owned(),
                format!("CUTOVER_NODE={}", node.name),
                format!("CUTOVER_EPOCH={epoch}"),
                format!("CUTOVER_PHASE={hook}"),
                format!("CUTOVER_ARTIFACT={}", two.artifact),
                "CUTOVER_BRANCH=master".to_owned(),
                format!("CUTOVER_COMMIT={}", two.commit),
                format!("CUTOVER_RELEASE={}", second.trim_start_matches("releases/")),
                format!("CUTOVER_RELEASE_PATH={}", node.deploy_to.join(&second).display()),
                format!("CUTOVER_PREVIOUS_PATH={}", node.deploy_to.join(&first).display()),
                "CUTOVER_BY=ann".to_owned(),
                format!("CUTOVER_ID={id}"),
                format!("PWD={}", node.deploy_to.join(&second).display()),
            ] {
                assert!(env.lines().any(|it| it == line), "{line} is not what {hook} of {} got:\n{env}", node.name);
            }
        }
    }
    fleet.nodes[0].fail("check", "no");
    fleet.publish_and_stage("three");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 9);
    let reverted = fleet.history().last().unwrap()["id"].as_str().unwrap().to_owned();
    for node in &fleet.nodes {
        let env = node.hook_env("reverted");
        assert!(env.contains("CUTOVER_PHASE=reverted"), "{env}");
        assert!(env.contains(&format!("CUTOVER_ID={reverted}\n")), "the deploy that is taken back: {env}");
        assert!(env.contains(&format!("CUTOVER_ARTIFACT={}\n", two.artifact)), "{env}");
    }
}

#[test]
fn a_linked_directory_gets_what_the_build_has_once_and_a_dry_run_tells_what_is_hidden() {
    let settings = |_: usize, _: &Path| "linked_dirs = [\"public/uploads\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let uploads = |version: &str, file: &str| {
        let file = file.to_owned();
        let build = fleet.publish_with(version, |tree| {
            std::fs::create_dir_all(tree.join("public/uploads")).unwrap();
            std::fs::write(tree.join("public/uploads").join(file), version).unwrap();
        });
        fleet.wait_staged(&build);
        let said = fleet.cutover(&["deploy", UNIT, &build.artifact, "--dry-run", "--output", "json"]);
        assert_eq!(said.code, 0, "{said}");
        assert_eq!(fleet.cutover(&["deploy", UNIT, &build.artifact]).code, 0);
        let findings = said.json()["nodes"][1]["findings"].as_array().unwrap().clone();
        let shared: Vec<_> =
            findings.into_iter().filter(|it| it["about"] == "shared" && it["mark"] != "good").collect();
        assert_eq!(shared.len(), 1, "{said}");
        format!("{}: {}", shared[0]["mark"].as_str().unwrap(), shared[0]["says"].as_str().unwrap())
    };
    let said = uploads("one", "default.png");
    assert!(said.starts_with("note: ") && said.contains("will be filled with what the build has"), "{said}");
    for node in &fleet.nodes {
        assert_eq!(node.read("current/public/uploads/default.png").as_deref(), Some("one"));
        std::fs::remove_file(node.deploy_to.join("shared/public/uploads/default.png")).unwrap();
        std::fs::write(node.deploy_to.join("shared/public/uploads/photo.jpg"), "of a customer").unwrap();
    }
    let said = uploads("two", "icon.png");
    assert!(said.starts_with("warn: ") && said.contains("hides \"icon.png\" of the build's"), "{said}");
    for node in &fleet.nodes {
        assert_eq!(node.list("current/public/uploads"), ["photo.jpg"]);
        assert_eq!(node.logged("hides \"icon.png\" of the build"), 1);
    }
}

#[test]
fn a_strict_umask_keeps_releases_readable_and_the_output_of_hooks_private() {
    let under = &["sh", "-c", "umask 077; exec \"$0\" \"$@\""];
    let settings = |_: usize, _: &Path| "linked_dirs = [\"log/deep\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, hooks: true, under, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    let node = &fleet.nodes[0];
    let mode = |path: &str| std::fs::metadata(node.deploy_to.join(path)).unwrap().permissions().mode() & 0o777;
    for path in ["releases", "current", "current/log", "shared", "shared/log", "shared/log/deep", ".cutover"] {
        assert_eq!(mode(path), 0o755, "{path}");
    }
    assert_eq!([mode("current/REVISION"), mode("current/version")], [0o644; 2]);
    assert_eq!(mode(".cutover/output"), 0o750);
    let outputs = node.list(".cutover/output");
    assert!(outputs.len() >= 3, "{outputs:?}");
    for output in outputs {
        assert_eq!(mode(&format!(".cutover/output/{output}")), 0o640, "{output}");
    }
}

/// NFS, 9p, Gluster, older ZFS.
#[test]
fn a_deploy_needs_no_rename_that_can_refuse_to_replace() {
    let under = &["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "inject=renameat2:error=EINVAL"];
    let fleet = Fleet::start(&FleetSpec { nodes: 2, under, ..FleetSpec::default() });
    let build = fleet.publish_and_stage("one");
    for arguments in [&["doctor", UNIT][..], &["deploy", UNIT, &build.artifact, "--dry-run"]] {
        let output = fleet.cutover(arguments);
        assert_eq!(output.code, 0, "{output}");
    }
    assert_eq!(fleet.cutover(&["deploy", UNIT, &build.artifact]).code, 0);
    fleet.assert_all_run("one");
    fleet.deployed("two");
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 0);
    fleet.assert_all_run("one");
}

#[test]
fn ten_deploys_take_no_more_disk_than_the_kept_ones() {
    let settings = |_: usize, _: &Path| "keep_releases = 2\nmax_staged = 1\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let megabyte = |version: &str| {
        let build = fleet.publish_with(version, |tree| std::fs::write(tree.join("big"), vec![7; 1 << 20]).unwrap());
        fleet.wait_staged(&build);
        assert_eq!(fleet.cutover(&["deploy", UNIT, &build.artifact]).code, 0);
    };
    for version in 0..10 {
        megabyte(&format!("v{version}"));
    }
    fleet.assert_all_run("v9");
    for node in &fleet.nodes {
        // Two kept ones beside the one that runs, and the one before.
        crate::fleet::wait_until(crate::fleet::LIMIT, "old releases are pruned", || {
            (node.list("releases").len() <= 4).then_some(())
        });
        let used = Command::new("du").args(["-sm"]).arg(&node.deploy_to).output().unwrap();
        let used = String::from_utf8(used.stdout).unwrap();
        let megabytes: u32 = used.split_whitespace().next().unwrap().parse().unwrap();
        assert!(megabytes <= 7, "{megabytes} MB in {:?}", node.list("releases"));
        assert!(node.list("releases").contains(&node.current().unwrap().replace("releases/", "")));
    }
}

#[test]
fn a_release_of_another_tool_is_adopted_and_left_alone() {
    let furnish = |_: &Fleet, node: &Node| {
        let theirs = node.deploy_to.join("releases/20200101000000");
        std::fs::create_dir_all(&theirs).unwrap();
        std::fs::write(theirs.join("version"), "theirs").unwrap();
        std::fs::create_dir_all(node.deploy_to.join("releases/not-a-release")).unwrap();
        symlink(&theirs, node.deploy_to.join("current")).unwrap();
    };
    let settings = |_: usize, _: &Path| "keep_releases = 1\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, furnish, settings, ..FleetSpec::default() });
    let theirs: Vec<_> = fleet.nodes.iter().map(Node::current).collect();
    // The first deploy fails: back to what the other tool had, to the letter.
    fleet.publish_and_stage("bad");
    fleet.nodes[1].fail("check", "no");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 9);
    assert_eq!(fleet.nodes.iter().map(Node::current).collect::<Vec<_>>(), theirs);
    fleet.nodes[1].mend("check");
    for version in ["one", "two", "three"] {
        fleet.deployed(version);
    }
    fleet.assert_all_run("three");
    for node in &fleet.nodes {
        assert_eq!(node.read("releases/20200101000000/version").as_deref(), Some("theirs"));
        assert!(node.list("releases").contains(&"not-a-release".to_owned()));
    }
}
