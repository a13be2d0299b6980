//! Small disks: the cache makes room by itself, a waiting deploy comes before prefetched builds, and no partial archive
//! remains that nobody continues. Small disks are filesystems in memory, which only root can mount.

use std::path::{Path, PathBuf};

use cutover_rig::tmpfs::{mount_at, unmount};

use crate::fleet::node::Node;
use crate::fleet::web::Web;
use crate::fleet::{Build, Fleet, FleetSpec, LIMIT, UNIT, commit_of, wait_until};

/// Mounts a small disk on a directory of a node, until the fleet ends.
fn small_disk(fleet: &Fleet, dir: PathBuf, size: &str) {
    std::fs::create_dir_all(&dir).unwrap();
    mount_at(size, &dir);
    fleet.at_end(move || unmount(&dir));
}

fn noise(seed: u64, mebibytes: usize) -> Vec<u8> {
    let mut noise = vec![0; mebibytes << 20];
    fastrand::Rng::with_seed(seed).fill(&mut noise);
    noise
}

/// Publishes a build of a branch that does not compress.
pub(super) fn publish(fleet: &Fleet, branch: &str, mebibytes: usize) -> Build {
    let tree = fleet.dir.path().join("build").join(branch);
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("version"), branch).unwrap();
    std::fs::write(tree.join("noise"), noise(branch.bytes().map(u64::from).sum(), mebibytes)).unwrap();
    let commit = commit_of(branch);
    let tree = tree.to_str().unwrap();
    let output = fleet.cutover(&["publish", "--app", "shop", "--branch", branch, "--commit", &commit, tree]);
    assert_eq!(output.code, 0, "{output}");
    Build { artifact: format!("{branch}-{}", &commit[..8]), commit }
}

