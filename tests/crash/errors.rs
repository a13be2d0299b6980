//! A system call of a deploy that fails: the disk is full, broken or read-only, or there are no more descriptors.

use nix::errno::Errno;
use serde_json::Value;

use crate::calls::{Call, Effect};
use crate::lane::{Lane, Run, Scenario};
use crate::sweep::{LANES, RUNS, Task, count, named, sweep};
use crate::tracer::{Aim, Deed};

/// Of the calls that change the disk, `cargo test` lets every so-many-th fail.
const EVERY: usize = 30;
/// The first of them.
const FIRST: usize = 13;

/// Calls whose failure was handled wrongly once (docs/proofs.md); `cargo test` lets all of them fail.
const ONCE_WRONG: &[(&str, Errno)] = &[
    ("Prepare: fsync(web-1/srv/.cutover/staged), number 2", Errno::ENOSPC),
    ("Prepare: openat(web-1/srv/.cutover/releases/*.json), number 1", Errno::EMFILE),
    ("Prepare: rmdir(web-1/srv/releases/.cutover-probe-*), number 1", Errno::EIO),
    ("Prepare: unlink(web-1/srv/.current.*), number 2", Errno::EROFS),
    ("Switch: openat(web-1/srv/.cutover/tmp/write-*), number 1", Errno::EMFILE),
    ("Prune: getdents64(web-1/srv/.cutover/releases), number 1", Errno::EIO),
];

#[test]
fn a_deploy_in_which_some_calls_fail_is_done_or_says_why_and_the_next_one_works() {
    let mut lane = Lane::start();
    let mut tasks = tasks(&mut lane, 2);
    let mut some = Vec::new();
    for (call, error) in ONCE_WRONG {
        let is_it = |task: &&Task| task.aim.call.to_string() == *call && task.aim.deed == Deed::Fail(*error);
        some.push(tasks.iter().find(is_it).unwrap_or_else(|| panic!("no deploy makes this call: {call}")).clone());
    }
    tasks.retain(|task| task.aim.call.effect == Effect::Changes);
    some.extend(tasks.into_iter().skip(FIRST).step_by(EVERY));
    sweep("errors", some, lane, 1, judge).assert_right();
}

#[test]
#[ignore = "takes a quarter of an hour: make crash-sweep"]
fn a_deploy_in_which_any_call_fails_is_done_or_says_why_and_the_next_one_works() {
    let mut lane = Lane::start();
    let tasks = named(tasks(&mut lane, RUNS));
    sweep("errors", tasks, lane, LANES, judge).assert_right();
}

/// Every error of every call that each of so many runs makes.
fn tasks(lane: &mut Lane, runs: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    for scenario in [Scenario::Good, Scenario::CheckFails] {
        for call in count(lane, scenario, runs) {
            let aim = |error: &Errno| Aim { call: call.clone(), deed: Deed::Fail(*error) };
            tasks.extend(errors(&call).iter().map(|error| Task { scenario, aim: aim(error) }));
        }
    }
    tasks
}

/// The errors of a broken machine that a call can return (see its manual page).
fn errors(call: &Call) -> &'static [Errno] {
    use Errno::{EIO, EMFILE, ENOSPC, EROFS};
    match (call.effect, call.name) {
        (Effect::Sends, _) => &[],
        (Effect::Opens, _) => &[EMFILE],
        (Effect::Changes, "openat" | "open" | "creat") => &[ENOSPC, EIO, EROFS, EMFILE],
        (Effect::Reads, "openat" | "open") => &[EIO, EMFILE],
        (Effect::Reads, _) => &[EIO],
        (
            Effect::Changes,
            "mkdir" | "mkdirat" | "rename" | "renameat" | "renameat2" | "symlink" | "symlinkat" | "link" | "linkat",
        ) => &[ENOSPC, EIO, EROFS],
        (
            Effect::Changes,
            "unlink" | "unlinkat" | "rmdir" | "chmod" | "fchmod" | "fchmodat" | "utimensat" | "ftruncate",
        ) => &[EIO, EROFS],
        (Effect::Changes, "write" | "pwrite64" | "writev" | "fsync" | "fdatasync" | "syncfs" | "copy_file_range") => {
            &[ENOSPC, EIO]
        }
        (Effect::Changes, _) => &[EIO],
    }
}

fn judge(task: &Task, run: &Run) -> Result<(), String> {
    if let Some(status) = run.exit {
        let says_why = run.log.contains("is stopping because it cannot continue: ");
        if status.code() != Some(1) || !says_why {
            return Err(format!("the agent ended with {status}"));
        }
    }
    let record = &run.record;
    let fault = match (task.scenario, run.outcome()) {
        (Scenario::Good, "done") | (Scenario::CheckFails, "reverted") => return Ok(()),
        (_, "aborted") | (Scenario::Good, "reverted") => &record["fault"],
        // The node could not go back, and did so later. The fault of the deploy is that of the check.
        (Scenario::CheckFails, "failed") => &record["nodes"]["web-1"]["fault"],
        _ => &Value::Null,
    };
    let reason = fault["reason"].as_str().unwrap_or_default();
    let Deed::Fail(error) = task.aim.deed else { return Err("nothing failed".to_owned()) };
    if record["node"] != "web-1" || !fault["step"].is_string() || !reason.contains(&text(error)) {
        return Err(format!("the deploy ended as {record}"));
    }
    Ok(())
}

/// As messages have it.
fn text(error: Errno) -> String {
    std::io::Error::from(error).to_string()
}
