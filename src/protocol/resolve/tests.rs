use jiff::SignedDuration;

use super::*;
use crate::protocol::record::Place;

fn at(minute: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute)
}

fn commit(n: u32) -> Commit {
    format!("{n:08x}").repeat(5).parse().unwrap()
}

fn build(n: u32, minute: i64) -> Build {
    Build { at: at(minute), ..Build::sample(&format!("master-{n:08x}")) }
}

fn run(state: RunState, n: u32, begun: Option<i64>, minute: i64) -> (ArtifactName, Run) {
    let name = format!("master-{n:08x}");
    let run = Run { state, begun_at: begun.map(at), at: at(minute), ..Run::sample(&name) };
    (name.parse().unwrap(), run)
}

fn building(n: u32, minute: i64, lost_at: Option<i64>) -> (ArtifactName, Run) {
    let (name, run) = run(RunState::Building, n, Some(minute), minute);
    (name, Run { lost_at: lost_at.map(at), ..run })
}

/// What a request selects of these builds, without runs.
fn select(request: &str, builds: &[Build], tips: Option<&Tips>) -> Result<Resolved, Fault> {
    let unit = "shop/production".parse().unwrap();
    let known = Catalogue {
        unit: &unit,
        builds,
        runs: &BTreeMap::new(),
        bad: &BTreeMap::new(),
        tips,
        history: &[],
        committed: None,
        now: at(1_000),
    };
    resolve(&Request::parse(request.as_bytes()).unwrap(), &known)
}

fn selected(request: &str, builds: &[Build], tips: Option<&Tips>) -> String {
    select(request, builds, tips).unwrap().build.artifact.to_string()
}

fn tag(name: &str, n: u32) -> Build {
    let name: Branch = name.parse().unwrap();
    Build { tag: Some(name.clone()), ..Build::sample(&format!("{name}-{n:08x}")) }
}

fn tips(branch: Option<u32>, tag: Option<u32>) -> Tips {
    Tips { branch: branch.map(commit), tag: tag.map(commit) }
}

fn deploy_master(runs: impl IntoIterator<Item = (ArtifactName, Run)>, now: i64) -> Result<Resolved, Fault> {
    let unit = "shop/production".parse().unwrap();
    let known = Catalogue {
        unit: &unit,
        builds: &[build(1, 0)],
        runs: &runs.into_iter().collect(),
        bad: &BTreeMap::new(),
        tips: None,
        history: &[],
        committed: None,
        now: at(now),
    };
    resolve(&Request::parse(b"branch:master").unwrap(), &known)
}

#[test]
fn a_newer_run_that_is_building_holds_a_deploy_until_it_is_lost() {
    let fault = deploy_master([building(2, 10, Some(70))], 69).unwrap_err();
    assert!(fault.reason.contains("00000002, a newer commit of master, is still being built"), "{}", fault.reason);
    let found = deploy_master([building(2, 10, Some(70))], 70).unwrap();
    assert_eq!(found.build.artifact.as_str(), "master-00000001");
    assert!(found.notes[0].contains("00000002") && found.notes[0].contains("lost"), "{:?}", found.notes);
}

#[test]
fn a_lost_run_does_not_hide_one_that_is_building() {
    let runs = [building(2, 10, None), building(3, 20, Some(30))];
    let fault = deploy_master(runs, 40).unwrap_err();
    assert!(fault.reason.contains("00000002, a newer commit of master, is still being built"), "{}", fault.reason);
}
#[test]
fn neither_a_canceled_nor_a_published_run_hides_a_newer_one_that_failed_or_is_built() {
    use RunState::{Building, Canceled, Failed, Published};
    for (unfinished, how) in [(Failed, "failed to build"), (Building, "is still being built")] {
        for newest in [Canceled, Published] {
            let runs = [run(unfinished, 2, Some(10), 11), run(newest, 3, Some(20), 21)];
            let fault = deploy_master(runs, 40).unwrap_err();
            assert_eq!(fault.step, Step::Request, "there is a build, and it is refused");
            let expected = format!("00000002, a newer commit of master, {how}; the newest that can be deployed is");
            assert!(fault.reason.contains(&expected), "{newest:?}: {}", fault.reason);
        }
    }
    for passed_over in [Canceled, Published] {
        let found = deploy_master([run(passed_over, 2, Some(10), 11)], 40).unwrap();
        assert!(found.notes.is_empty(), "{passed_over:?}: {:?}", found.notes);
    }
}

