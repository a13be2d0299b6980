//! The texts and formats of events, and the order of pending ones.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::webhook::Key;
use super::*;
use crate::config::EventKind;
use crate::consul::Secret;
use crate::protocol::ids::{Epoch, ModifyIndex};
use crate::protocol::record::{
    Action, Changes, CommitLine, CommitList, Commits, FileCounts, History, ReceiverCursor, Summary,
};

fn epoch(number: u64) -> Epoch {
    Epoch { era: 0, number }
}

fn at(secs: u64) -> String {
    format!("2026-11-23T22:{:02}:{:02}Z", 13 + secs / 60, secs % 60)
}

/// A request that started at second `number`; with an outcome, it ended a second later.
fn history(number: u64, outcome: Option<&str>) -> History {
    let fault = json!({"step": "check_hook", "reason": "./bin/healthy ended with <1> & \"no\"", "output": "a\nb"});
    let is_bad = outcome.is_some_and(|outcome| outcome != "done");
    serde_json::from_value(json!({
        "format": 1, "era": 0, "epoch": number, "unit": "shop/production", "request": "master", "by": "ann",
        "via": "cli", "why": "<b>sale</b>", "artifact": "master-c148bddd", "branch": "master",
        "commit": "c148bddd8eeb7cfb11ebd3353e8f112cc35d3ac4", "subject": "<b>Fix</b> the till", "author": "Bob", "release": "20261123221317", "from": {
            "era": 0, "epoch": 1, "artifact": "master-796fe89a", "release": "20261123221316",
            "sha256": "08f1537b5a985a2b418e5dcd0f87966362e7bd552f1a87139532ae59d005c695"},
        "outcome": outcome, "node": is_bad.then_some("n3"), "fault": is_bad.then_some(fault),
        "nodes": {"n1": {"answer": "switched"}, "n3": {"answer": "failed"}}, "coordinator": "n2",
        "started_at": at(number), "ended_at": outcome.map(|_| at(number + 1)),
    }))
    .unwrap()
}

fn action(number: u64, what: &str, subject: &str) -> Action {
    serde_json::from_value(json!({
        "format": 1, "era": 0, "epoch": number, "unit": "shop/production", "action": what, "subject": subject,
        "by": "ann", "via": "api", "why": "sale", "summary": {"subject": "Fix <!channel> & all"}, "at": at(number), "until": null,
        "verified": {"name": "Ann B.", "means": "token", "accessor": "a-1", "token": "ann's"},
    }))
    .unwrap()
}

fn every_event() -> Vec<Event> {
    let unit = "shop/production".parse().unwrap();
    let when: Timestamp = at(0).parse().unwrap();
    let mut events: Vec<Event> = ["done", "refused", "aborted", "reverted", "failed"]
        .iter()
        .filter_map(|outcome| Event::ended(&history(7, Some(outcome))))
        .collect();
    events.extend(Event::started(&history(7, None)));
    events.extend(["publish", "freeze", "unfreeze"].iter().filter_map(|it| {
        let subject = if *it == "publish" { "master-c148bddd" } else { "" };
        Event::acted(&action(9, it, subject))
    }));
    let node = "n3".parse().unwrap();
    events.push(Event::drift(&unit, &node, Some(epoch(7)), "current points to /srv/old", when));
    events.push(Event::coordinator_missing(&unit, ModifyIndex(12), &node, when));
    events.push(Event::test("ops", "evt_1".to_owned(), when));
    let before = "796fe89a".repeat(5).parse().unwrap();
    let compare_url = Some("https://git.example.com/{app}/compare/{from}...{to}?a=1&b=<2>");
    let linked = |event: Event| event.linked(Some("https://deploy.example.com")).compared(compare_url, &before);
    events.into_iter().map(linked).collect()
}

#[test]
fn every_event_has_its_own_sentence_and_a_stable_id() {
    let events = every_event();
    let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    // `reverted` and `failed` here are outcomes of the same deploy; a real deploy has only one.
    assert_eq!(ids.len(), events.len() - 1);
    assert!(ids.iter().all(|id| id.starts_with("evt_") && !id.contains('.')), "{ids:?}");
    let again: Vec<String> = every_event().into_iter().map(|event| event.id).collect();
    assert_eq!(again, events.iter().map(|event| event.id.clone()).collect::<Vec<_>>());
    let sentences: Vec<String> =
        events.iter().map(|event| format!("{:<20} {} {}", event.kind.as_str(), event.id, event.data.text)).collect();
    insta::assert_snapshot!(sentences.join("\n"));
}

