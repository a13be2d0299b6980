//! Notifications: real agents, real HTTP receivers that fail in every way, coordinators that die.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::fleet::receiver::{Call, Mode, Receiver};
use crate::fleet::run::{Output, Running};
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::people::metrics::value;

/// The key that webhooks are signed with here.
const KEY: [u8; 32] = [42; 32];
/// The flow's token.
const FLOW_TOKEN: &str = "flow-token-not-to-be-shown";

/// Settings with a signed webhook, `audit`, whose URL lies in `audit-url`. What follows `prefetch` is of no unit.
pub(crate) fn webhook(dir: &Path) -> String {
    std::fs::write(dir.join("audit-secret"), format!("whsec_{}", BASE64.encode(KEY))).unwrap();
    let dir = dir.display();
    format!(
        "prefetch = [\"master\"]\n[notify.audit]\nkind = \"webhook\"\nurl_file = \"{dir}/audit-url\"\n\
         secret_file = \"{dir}/audit-secret\"\n"
    )
}

/// The signature as the specification has it, made here.
fn signature(call: &Call) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&KEY).unwrap();
    mac.update(format!("{}.{}.", call.headers["webhook-id"], call.headers["webhook-timestamp"]).as_bytes());
    mac.update(&call.body);
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

/// What a webhook was told of deploys, as kind and epoch.
fn deploys(calls: &[Call]) -> Vec<(String, u64)> {
    calls.iter().map(Call::event).filter(|(kind, _)| kind.starts_with("deploy.")).collect()
}

fn told(fleet: &Fleet) -> Option<Value> {
    fleet.json("told/audit")
}

#[test]
fn a_deploy_is_notified_in_each_format_and_in_order() {
    let settings = |index: usize, dir: &Path| {
        std::fs::write(dir.join("flow-token"), FLOW_TOKEN).unwrap();
        let odd = if index == 2 { "keep_releases = 7\n" } else { "" };
        let (shown, dir) = (webhook(dir), dir.display());
        format!(
            "{odd}{shown}[notify.ops]\nkind = \"slack\"\nurl_file = \"{dir}/ops-url\"\nevents = [\"deploy.done\", \
             \"deploy.refused\"]\n[notify.flow]\nkind = \"flowdock\"\nurl_file = \"{dir}/flow-url\"\ntoken_file = \
             \"{dir}/flow-token\"\n[notify.elsewhere]\nkind = \"slack\"\nurl_file = \"{dir}/ops-url\"\nunits = \
             [\"blog/*\"]\n"
        )
    };
    let fleet = Fleet::start(&FleetSpec { settings, ..FleetSpec::default() });
    let [audit, ops, flow] = ["audit", "ops", "flow"]
        .map(|name| Receiver::start().written_to(&fleet.dir.path().join(format!("{name}-url"))));
    wait_until(LIMIT, "it is noted where they begin", || {
        (fleet.entry("told/audit").is_some() && fleet.entry("told/ops").is_some() && fleet.entry("told/flow").is_some())
            .then_some(())
    });
    let build = fleet.deployed("one");
    let epoch = fleet.newest_epoch();
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "sale <weekend>"]);
    assert_eq!(fleet.cutover(&["deploy", UNIT, &build.artifact]).code, 10);
    let refused = audit.wait_taken("deploy.refused", epoch);
    let seen = deploys(&audit.taken());
    let newest = refused.event().1;
    assert_eq!(
        seen.iter().map(|(kind, epoch)| (kind.as_str(), *epoch)).collect::<Vec<_>>(),
        [("deploy.started", epoch), ("deploy.done", epoch), ("deploy.refused", newest)]
    );
    for call in audit.taken() {
        assert_eq!(call.headers["webhook-signature"], signature(&call), "{call:?}");
        assert_eq!(call.headers["webhook-id"], call.json()["id"].as_str().unwrap());
    }
    assert_eq!(refused.json()["data"]["reason"].as_str().unwrap().matches("sale <weekend>").count(), 1, "{refused:?}");
    // Slack hears what it asked for, with a full text, escaped.
    let is = |call: &Call, words: &str| String::from_utf8_lossy(&call.body).contains(words);
    let slack = ops.wait("the refusal", |call| is(call, "deploy.refused")).json();
    assert!(slack["text"].as_str().unwrap().contains("sale &lt;weekend&gt;"), "{slack:#}");
    assert!(ops.calls().iter().all(|call| !is(call, "deploy.started") && call.path == "/hooks/not-to-be-shown"));
    // Flowdock has one thread for the deploy.
    flow.wait("the refusal", |call| is(call, "deploy.refused"));
    let thread = format!("deploy:{UNIT}:{epoch}");
    let threads = flow.taken().into_iter().filter(|call| call.json()["external_thread_id"] == thread.as_str()).count();
    assert_eq!(threads, 2, "begun and done");
    assert!(
        flow.taken().iter().all(|call| call.path.ends_with("/messages") && call.json()["flow_token"] == FLOW_TOKEN)
    );
    // A node with other settings than most.
    let drift = audit.wait("a node has drifted", |call| call.is_taken && call.event().0 == "node.drift").json();
    assert_eq!(drift["data"]["node"], "web-3", "{drift:#}");
    // What a coordinator has seen done besides deploys; and a receiver that is there no more.
    flow.set(Mode::Answer(410));
    let index = fleet.entry("freeze").unwrap().modify_index;
    for (after, action) in [(1, "freeze"), (2, "unfreeze"), (3, "publish")] {
        let number = index + after * 1_000_000;
        let subject = if action == "publish" { build.artifact.as_str() } else { "" };
        let record = json!({
            "format": 1, "era": 0, "epoch": number, "unit": UNIT, "action": action, "subject": subject, "by": "ann",
            "via": "cli", "why": "by hand", "at": "2026-11-23T09:00:00Z",
        });
        fleet.consul(&["kv", "put", &format!("{PREFIX}actions/{number}"), &record.to_string()]);
    }
    for (after, kind) in [(1, "group.frozen"), (2, "group.unfrozen"), (3, "build.published")] {
        audit.wait_taken(kind, index + after * 1_000_000 - 1);
    }
    let coordinator = &fleet.nodes[fleet.coordinator()];
    wait_until(LIMIT, "it is given up", || {
        (coordinator.logged("nothing is sent there until this agent starts again") > 0).then_some(())
    });
    assert_eq!(flow.calls().iter().filter(|call| !call.is_taken).count(), 1, "410 is asked no more");
    for node in &fleet.nodes {
        let log = node.log();
        for secret in ["not-to-be-shown", FLOW_TOKEN, &BASE64.encode(KEY)] {
            assert!(!log.contains(secret), "{secret} is in the log of {}", node.name);
        }
    }
}