#[test]
fn of_several_unfinished_runs_the_newest_is_named() {
    let runs = [run(RunState::Failed, 2, Some(10), 30), run(RunState::Failed, 3, Some(20), 25)];
    let fault = deploy_master(runs, 40).unwrap_err();
    assert!(fault.reason.starts_with("00000003, a newer commit"), "{}", fault.reason);
}

#[test]
fn an_older_commit_that_fails_late_is_not_a_newer_one() {
    // The build that is recorded at 0 began at -5.
    let own = run(RunState::Published, 1, Some(-5), 0);
    let late = deploy_master([own.clone(), run(RunState::Failed, 2, Some(-10), 10)], 40).unwrap();
    assert_eq!(late.build.artifact.as_str(), "master-00000001");
    // A run that began later and failed before the build was recorded is newer.
    let fault = deploy_master([own, run(RunState::Failed, 2, Some(-4), -1)], 40).unwrap_err();
    assert!(fault.reason.contains("00000002, a newer commit of master, failed to build"), "{}", fault.reason);
    // Where CI did not report a start, the last report counts.
    for begun in [None, Some(-10)] {
        assert!(deploy_master([run(RunState::Failed, 2, begun, 10)], 40).is_err(), "{begun:?}");
    }
}

#[test]
fn runs_of_other_branches_and_of_the_same_commit_hold_no_deploy() {
    let (name, elsewhere) = run(RunState::Failed, 2, None, 10);
    let elsewhere = (name, Run { branch: "hotfix".parse().unwrap(), ..elsewhere });
    assert!(deploy_master([elsewhere], 40).is_ok());
    assert!(deploy_master([run(RunState::Failed, 1, None, 10)], 40).is_ok());
}

#[test]
fn a_build_of_a_pull_request_is_selected_by_its_name_and_its_commit_only() {
    let of_fork = Build { pull_request: Some("7".to_owned()), ..build(2, 10) };
    let builds = [build(1, 0), of_fork.clone()];
    for request in ["master", "branch:master", "refs/heads/master"] {
        assert_eq!(selected(request, &builds, None), "master-00000001");
        let fault = select(request, &builds, Some(&tips(Some(2), None))).unwrap_err();
        assert!(fault.reason.contains("branch master is at 00000002, which has no artifact"), "{}", fault.reason);
        let fault = select(request, std::slice::from_ref(&of_fork), None).unwrap_err();
        assert_eq!(fault.step, Step::NotFound);
    }
    for request in ["master-00000002", "artifact:master-00000002", "commit:00000002", &"00000002".repeat(5)] {
        assert_eq!(selected(request, &builds, None), "master-00000002");
    }
    // Built again after the merge, under another name.
    let merged = Build { artifact: "master-abcdef-00000002".parse().unwrap(), ..build(2, 20) };
    assert_eq!(selected("commit:00000002", &[of_fork, merged], None), "master-abcdef-00000002");
}

#[test]
fn a_run_of_a_pull_request_or_a_tag_holds_no_deploy_of_the_branch() {
    let (name, of_fork) = run(RunState::Failed, 2, Some(10), 11);
    let of_tag = Run { tag: Some("master".parse().unwrap()), ..of_fork.clone() };
    let of_fork = Run { pull_request: Some("7".to_owned()), ..of_fork };
    for other in [of_fork, of_tag] {
        assert!(deploy_master([(name.clone(), other)], 40).unwrap().notes.is_empty());
    }
}