#[test]
fn a_message_names_at_most_three_commits_and_counts_the_files() {
    let line = |n: u64| CommitLine::new(format!("{n:040x}").parse().unwrap(), &format!("Change <{n}>"), "Ann");
    let added = CommitList { count: 5, list: (1..=5).map(line).collect() };
    let commits = Commits::Known { added, removed: CommitList::default() };
    let files = Some(FileCounts { added: 3, removed: 1, changed: 8 });
    let changes = Some(Changes { commits, files }.shortened());
    let done = Event::ended(&History { changes: changes.clone(), ..history(7, Some("done")) }).unwrap();
    assert!(done.data.text.ends_with("5 commits, 12 files changed"), "{}", done.data.text);
    let shown = slack::fields(&done).into_iter().find(|(label, _)| *label == "Ships").unwrap().1;
    assert_eq!(shown, "5 commits, 12 files changed: “Change <1>”, “Change <2>”, “Change <3>” and 2 more");
    let webhook = serde_json::to_value(&done).unwrap();
    assert_eq!(webhook["data"]["changes"]["commits"]["added"]["list"].as_array().unwrap().len(), 3);
    let published = Event::acted(&Action { changes, ..action(9, "publish", "master-c148bddd") }).unwrap();
    assert!(published.data.text.ends_with(": 5 commits, 12 files changed"), "{}", published.data.text);
}

#[test]
fn a_deploy_is_compared_with_the_previous_commit_unless_it_is_the_same() {
    let compare = |form, from: &str| {
        let event = Event::ended(&history(7, Some("done"))).unwrap();
        event.compared(form, &from.parse().unwrap()).data.compare
    };
    let form = Some("https://git.example.com/{app}/compare/{from}...{to}");
    let (before, own) = ("796fe89a".repeat(5), "c148bddd8eeb7cfb11ebd3353e8f112cc35d3ac4");
    assert_eq!(compare(form, &before).unwrap(), format!("https://git.example.com/shop/compare/{before}...{own}"));
    assert_eq!((compare(form, own), compare(None, &before)), (None, None));
    let published = Event::acted(&action(9, "publish", "master-c148bddd")).unwrap();
    assert_eq!(published.compared(form, &before.parse().unwrap()).data.compare, None);
}

#[test]
fn a_build_reported_by_two_groups_has_one_id() {
    let one = Event::acted(&action(9, "publish", "master-c148bddd")).unwrap();
    let mut other = action(11, "publish", "master-c148bddd");
    other.unit = "shop/staging".parse().unwrap();
    assert_eq!(one.id, Event::acted(&other).unwrap().id);
    assert_ne!(one.id, Event::acted(&action(9, "publish", "master-d168f8a7")).unwrap().id);
}

#[test]
fn the_formats_match_their_services() {
    let token = Secret::new("flow-token");
    let shown = |event: &Event| {
        json!({
            "slack": slack::body(event),
            "flowdock": flowdock::body(event, &token),
            "webhook": serde_json::to_value(event).unwrap(),
        })
    };
    let events = every_event();
    let [failed, published] = [EventKind::DeployRolledBack, EventKind::BuildPublished]
        .map(|kind| shown(events.iter().find(|event| event.kind == kind).unwrap()));
    insta::assert_snapshot!(serde_json::to_string_pretty(&json!([failed, published])).unwrap());
}

#[test]
fn every_format_has_a_complete_text_and_escapes_markup_of_users() {
    for event in every_event() {
        let slack = slack::body(&event);
        let shown = slack.to_string();
        assert!(slack["text"].as_str().is_some_and(|text| text.len() > 20), "{slack:#}");
        assert!(!shown.contains('<') && !shown.contains("> "), "{shown}");
        let flowdock = flowdock::body(&event, &Secret::new("t"));
        assert!(!flowdock.to_string().contains('<'), "{flowdock:#}");
        assert_eq!(flowdock["event"], "activity");
    }
    let threads: Vec<Value> = [Event::started(&history(7, None)), Event::ended(&history(7, Some("done")))]
        .into_iter()
        .map(|event| flowdock::body(&event.unwrap(), &Secret::new("t"))["external_thread_id"].clone())
        .collect();
    assert_eq!(threads, ["deploy:shop/production:7", "deploy:shop/production:7"], "one thread per deploy");
}