#[test]
fn an_abort_a_revert_a_rollback_and_a_freeze_are_notified() {
    let settings = |index: usize, dir: &Path| {
        let drop_ins = dir.join(format!("web-{}/conf.d", index + 1));
        std::fs::create_dir_all(&drop_ins).unwrap();
        let compare = "[api]\ncompare_url = \"https://git.example.com/{app}/compare/{from}...{to}\"\n";
        std::fs::write(drop_ins.join("api.toml"), compare).unwrap();
        webhook(dir)
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, settings, ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    wait_until(LIMIT, "it is noted where it begins", || told(&fleet));
    let one = fleet.deployed("one");
    let two = fleet.publish_and_stage("two");
    let taken = |kind: &str, after: u64| {
        let call = audit.wait_taken(kind, after);
        (call.json()["data"].clone(), call.event().1)
    };
    let (begun, first) = taken("deploy.done", 0);
    assert!(begun["compare"].is_null(), "nothing ran before: {begun:#}");

    fleet.nodes[1].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[1].wait_hook("prepare");
    assert_eq!(fleet.cutover(&["abort", UNIT, "--reason", "wrong build"]).code, 0);
    fleet.nodes[1].release("prepare");
    assert_eq!(deploy.finish().code, 4);
    let (aborted, second) = taken("deploy.aborted", first);
    assert_eq!(aborted["artifact"], two.artifact.as_str(), "{aborted:#}");
    assert_eq!(aborted["from"], one.artifact.as_str(), "{aborted:#}");
    assert_eq!(aborted["outcome"], "aborted", "{aborted:#}");
    assert_eq!(aborted["by"], "ann", "{aborted:#}");
    assert!(aborted["text"].as_str().unwrap().contains("no node has switched"), "{aborted:#}");
    assert!(aborted["reason"].as_str().unwrap().contains("wrong build"), "{aborted:#}");

    fleet.nodes[1].fail("check", "no answer on :8080");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master", "--reason", "once more"]).code, 9);
    let (back, third) = taken("deploy.rolled_back", second);
    assert_eq!(back["outcome"], "reverted", "{back:#}");
    assert_eq!(back["node"], "web-2", "{back:#}");
    assert_eq!(back["step"], "check_hook", "{back:#}");
    assert_eq!(back["why"], "once more", "{back:#}");
    assert!(back["text"].as_str().unwrap().contains(&format!("was reverted to {}", one.artifact)), "{back:#}");
    assert!(back["output"].as_str().unwrap().contains("no answer on :8080"), "{back:#}");
    fleet.nodes[1].mend("check");

    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    let (done, fourth) = taken("deploy.done", third);
    let compared = |from: &str, to: &str| format!("https://git.example.com/shop/compare/{from}...{to}");
    assert_eq!(done["compare"], compared(&one.commit, &two.commit), "{done:#}");
    assert_eq!(fleet.cutover(&["rollback", UNIT]).code, 0);
    let (rollback, fifth) = taken("deploy.done", fourth);
    assert_eq!(rollback["rollback"], true);
    assert_eq!(rollback["artifact"], one.artifact.as_str());
    assert_eq!(rollback["compare"], compared(&two.commit, &one.commit), "{rollback:#}");
    assert_eq!(fleet.cutover(&["deploy", UNIT, &one.artifact, "--again"]).code, 0);
    let (again, sixth) = taken("deploy.done", fifth);
    assert!(again["compare"].is_null(), "a commit is not compared with itself: {again:#}");

    assert_eq!(fleet.cutover(&["freeze", UNIT, "--reason", "sale", "--until", "1h"]).code, 0);
    let (frozen, at) = taken("group.frozen", 0);
    assert_eq!(frozen["by"], "ann", "{frozen:#}");
    assert_eq!(frozen["via"], "cli", "{frozen:#}");
    assert_eq!(frozen["why"], "sale", "{frozen:#}");
    assert_eq!(frozen["unit"], UNIT, "{frozen:#}");
    assert!(frozen["until"].is_string(), "{frozen:#}");
    assert_eq!(fleet.cutover(&["unfreeze", UNIT, "--reason", "over"]).code, 0);
    let (lifted, _) = taken("group.unfrozen", at);
    assert_eq!(lifted["by"], "ann", "{lifted:#}");
    assert_eq!(lifted["why"], "over", "{lifted:#}");

    let ends = [
        (first, "done"),
        (second, "aborted"),
        (third, "rolled_back"),
        (fourth, "done"),
        (fifth, "done"),
        (sixth, "done"),
    ];
    let expected =
        ends.into_iter().flat_map(|(epoch, end)| ["started", end].map(|kind| (format!("deploy.{kind}"), epoch)));
    assert_eq!(deploys(&audit.taken()), expected.collect::<Vec<_>>());
}

#[test]
fn a_failing_receiver_is_retried_with_the_same_id_and_delays_no_other() {
    let settings = |_: usize, dir: &Path| {
        format!("{}[notify.ops]\nkind = \"slack\"\nurl_file = \"{}/ops-url\"\n", webhook(dir), dir.display())
    };
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    let ops = Receiver::start().written_to(&fleet.dir.path().join("ops-url"));
    wait_until(LIMIT, "it is noted where they begin", || told(&fleet));
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    audit.set(Mode::Answer(500));
    let begun = fleet.deployed("one");
    let epoch = fleet.newest_epoch();
    ops.wait("the other has heard of its end", |call| String::from_utf8_lossy(&call.body).contains("deploy.done"));
    for mode in [Mode::Nonsense, Mode::Close] {
        audit.set(mode);
        let before = audit.calls().len();
        wait_until(LIMIT, &format!("{mode:?}"), || (audit.calls().len() > before).then_some(()));
    }
    audit.set(Mode::Answer(200));
    audit.wait_taken("deploy.done", epoch - 1);
    let calls = audit.calls();
    let ids: Vec<&str> = calls.iter().filter(|call| call.event().0 == "build.published").map(Call::id).collect();
    assert!(ids.len() > 2 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let expected = [("deploy.started".to_owned(), epoch), ("deploy.done".to_owned(), epoch)];
    assert_eq!(deploys(&audit.taken()), expected, "of {}", begun.artifact);
}

#[test]
fn a_notification_that_is_always_refused_is_given_up_and_later_ones_are_sent() {
    let settings = |_: usize, dir: &Path| webhook(dir);
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    wait_until(LIMIT, "it is noted where it begins", || told(&fleet));
    audit.set(Mode::Answer(422));
    fleet.publish_and_stage("one");
    let first = audit.wait("the build is told", |call| call.event().0 == "build.published");
    fleet.consul(&["kv", "put", &format!("{PREFIX}freeze"), "sale"]);
    audit.wait("the next is told", |call| call.id() != first.id());
    audit.set(Mode::Answer(200));
    audit.wait_taken("group.frozen", 0);
    let tries = audit.calls().iter().filter(|call| call.id() == first.id()).count();
    assert_eq!(tries, 5);
    assert_eq!(fleet.nodes[0].logged("given up"), 1);
    // Whoever watches the metrics sees that it was not told.
    for (result, count) in [("failed", 5.0), ("given_up", 1.0)] {
        let series = format!("cutover_notifications_total{{receiver=\"audit\",result=\"{result}\"}}");
        wait_until(LIMIT, &series, || (value(&fleet.nodes[0], &series) >= count).then_some(()));
    }
    let taken = "cutover_notifications_total{receiver=\"audit\",result=\"taken\"}";
    wait_until(LIMIT, taken, || (value(&fleet.nodes[0], taken) >= 1.0).then_some(()));
}

#[test]
fn notifications_older_than_a_day_are_given_up_and_newer_ones_are_not() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings: |_, dir| webhook(dir), ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    wait_until(LIMIT, "it is noted where it begins", || told(&fleet));
    audit.set(Mode::Answer(503));
    let act = |age: i64, what: &str| {
        let epoch = fleet.entry("told/audit").unwrap().modify_index + u64::from(what == "freeze");
        let at = Timestamp::now() - SignedDuration::from_hours(age);
        let action = json!({"format": 1, "era": 0, "epoch": epoch, "unit": UNIT, "action": what, "subject": "",
            "by": "ann", "via": "api", "why": "sale", "at": at.to_string(), "until": null});
        fleet.consul(&["kv", "put", &format!("{PREFIX}actions/{epoch}"), &action.to_string()]);
    };
    act(25, "unfreeze");
    wait_until(LIMIT, "it is given up", || (fleet.nodes[0].logged("given up") == 1).then_some(()));
    act(23, "freeze");
    let is_tried = |kind: &str| audit.calls().iter().filter(|call| call.event().0 == kind).count();
    wait_until(LIMIT, "the newer one is tried again", || (is_tried("group.frozen") > 1).then_some(()));
    assert_eq!(is_tried("group.unfrozen"), 1);
    assert_eq!(fleet.nodes[0].logged("given up"), 1);
    audit.set(Mode::Answer(200));
    audit.wait("the newer one is taken", |call| call.is_taken && call.event().0 == "group.frozen");
}

#[test]
fn notifications_of_a_killed_coordinator_are_sent_by_the_next() {
    let fleet = Fleet::start(&FleetSpec { settings: |_, dir| webhook(dir), ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    wait_until(LIMIT, "it is noted where it begins", || told(&fleet));
    fleet.deployed("one");
    let one = fleet.newest_epoch();
    audit.wait_taken("deploy.done", one - 1);
    fleet.publish_and_stage("two");
    audit.set(Mode::Stall);
    // Ends although its receiver answers nothing at all.
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    let two = fleet.newest_epoch();
    let held = audit.wait("it is begun to be told", |call| call.was_stalled && !call.is_taken);
    assert_eq!(held.event(), ("deploy.started".to_owned(), two));
    let first = fleet.coordinator();
    let session = fleet.entry("coordinator").unwrap().session.unwrap();
    fleet.kill(first);
    // What it held is answered now, to nobody.
    audit.set(Mode::Answer(200));
    fleet.end_session(&session);
    let fresh = |kind: &str| {
        let kind = kind.to_owned();
        let call = audit.wait(&kind, |call| call.is_taken && !call.was_stalled && call.event() == (kind.clone(), two));
        call.id().to_owned()
    };
    assert_eq!(fresh("deploy.started"), held.id(), "what was perhaps taken is known as the same");
    fresh("deploy.done");
    wait_until(LIMIT, "it is noted", || told(&fleet).filter(|told| told["ended"]["epoch"] == two));
    let taken: Vec<_> = audit.taken().into_iter().filter(|call| !call.was_stalled).collect();
    let expected = [("deploy.started", one), ("deploy.done", one), ("deploy.started", two), ("deploy.done", two)];
    assert_eq!(deploys(&taken), expected.map(|(kind, epoch)| (kind.to_owned(), epoch)));
}

#[test]
fn a_coordinator_without_the_lock_writes_no_cursor() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings: |_, dir| webhook(dir), ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    wait_until(LIMIT, "it is noted where it begins", || told(&fleet));
    audit.set(Mode::Stall);
    fleet.deployed("one");
    let epoch = fleet.newest_epoch();
    let held = audit.wait("it is begun to be told", |call| call.was_stalled);
    let before = fleet.entry("told/audit").unwrap().modify_index;
    // The lock goes, and the agent's session lives on: nothing tells it but the fence.
    let reply = fleet.consul.call("PUT", "session/create", b"{\"LockDelay\":\"0s\"}").unwrap();
    let session: Value = serde_json::from_slice(&reply.body).unwrap();
    let session = session["ID"].as_str().unwrap();
    fleet.consul(&["kv", "delete", &format!("{PREFIX}coordinator")]);
    let reply = fleet.consul.call("PUT", &format!("kv/{PREFIX}coordinator?acquire={session}"), b"the test").unwrap();
    assert_eq!(reply.body, b"true", "{reply:?}");
    audit.set(Mode::Answer(200));
    wait_until(LIMIT, "it learns that the lock is another's", || {
        (fleet.nodes[0].logged("sends the remaining notifications") > 0).then_some(())
    });
    assert_eq!(fleet.entry("told/audit").unwrap().modify_index, before);
    // Whoever holds it next tells all of it, what was taken once more as the same.
    fleet.end_session(session);
    fleet.put_deploy("{\"ref\":\"master\",\"again\":true}");
    audit.wait_taken("deploy.done", epoch);
    let ids: Vec<String> =
        audit.taken().iter().filter(|call| call.event() == held.event()).map(|it| it.id().into()).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| id == held.id()), "{ids:?}");
    wait_until(LIMIT, "the end of the first is told too", || {
        audit.taken().iter().any(|call| call.event() == ("deploy.done".to_owned(), epoch)).then_some(())
    });
}