/// The archives in the cache of a node.
fn cached(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(node.dir.join("cache/shop")).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let mut names: Vec<_> =
        entries.into_iter().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The path of a build's archive in the cache of a node.
fn cached_path(fleet: &Fleet, node: &Node, build: &Build) -> PathBuf {
    let key = format!("cutover/shop/builds/{}", build.artifact);
    let record = fleet.consul.key(&key).unwrap().unwrap().json().unwrap();
    let (sha256, format) = (record["sha256"].as_str().unwrap(), record["format"].as_str().unwrap());
    node.dir.join("cache/shop").join(format!("{}-{}.{format}", build.artifact, &sha256[..16]))
}

#[test]
fn a_small_disk_of_the_cache_does_not_stop_prefetching() {
    let furnish = |fleet: &Fleet, node: &Node| small_disk(fleet, node.dir.join("cache"), "size=50m");
    let fleet = Fleet::start(&FleetSpec { nodes: 1, furnish, ..FleetSpec::default() });
    for version in ["one", "two", "three", "four"] {
        let add = |tree: &Path| std::fs::write(tree.join("noise"), noise(version.len() as u64, 20)).unwrap();
        let build = fleet.publish_with(version, add);
        fleet.wait_staged(&build);
        let names = cached(&fleet.nodes[0]);
        assert!(names.len() <= 2 && names.iter().any(|name| name.starts_with(&build.artifact)), "{names:?}");
    }
}

#[test]
fn a_waiting_deploy_takes_the_space_of_prefetched_builds() {
    let furnish = |fleet: &Fleet, node: &Node| small_disk(fleet, node.deploy_to.clone(), "size=100m");
    let settings = |_: usize, _: &Path| "prefetch = [\"old\", \"new\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, furnish, settings, ..FleetSpec::default() });
    let (old, new) = (publish(&fleet, "old", 30), publish(&fleet, "new", 30));
    fleet.wait_staged(&old);
    fleet.wait_staged(&new);
    // 40 MiB are free, and 16 of them stay free.
    let hotfix = publish(&fleet, "hotfix", 30);
    let output = fleet.cutover(&["deploy", UNIT, "hotfix"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("hotfix");
    assert_eq!(fleet.nodes[0].logged("because a deploy of shop/production needs their disk space"), 1);
    // The room that is left goes to the newest of them.
    let record = wait_until(LIMIT, "a build is staged again", || {
        let record = fleet.json("nodes/web-1")?;
        (record["staged"] == serde_json::json!([new.artifact]) && record["runs"]["artifact"] == hotfix.artifact)
            .then_some(record)
    });
    assert!(record["free_bytes"].as_u64().unwrap() >= 16 << 20, "{record:#}");
    // Nothing gives way to this one, and nothing is downloaded.
    let huge = publish(&fleet, "huge", 60);
    let output = fleet.cutover(&["deploy", UNIT, "huge"]);
    assert_eq!(output.code, 4, "{output}");
    let said = output.to_string();
    assert!(
        said.contains(&format!("{} needs 60.0", huge.artifact)) && said.contains("or lower keep_releases"),
        "{said}"
    );
    assert!(!cached(&fleet.nodes[0]).iter().any(|name| name.starts_with("huge")), "{:?}", cached(&fleet.nodes[0]));
    fleet.assert_all_run("hotfix");
}

#[test]
fn budgets_of_disk_space_limit_prefetched_builds_and_old_releases() {
    let settings =
        |_: usize, _: &Path| "prefetch = [\"*\"]\nstaged_budget = \"20MiB\"\nreleases_budget = \"20MiB\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    let node = &fleet.nodes[0];
    let staged = |names: &[&Build]| {
        let names: Vec<&str> = names.iter().map(|build| build.artifact.as_str()).collect();
        wait_until(LIMIT, &format!("{names:?} are staged"), || {
            (fleet.json("nodes/web-1")?["staged"] == serde_json::json!(names)).then_some(())
        });
    };
    let a = publish(&fleet, "a", 8);
    staged(&[&a]);
    let b = publish(&fleet, "b", 8);
    staged(&[&a, &b]);
    // The newest ones are kept. One that does not fit leaves its place to an older one.
    let c = publish(&fleet, "c", 8);
    staged(&[&b, &c]);
    let huge = publish(&fleet, "huge", 21);
    wait_until(LIMIT, "the log names the build", || (node.logged("does not fit into staged_budget") > 0).then_some(()));
    staged(&[&b, &c]);
    // A deploy needs no budget of staged builds. Only one release fits beside the large one, which is in use.
    for build in [&b, &c, &huge, &a] {
        let output = fleet.cutover(&["deploy", UNIT, &build.artifact]);
        assert_eq!(output.code, 0, "{output}");
    }
    wait_until(LIMIT, "old releases are pruned", || (node.list("releases").len() == 2).then_some(()));
}

#[test]
fn a_partial_archive_is_continued_or_removed() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let node = &fleet.nodes[0];
    let one = fleet.publish_with("one", |tree| std::fs::write(tree.join("noise"), noise(1, 8)).unwrap());
    fleet.wait_staged(&one);
    fleet.kill(0);
    let two = fleet.publish_with("two", |tree| std::fs::write(tree.join("noise"), noise(2, 8)).unwrap());
    // As an agent that was killed in the middle of a download leaves it.
    let archive = std::fs::read(fleet.archive(&two)).unwrap();
    let half = archive.len() / 2;
    let part = |build: &Build| {
        let mut name = cached_path(&fleet, node, build).into_os_string();
        name.push(".part");
        PathBuf::from(name)
    };
    std::fs::write(part(&two), &archive[..half]).unwrap();
    let superseded = node.dir.join("cache/shop/master-0badc0de-0123456789abcdef.tar.zst.part");
    std::fs::write(&superseded, &archive[..half]).unwrap();
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    fleet.wait_staged(&two);
    wait_until(LIMIT, "partial archives are removed", || (!superseded.exists() && !part(&two).exists()).then_some(()));
    let metrics = Web::of(node).get("/metrics").text();
    let fetched = metrics.lines().find_map(|line| line.strip_prefix("cutover_prefetch_bytes_total "));
    assert_eq!(fetched, Some((archive.len() - half).to_string().as_str()), "it was continued");
    // A build whose object is cut is refused, and one whose record is gone was withdrawn.
    fleet.kill(0);
    for version in ["three", "four"] {
        let build = fleet.publish_with(version, |tree| std::fs::write(tree.join("noise"), noise(3, 2)).unwrap());
        std::fs::write(part(&build), [0; 100]).unwrap();
        if version == "three" {
            let object = std::fs::File::options().write(true).open(fleet.archive(&build)).unwrap();
            object.set_len(1000).unwrap();
            fleet.start_agent(0);
            let path = part(&build);
            wait_until(LIMIT, "the part of a damaged build is removed", || (!path.exists()).then_some(()));
            wait_until(LIMIT, "the damage is logged", || (node.logged("has 1000 bytes") > 0).then_some(()));
            fleet.kill(0);
        } else {
            let path = part(&build);
            fleet.consul(&["kv", "delete", &format!("cutover/shop/builds/{}", build.artifact)]);
            fleet.start_agent(0);
            wait_until(LIMIT, "the part of a withdrawn build is removed", || (!path.exists()).then_some(()));
        }
    }
}
