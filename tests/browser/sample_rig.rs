//! A rig with a past: what the pages show to somebody who comes on an ordinary day.
//!
//! All tests that only look share one. Each kind of end is there, and a deploy that runs for as long as anybody looks.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use crate::fleet::{Build, LIMIT, UNIT, wait_until};
use crate::rig::{OTHER_UNIT, Rig};

/// How much is in a build: some hundred kilobytes.
const BUILD_WORDS: u64 = 40_000;

/// The furnished rig, for every test that runs at the same time; the last one to finish ends it.
pub(crate) fn sample_rig() -> Arc<Rig> {
    static OPEN: Mutex<Weak<Rig>> = Mutex::new(Weak::new());
    // Poisoned when the rig of another test could not be furnished; this one's may.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(rig) = open.upgrade() {
        return rig;
    }
    let rig = Arc::new(Rig::start());
    furnish(&rig);
    *open = Arc::downgrade(&rig);
    rig
}

fn furnish(rig: &Rig) {
    let fleet = &rig.fleet;
    let deploy = |version: &str, subject: &str, outcome: &str, reason: &str| {
        let build = publish(rig, version, subject);
        ends(rig, outcome, &["deploy", UNIT, &build.artifact, "--reason", reason]);
        build
    };
    deploy("one", "Open the shop", "done", "the first release");
    deploy("two", "Show prices with VAT", "done", "accounting asked for it");
    fleet.nodes[2].fail("prepare", "shared/payment.key is missing here, and version three needs it\n");
    deploy("three", "Check out in one step", "aborted", "the new checkout");
    fleet.nodes[2].mend("prepare");
    fleet.nodes[1].fail("check", "GET /healthz: 503 Service Unavailable\nno connection to the database\n");
    let four = deploy("four", "Check out in one step, and pay", "reverted", "the new checkout, again");
    fleet.nodes[1].mend("check");
    ends(rig, "done", &["rollback", UNIT, "--reason", "orders are counted twice"]);
    done(rig, &["build", "mark-bad", "shop", &four.artifact, "--reason", "cannot reach the database"]);
    let url = "https://ci.example.com/builds/";
    let ci = |what: &str, branch: &str, commit: &str, number: u32| {
        let url = format!("{url}{number}");
        done(rig, &["build", what, "shop", "--branch", branch, "--commit", &commit.repeat(40), "--url", &url]);
    };
    ci("start", "feature/gift-cards", "a", 4711);
    ci("fail", "feature/new-search", "b", 4712);
    ci("cancel", "hotfix/tax", "c", 4713);
    blog(rig);
    let five = publish(rig, "five", "Find the database that orders are in");
    fleet.nodes[1].hold("prepare");
    let arguments = ["deploy", UNIT, &five.artifact, "--reason", "the new checkout, mended", "--no-wait"];
    assert_eq!(fleet.cutover_as(rig.token_of("ann"), &arguments).code, 0);
    fleet.nodes[1].wait_hook("prepare");
    for index in [0, 2] {
        let key = format!("acks/{}", fleet.nodes[index].name);
        let answered = |ack: &Value| ack["answer"] == "prepared" && ack["epoch"] == fleet.newest_epoch();
        wait_until(LIMIT, "all others have answered", || fleet.json(&key).filter(answered));
    }
}

/// Publishes a build of an ordinary size, and waits until every node has it unpacked.
fn publish(rig: &Rig, version: &str, message: &str) -> Build {
    // Digits that hardly compress, and others for each version.
    let digits = |number: u64| format!("{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.len() as u64);
    let text: String = (0..BUILD_WORDS).map(digits).collect();
    let build = rig.fleet.publish_saying(version, message, |tree| std::fs::write(tree.join("data"), text).unwrap());
    rig.fleet.wait_staged(&build);
    build
}

/// The other unit runs its only build, and is frozen.
fn blog(rig: &Rig) {
    let tree = rig.fleet.dir.path().join("build/one");
    let tree = tree.to_str().unwrap();
    done(rig, &["publish", "--app", "blog", "--branch", "main", "--commit", &"d".repeat(40), tree]);
    done(rig, &["deploy", OTHER_UNIT, "main"]);
    done(rig, &["freeze", OTHER_UNIT, "--reason", "the database moves tonight"]);
}

/// A command as ann gives it, and how what it asks for ends.
fn ends(rig: &Rig, outcome: &str, arguments: &[&str]) {
    let record = rig.fleet.outcome_of(|| drop(rig.fleet.cutover_as(rig.token_of("ann"), arguments)));
    assert_eq!(record["outcome"], json!(outcome), "{arguments:?}: {record:#}");
}

/// A command of the token that may do everything.
fn done(rig: &Rig, arguments: &[&str]) {
    let output = rig.fleet.cutover(arguments);
    assert_eq!(output.code, 0, "{arguments:?}: {output}");
}