#[test]
fn a_missing_coordinator_is_notified_once_by_the_first_live_node() {
    let settings =
        |index: usize, dir: &Path| format!("{}{}", if index == 0 { "" } else { "coordinate = false\n" }, webhook(dir));
    let fleet = Fleet::start(&FleetSpec { settings, ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    fleet.term(0);
    let call = audit.wait("it is told", |call| call.is_taken && call.event().0 == "coordinator.missing");
    assert!(call.json()["data"]["text"].as_str().unwrap().contains("(reported by web-2)"), "{call:?}");
    // It comes back and coordinates, and nothing more is said about that gap.
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0, 1, 2]);
    fleet.deployed("one");
    audit.wait_taken("deploy.done", 0);
    assert_eq!(audit.calls().iter().filter(|call| call.event().0 == "coordinator.missing").count(), 1);
}

/// Runs `cutover notify test` with a config of its own.
fn notify_test(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    crate::fleet::run::clean_env(&mut command, dir);
    command.args(["notify", "test", "--config"]).arg(dir.join("cutover.toml")).args(arguments);
    Running::begin(command, dir).finish()
}

#[test]
fn a_test_notification_shows_the_receivers_reply() {
    let dir = tempfile::tempdir().unwrap();
    let settings = webhook(dir.path()).replace("prefetch = [\"master\"]\n", "");
    std::fs::write(dir.path().join("cutover.toml"), settings).unwrap();
    let output = notify_test(dir.path(), &["nobody"]);
    assert!(output.code == 2 && output.stderr.contains("audit"), "{output}");
    let output = notify_test(dir.path(), &["audit"]);
    assert!(output.code == 1 && output.stderr.contains("audit-url cannot be read"), "{output}");
    let audit = Receiver::start().written_to(&dir.path().join("audit-url"));
    let output = notify_test(dir.path(), &["audit"]);
    assert!(output.code == 0 && output.stdout.contains("200") && output.stdout.contains("well"), "{output}");
    let output = notify_test(dir.path(), &["audit", "--output", "json"]);
    assert_eq!(output.code, 0);
    assert_eq!(output.json()["status"], json!(200));
    assert_eq!(output.json()["body"], json!("well"));
    let calls = audit.calls();
    assert_ne!(calls[0].id(), calls[1].id());
    assert_eq!(calls[0].event().0.as_str(), "test");
    assert_eq!(calls[0].headers["webhook-signature"], signature(&calls[0]));
    for (mode, code, words) in [
        (Mode::Answer(403), 1, "the receiver answered 403 Forbidden: well"),
        (Mode::Answer(302), 1, "the receiver answered 302 Found"),
        (Mode::Answer(410), 1, "410 Gone"),
        (Mode::Close, 8, "cannot be reached"),
        (Mode::Nonsense, 8, "cannot be reached"),
    ] {
        audit.set(mode);
        let output = notify_test(dir.path(), &["audit"]);
        assert!(output.code == code && output.stderr.contains(words), "{mode:?}: {output}");
        assert!(!output.stderr.contains("not-to-be-shown"), "{output}");
    }
}