#[test]
fn no_message_is_longer_than_its_service_accepts() {
    let mut history = history(7, Some("failed"));
    history.author.reason = "<&>".repeat(1400);
    history.author.by = "&".repeat(1000);
    history.summary = Summary::new(Some(&"<".repeat(5000)), Some(&"&".repeat(5000)));
    let event = Event::ended(&history).unwrap();
    let slack = slack::body(&event);
    assert!(slack["text"].as_str().unwrap().len() <= 1900, "{slack:#}");
    let flowdock = flowdock::body(&event, &Secret::new("t"));
    assert!(flowdock["title"].as_str().unwrap().len() <= 1900, "{flowdock:#}");
    let fields = [&slack["attachments"][0]["fields"], &flowdock["thread"]["fields"]];
    for field in fields.into_iter().flat_map(|fields| fields.as_array().unwrap()) {
        let value = field["value"].as_str().unwrap();
        assert!(value.len() <= 1000 && !value.contains('<'), "{field:#}");
    }
}

#[test]
fn a_webhook_is_signed_according_to_the_specification() {
    // The example of the specification's own libraries.
    let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let at = Timestamp::from_second(1_614_265_330).unwrap();
    let signed = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_eq!(format!("{key:?}"), "***");
    let long = format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode([7; 65]));
    for wrong in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_%%%", &long] {
        assert!(Key::parse(wrong).is_none(), "{wrong:?} was taken for a key");
    }
}

/// The pending events as `kind epoch`, and the cursor after them.
fn pending_events(cursor: &ReceiverCursor, standing: &Records) -> (Vec<String>, ReceiverCursor) {
    let steps = pending(cursor, standing);
    let events = steps.iter().filter_map(|step| step.event.as_ref());
    let words = events.map(|it| format!("{} {}", it.kind.as_str(), it.data.epoch.as_deref().unwrap_or("-"))).collect();
    (words, steps.last().map_or_else(|| cursor.clone(), |step| step.cursor.clone()))
}

#[test]
fn starts_come_before_ends_and_actions_are_merged_by_time() {
    let standing = Records {
        histories: vec![history(10, Some("done")), history(20, Some("refused")), history(30, Some("aborted"))],
        actions: vec![action(5, "publish", "master-c148bddd"), action(15, "freeze", ""), action(25, "mark_bad", "x")],
        barrier: Some(epoch(30)),
        drifts: Drifts::default(),
    };
    let (words, cursor) = pending_events(&ReceiverCursor::default(), &standing);
    let expected = [
        "build.published 5",
        "deploy.started 10",
        "deploy.done 10",
        "group.frozen 15",
        "deploy.refused 20",
        "deploy.started 30",
        "deploy.aborted 30",
    ];
    assert_eq!(words, expected);
    assert_eq!(pending_events(&cursor, &standing).0, [""; 0], "no event is pending twice");
    for count in 0..expected.len() {
        // After a stop at any point, the remaining events follow: none is lost, none repeated.
        let steps = pending(&ReceiverCursor::default(), &standing);
        let mut sent = 0;
        let noted = steps.iter().take_while(|step| {
            sent += usize::from(step.event.is_some());
            sent <= count
        });
        let cursor = noted.last().map_or_else(ReceiverCursor::default, |step| step.cursor.clone());
        assert_eq!(pending_events(&cursor, &standing).0, expected[count..], "after {count}");
    }
}