#[test]
fn a_run_of_an_ancestor_holds_no_deploy_and_one_of_a_descendant_does() {
    let (name, older) = run(RunState::Failed, 2, Some(10), 11);
    let of = |n| vec![Place::digits(&commit(n)).to_owned()];
    let newest = Build { place: Place { order: Some(at(0)), ancestors: of(2) }, ..build(1, 0) };
    assert!(!is_newer(&older, &newest, None));
    let newer = Run { place: Place { order: Some(at(-5)), ancestors: of(1) }, ..older };
    let unknown = Build { place: Place { order: Some(at(0)), ancestors: Vec::new() }, ..newest };
    assert!(is_newer(&newer, &unknown, None), "{name}");
}

#[test]
fn a_tag_is_found_by_its_name_and_in_the_repository_through_its_commit() {
    let builds = [build(1, 0), tag("v1", 3)];
    for request in ["v1", "tag:v1", "refs/tags/v1"] {
        assert_eq!(selected(request, &builds, None), "v1-00000003");
        assert_eq!(selected(request, &builds, Some(&tips(None, Some(3)))), "v1-00000003");
    }
    // Published as if the tag was a branch.
    let plain = [Build { tag: None, ..tag("v1", 3) }];
    assert_eq!(selected("v1", &plain, Some(&tips(None, Some(3)))), "v1-00000003");
    // Only its commit was built.
    let fault = select("v1", &builds, Some(&tips(None, Some(1)))).unwrap_err();
    assert!(fault.reason.contains("v1 is at 00000001, which has no artifact"), "{}", fault.reason);
    let fault = select("v1", &[build(1, 0)], Some(&tips(None, Some(1)))).unwrap_err();
    assert!(fault.reason.contains("artifact:master-00000001"), "{}", fault.reason);
    for (request, found, says) in [
        ("v1", tips(None, None), "has no branch and no tag v1"),
        ("branch:v1", tips(None, Some(3)), "has no branch v1, but a tag: ask for tag:v1"),
        ("tag:v1", tips(Some(3), None), "has no tag v1"),
    ] {
        let fault = select(request, &builds, Some(&found)).unwrap_err();
        assert!(fault.step == Step::NotFound && fault.reason.contains(says), "{}", fault.reason);
    }
}

#[test]
fn a_branch_and_a_tag_of_one_name_are_refused_unless_the_request_says_which() {
    let builds = [build(1, 0), tag("master", 3)];
    let says = "master is a branch and a tag: ask for branch:master or tag:master";
    assert_eq!(select("master", &builds, None).unwrap_err().reason, says);
    let found = tips(Some(1), Some(3));
    assert_eq!(select("master", &builds, Some(&found)).unwrap_err().reason, says);
    for tips in [None, Some(&found)] {
        assert_eq!(selected("branch:master", &builds, tips), "master-00000001");
        assert_eq!(selected("tag:master", &builds, tips), "master-00000003");
    }
    assert_eq!(selected("master", &builds, Some(&tips(Some(1), Some(1)))), "master-00000001");
}

#[test]
fn a_later_publish_that_is_passed_over_is_noted() {
    let placed =
        |n, minute, order| Build { place: Place { order: Some(at(order)), ancestors: Vec::new() }, ..build(n, minute) };
    let builds = [placed(1, 20, 1), placed(2, 10, 2)];
    let found = select("master", &builds, None).unwrap();
    assert_eq!(found.build.artifact.as_str(), "master-00000002");
    let says = "master-00000001 of master was published after master-00000002, and is passed over: its commit is older";
    assert!(found.notes[0].starts_with(says), "{:?}", found.notes);
    let found = select("master", &builds, Some(&tips(Some(2), None))).unwrap();
    assert!(found.notes[0].ends_with("master is at 00000002 in the repository"), "{:?}", found.notes);
    let ahead = select("master", &[placed(1, 5_000, 1), placed(2, 10, 2)], None).unwrap();
    assert!(ahead.notes[0].contains("lies in the future"), "{:?}", ahead.notes);
    assert!(select("master", &[placed(1, 5, 1), placed(2, 10, 2)], None).unwrap().notes.is_empty());
}

#[test]
fn a_part_of_a_commit_gets_the_hint_how_to_ask_for_it() {
    let fault = select("0000000", &[build(1, 0)], None).unwrap_err();
    assert!(fault.reason.ends_with("ask for commit:0000000"), "{}", fault.reason);
}