#[test]
fn later_ends_wait_for_a_running_deploy_but_not_for_a_lost_end() {
    let mut standing = Records {
        histories: vec![history(10, None), history(20, Some("refused"))],
        barrier: Some(epoch(10)),
        ..Records::default()
    };
    let (words, cursor) = pending_events(&ReceiverCursor::default(), &standing);
    assert_eq!(words, ["deploy.started 10"]);
    assert_eq!(cursor.ended, None);
    standing.histories[0] = history(10, Some("done"));
    assert_eq!(pending_events(&cursor, &standing).0, ["deploy.done 10", "deploy.refused 20"]);
    // Started after the barrier was read: its end is still to come.
    standing.histories = vec![history(30, None), history(40, Some("refused"))];
    assert_eq!(pending_events(&cursor, &standing).0, ["deploy.started 30"]);
    // The barrier has moved past it.
    standing.barrier = Some(epoch(40));
    assert_eq!(pending_events(&cursor, &standing).0, ["deploy.started 30", "deploy.refused 40"]);
}

#[test]
fn a_new_receiver_gets_no_past_events_but_the_end_of_a_running_deploy() {
    let all = [epoch(10), epoch(20)];
    let standing = |outcome| Records {
        histories: vec![history(10, Some("done")), history(20, outcome)],
        barrier: Some(epoch(20)),
        ..Records::default()
    };
    let rest = initial_cursor(&all, &[epoch(5)], None);
    assert_eq!(pending_events(&rest, &standing(Some("done"))).0, [""; 0]);
    let running = initial_cursor(&all, &[epoch(5)], Some(epoch(20)));
    assert_eq!((running.action, running.ended), (Some(epoch(5)), Some(epoch(10))));
    assert_eq!(pending_events(&running, &standing(Some("reverted"))).0, ["deploy.rolled_back 20"]);
    assert_eq!(initial_cursor(&[], &[], None), ReceiverCursor::default());
}

#[test]
fn drift_is_sent_once_while_it_lasts_and_again_when_it_returns() {
    let (unit, node) = ("shop/production".parse().unwrap(), "n3".parse().unwrap());
    let drift = |committed, what: &str| {
        let event = Event::drift(&unit, &node, Some(epoch(committed)), what, Timestamp::UNIX_EPOCH);
        let lasted = BTreeMap::from([("n3".to_owned(), event)]);
        Records { drifts: Drifts { lasted, undecided: Some(BTreeSet::new()) }, ..Records::default() }
    };
    let quiet = |undecided: Option<&[&str]>| {
        let undecided = undecided.map(|nodes| nodes.iter().map(|node| (*node).to_owned()).collect());
        Records { drifts: Drifts { lasted: BTreeMap::new(), undecided }, ..Records::default() }
    };
    let (words, cursor) = pending_events(&ReceiverCursor::default(), &drift(7, "current points to /x"));
    assert_eq!(words, ["node.drift 7"]);
    assert_eq!(pending_events(&cursor, &drift(7, "current points to /x")).0, [""; 0]);
    assert_eq!(pending_events(&cursor, &drift(9, "current points to /x")).0, [""; 0], "it outlasted a deploy");
    assert_eq!(pending_events(&cursor, &drift(9, "current points to /y")).0, ["node.drift 9"], "the drift has changed");
    // A new coordinator has not checked the nodes yet, or not for long enough; or the node is away.
    for undecided in [None, Some(&["n3"][..])] {
        assert_eq!(pending(&cursor, &quiet(undecided)), [], "{undecided:?}");
    }
    let (words, repaired) = pending_events(&cursor, &quiet(Some(&["n1"])));
    assert_eq!((words.len(), repaired.troubles.len()), (0, 0));
    assert_eq!(pending_events(&repaired, &drift(7, "current points to /x")).0, ["node.drift 7"]);
}

#[test]
fn a_receiver_gets_only_its_configured_events_and_groups() {
    let settings: crate::config::NotifySettings = crate::config::NotifySettings {
        kind: crate::config::NotifyKind::Slack,
        url_file: "/url".into(),
        secret_file: None,
        token_file: None,
        events: Some([EventKind::DeployDone].into()),
        units: serde_json::from_value(json!(["blog/*", "shop/prod*"])).unwrap(),
    };
    let receiver = Receiver::new("ops".to_owned(), settings);
    let done = Event::ended(&history(7, Some("done"))).unwrap();
    assert!(receiver.wants(&done));
    assert!(!receiver.wants(&Event::started(&history(7, None)).unwrap()));
    let mut elsewhere = history(7, Some("done"));
    elsewhere.unit = "shop/staging".parse().unwrap();
    assert!(!receiver.wants(&Event::ended(&elsewhere).unwrap()));
}
